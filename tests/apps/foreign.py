"""Streams for the pages of other origins, and what their browsers have sent."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, Response, abort, make_response, render_template_string, request

from sidearm import EventStream, Sidearm, event_stream, publish

app = Flask(__name__)
app.config.update(
    SIDEARM_STREAM_ORIGINS=os.environ.get("FOREIGN_ORIGINS", "").split(),
    SIDEARM_RETRY=0.05,
    SIDEARM_RETRY_SPREAD=0.05,
)
Sidearm(app)

PAGE = """<!doctype html>
<title>foreign</title>
<link rel="icon" href="data:,">
{{ import_map({"sidearm": sidearm_js_url()}) }}
<script type="module">
  import { subscribe } from "sidearm";
  window.seen = [];
  window.states = [];
  const see = (event) => seen.push(event.data);
  window.listen = (url, options) => {
    window.opened = 0;
    window.source = new EventSource(url, options);
    source.onopen = () => window.opened++;
    source.onmessage = see;
    source.addEventListener("snapshot", see);
  };
  window.follow = (url) => {
    window.subscription = subscribe(url, {
      message: see,
      snapshot: see,
      "sidearm:status": ({ state, status }) => states.push(`${state} ${status}`),
    });
  };
</script>"""

#: Of each request for a stream: method, Sec-Fetch-Site, Origin, whether it has an id and a cookie.
asked: list[list[Any]] = []
#: The channels of the views that ran.
ran: list[str] = []


@app.url_value_preprocessor
def note(endpoint: str | None, values: dict[str, Any] | None) -> None:
    """Runs before whatever may answer in the view's place."""
    if request.path.startswith("/streams/"):
        head = request.headers
        asked.append(
            [
                request.method,
                head.get("Sec-Fetch-Site"),
                head.get("Origin"),
                "Last-Event-ID" in head,
                "member" in request.cookies,
            ]
        )


@app.get("/")
def page() -> Response:
    answer = make_response(render_template_string(PAGE))
    # What a site has to say of a cookie that pages of others may send.
    answer.set_cookie("member", "yes", samesite="None", secure=True)
    return answer


@app.get("/streams/<channel>")
def stream(channel: str) -> EventStream:
    ran.append(channel)
    return event_stream(channel, snapshot="all", max_age=request.args.get("max_age", type=float))


@app.get("/streams/for-members/<channel>")
def members(channel: str) -> EventStream:
    abort(401, f"Log in to hear {channel}.")


@app.get("/streams/undeclared/<channel>")
def undeclared(channel: str) -> Any:
    ran.append(channel)
    return event_stream(channel)


@app.post("/publish/<channel>/<text>")
def publishing(channel: str, text: str) -> str:
    publish(channel, text, end="end" in request.args)
    return "published"


@app.get("/asked")
def what_was_asked() -> dict[str, Any]:
    """All of it, once."""
    answer = {"asked": list(asked), "ran": list(ran)}
    asked.clear()
    ran.clear()
    return answer
