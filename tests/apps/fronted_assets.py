"""An application with hashed static files behind a front; FRONTED_FOLDER is its folder."""

from __future__ import annotations

import os
from pathlib import Path

from flask import Blueprint, Flask, render_template_string, request, url_for
from werkzeug.middleware.proxy_fix import ProxyFix

from sidearm import EventStream, Sidearm, event_stream, publish

FOLDER = Path(os.environ["FRONTED_FOLDER"])

app = Flask(
    __name__,
    root_path=str(FOLDER),
    instance_path=str(FOLDER / "instance"),
    static_url_path=os.environ.get("FRONTED_STATIC_URL"),
)
app.config.from_prefixed_env()
app.config.update(
    SIDEARM_ASSETS=True,
    SIDEARM_ASSETS_TYPES={".shop": "application/x-shop", "robots.txt": "text/x-robots"},
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


@app.get("/urls")
def urls() -> dict[str, str]:
    """The URL of each static file."""
    return {
        f"{endpoint}:{name}": url_for(endpoint, filename=name)
        for endpoint, folder in (("static", "static"), ("admin.static", "admin"))
        for name in sorted(
            str(path.relative_to(FOLDER / folder))
            for path in (FOLDER / folder).rglob("*")
            if path.is_file() and "/." not in str(path.relative_to(FOLDER))
        )
    }


@app.get("/streams/news")
def stream() -> EventStream:
    return event_stream("news")


PAGE = """<!doctype html>
<title>news</title>
<link rel="icon" href="data:,">
{{ import_map({"sidearm": cdn ~ sidearm_js_url() if cdn else sidearm_js_url()}) }}
<script type="module">
  import { subscribe } from "sidearm";
  window.seen = [];
  subscribe("{{ url_for('stream', last_event_id=stream_position()) }}", {
    message: (event) => seen.push(event.data),
  });
</script>"""


@app.get("/page")
def page() -> str:
    """A page that follows the stream, by the module from here or from another host."""
    return render_template_string(PAGE, cdn=request.args.get("cdn", ""))


@app.post("/publish")
def publishing() -> str:
    publish("news", request.get_data(as_text=True))
    return "published"


@app.errorhandler(404)
def not_found(error: Exception) -> tuple[str, int]:
    return "the application's own page", 404
