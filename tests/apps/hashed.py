"""Static files with hashed URLs, under ``/shop``; the folder is the environment's ASSETS_ROOT."""

from __future__ import annotations

import os

from flask import Flask, render_template_string
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from sidearm import Sidearm

ROOT = os.environ["ASSETS_ROOT"]
PAGE = """<!doctype html>
<title>hashed</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{{ url_for('static', filename='css/app.css') }}"
  integrity="{{ integrity_for('static', filename='css/app.css') }}">
{{ import_map({"app": "js/app.js"}) }}
<body><p id="box">box</p>
<script type="module">import { run } from "app"; run();</script>
"""

app = Flask("hashed", root_path=ROOT, instance_path=f"{ROOT}/instance")
app.config["SIDEARM_ASSETS"] = True
Sidearm(app)


@app.get("/")
def index() -> str:
    """A page with a stylesheet and modules."""
    return render_template_string(PAGE)


@app.get("/pid/<path:filename>")
def pid(filename: str) -> str:
    """Which process this is, and the URL that it gives."""
    return render_template_string(
        "{{ pid }} {{ url_for('static', filename=filename) }}", pid=os.getpid(), filename=filename
    )


application = DispatcherMiddleware(Flask("outer"), {"/shop": app})
