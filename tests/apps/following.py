"""A page whose script follows streams, and views that answer a browser in every way."""

from __future__ import annotations

from flask import Flask, Response, render_template_string, request

from sidearm import EventStream, Sidearm, event_stream, publish

app = Flask(__name__)
app.config.update(SIDEARM_RETRY=0.05, SIDEARM_RETRY_SPREAD=0.05)
Sidearm(app)

PAGE = """<!doctype html>
<title>following</title>
<link rel="icon" href="data:,">
<body data-position="{{ stream_position() }}">
<script>
  function follow(url) {
    window.seen = [];
    window.opened = window.failed = 0;
    window.source = new EventSource(url);
    source.onopen = () => window.opened++;
    source.onerror = () => window.failed++;
    source.onmessage = (event) => seen.push(event.data);
    source.addEventListener("sidearm:gap", (event) => {
      seen.push("gap: " + JSON.parse(event.data).reason);
    });
  }
  function followFromHere(channel) {
    follow(`/streams/${channel}?last_event_id=${document.body.dataset.position}`);
  }
</script>"""


@app.get("/")
def page() -> str:
    return render_template_string(PAGE)


@app.get("/streams/<channel>")
def stream(channel: str) -> EventStream:
    return event_stream(channel, max_age=request.args.get("max_age", type=float))


@app.post("/publish/<channel>")
def publishing(channel: str) -> str:
    for text in request.get_json():
        publish(channel, text)
    return "published"


@app.get("/answers/<int:status>")
def answer(status: int) -> Response:
    """Answer with a status and nothing else, in the type that is asked for."""
    return Response("", status, mimetype=request.args.get("type", "text/event-stream"))
