"""A page that follows streams by ``sidearm.js``, as many tabs of a browser do."""

from __future__ import annotations

import os

from flask import Flask, Response, make_response, render_template_string, request

from sidearm import EventStream, Sidearm, event_stream, publish, stream_position

app = Flask(__name__)
app.config.update(
    SIDEARM_RETRY=0.2,
    SIDEARM_RETRY_SPREAD=0.1,
    SIDEARM_HEARTBEAT=float(os.environ.get("TABS_HEARTBEAT", "15")),
)
Sidearm(app)

PAGE = """<!doctype html>
<title>tabs</title>
<link rel="icon" href="data:,">
{{ import_map({"sidearm": sidearm_js_url()}) }}
<body data-position="{{ stream_position() }}">
<script type="module">
  import { createParser, subscribe } from "sidearm";
  window.createParser = createParser;
  window.seen = [];
  window.states = [];
  window.waits = [];
  window.errors = [];
  addEventListener("error", (event) => errors.push(event.message));
  addEventListener("unhandledrejection", (event) => errors.push(`${event.reason}`));
  const see = (event) => seen.push(event.data);
  window.follow = (url, more) => {
    window.subscription = subscribe(url, {
      message: see,
      done: see,
      snapshot: (event) => seen.push("snapshot: " + event.data),
      "sidearm:gap": (event) => seen.push("gap: " + JSON.parse(event.data).reason),
      "sidearm:status": ({ state, status, wait }) => {
        states.push(`${state} ${status}`);
        waits.push(wait);
      },
      ...more,
    });
  };
  window.followFromHere = (path) => {
    const url = new URL(path, location);
    url.searchParams.set("last_event_id", document.body.dataset.position);
    follow(url);
  };
</script>"""


@app.get("/")
def page() -> str:
    return render_template_string(PAGE)


@app.get("/worker")
def worker() -> list[str]:
    """Which worker this is, and where its log is."""
    return [str(os.getpid()), stream_position()]


@app.get("/empty")
def empty() -> str:
    return "<!doctype html><title>empty</title><link rel=icon href=data:,>"


@app.get("/streams/<channel>")
def stream(channel: str) -> EventStream:
    return event_stream(channel, max_age=request.args.get("max_age", type=float))


@app.get("/members/<channel>")
def members(channel: str) -> EventStream | Response:
    """A stream for those who are logged in."""
    if "member" not in request.cookies:
        return Response("Log in.", 401)
    return event_stream(channel, max_age=request.args.get("max_age", type=float))


@app.get("/busy")
def busy() -> Response:
    """Say when to come back: in seconds, or as a date."""
    return Response("Busy.", 503, {"Retry-After": request.args["after"]})


@app.get("/answers/<int:status>")
def answer(status: int) -> Response:
    return Response("", status, mimetype="text/event-stream")


@app.get("/snapshots/<channel>")
def snapshots(channel: str) -> EventStream:
    return event_stream(channel, snapshot="the state")


@app.get("/replays/<channel>")
def replays(channel: str) -> EventStream:
    return event_stream(channel, snapshot="the state", replay=600)


@app.post("/publish/<channel>")
def publishing(channel: str) -> str:
    keep, end = request.args.get("keep") != "no", "end" in request.args
    for text in request.get_json():
        publish(channel, text, keep=keep, end=end)
    return "published"


@app.post("/<any('log-in', 'log-out'):what>")
def session(what: str) -> Response:
    response = make_response(what)
    if what == "log-in":
        response.set_cookie("member", "yes")
    else:
        response.delete_cookie("member")
    return response
