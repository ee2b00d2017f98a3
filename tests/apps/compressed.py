"""A stream in an application that compresses what it answers, in the way that COMPRESSED names."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from flask import Flask
from flask_compress import Compress

from sidearm import EventStream, Sidearm, event_stream, publish

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Gzip:
    """A middleware that compresses everything, piece by piece."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            kept = [pair for pair in headers if pair[0].lower() != "content-length"]
            return start_response(status, [*kept, ("Content-Encoding", "gzip")], *rest)

        return self._compressed(self._app(environ, start))

    def _compressed(self, body: Iterable[bytes]) -> Iterator[bytes]:
        gzip = zlib.compressobj(wbits=31)
        try:
            for piece in body:
                yield gzip.compress(piece) + gzip.flush(zlib.Z_SYNC_FLUSH)
            yield gzip.flush()
        finally:
            getattr(body, "close", lambda: None)()


app = Flask(__name__)
Sidearm(app)
COMPRESSED = os.environ["COMPRESSED"]
if COMPRESSED == "Flask-Compress, and streams on its list":
    app.config["COMPRESS_MIMETYPES"] = ["text/html", "text/event-stream"]
if COMPRESSED == "a middleware":
    app.wsgi_app = Gzip(app.wsgi_app)  # type: ignore[method-assign]
else:
    Compress(app)


@app.get("/streams/stock")
def stock() -> EventStream:
    return event_stream("stock")


@app.post("/publish")
def publishing() -> str:
    publish("stock", "small")
    return "published"
