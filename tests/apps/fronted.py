"""An application behind a front, which it believes; FRONTED_FOLDER has its static files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, render_template_string, request, url_for
from flask.views import MethodView
from werkzeug.middleware.proxy_fix import ProxyFix

from sidearm import EventStream, Sidearm, event_stream, publish, raw_body

FOLDER = Path(os.environ["FRONTED_FOLDER"])
KIB = 1 << 10  # bytes

app = Flask(__name__, static_folder=str(FOLDER / "static"))
app.config.update(
    MAX_CONTENT_LENGTH=64 * KIB,
    SIDEARM_MAX_STREAMS_PER_ADDRESS=5,
    SIDEARM_LIMIT_LOOPBACK=True,  # all of a test's clients are on this machine
)
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1, x_prefix=1)  # type: ignore[method-assign]
Sidearm(app)

admin = Blueprint(
    "admin",
    __name__,
    url_prefix="/admin",
    static_folder=str(FOLDER / "admin"),
    static_url_path="/files",
)
app.register_blueprint(admin)


@app.get("/streams/<channel>")
def stream(channel: str) -> EventStream:
    return event_stream(channel)


@app.get("/unsaid/<int:number>")
def unsaid(number):  # noqa: ANN001, ANN201 (so that only a worker finds out)
    return event_stream(f"unsaid-{number}")


@app.post("/publish/<channel>")
def publishing(channel: str) -> str:
    publish(channel, request.get_data(as_text=True))
    return "published"


@app.post("/form")
def form() -> str:
    return str(len(request.form["text"]))


class Raw(MethodView):
    @raw_body(max_content_length=256 * KIB)
    def post(self) -> str:
        return str(len(request.get_data()))


app.add_url_rule("/raw", view_func=Raw.as_view("raw"))


@app.errorhandler(413)
def too_large(error: Exception) -> tuple[str, int]:
    return "the application's own page", 413


@app.get("/seen")
def seen() -> dict[str, str]:
    """What the application sees of the browser."""
    return {
        "address": request.remote_addr or "",
        "root": request.url_root,
        "static": url_for("static", filename="site.css"),
        "admin": url_for("admin.static", filename="admin.css"),
    }


@app.get("/static/generated.css")
def generated() -> Any:
    """A file that is on no disk, as those are whose names carry a hash."""
    response = app.response_class(render_template_string("b {}"), mimetype="text/css")
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    return response
