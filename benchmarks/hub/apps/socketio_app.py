"""Flask-SocketIO's application."""

from __future__ import annotations

from flask import Flask, request
from flask_socketio import SocketIO


def make_app(async_mode: str) -> Flask:
    """Make it for gevent or threads; without heartbeats, like all others here."""
    app = Flask(__name__)
    socketio = SocketIO(app, async_mode=async_mode, ping_interval=3600)

    @app.post("/publish")
    def publish_events() -> str:
        data = request.get_json()
        for _ in range(int(request.args["n"])):
            socketio.emit("sold", data)
        return ""

    return app
