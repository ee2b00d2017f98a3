"""An application without resources, whose settings come from the environment."""

from __future__ import annotations

import os

from flask import Flask

from sidearm import Sidearm

app = Flask(__name__)
app.config.from_prefixed_env()
Sidearm(app)

if "OWN_RULE" in os.environ:

    @app.get("/-/ready")
    def ready() -> str:
        return "the application's own"
