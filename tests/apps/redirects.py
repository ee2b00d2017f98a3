"""Sends browsers back: ``/account/login?next=...`` by redirect_back(), or as ``by`` says."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, request
from werkzeug.datastructures import Headers

from sidearm import Sidearm, is_different_url, is_safe_url, redirect_back

FALLBACK = "/fallback"


class Raw(Response):
    """A response whose ``Location`` leaves as it was given."""

    def get_wsgi_headers(self, environ: Any) -> Headers:
        return Headers(self.headers)


app = Flask(__name__)
app.config["SIDEARM_CHECK_REDIRECTS"] = "raise"
Sidearm(app)


@app.get("/account/login")
def login() -> Any:
    """Go where is asked for, by the target's own bytes with ``by=raw``."""
    target = request.args.get("next")
    if target is None:
        return "arrived"
    if request.args.get("by") == "raw" and is_safe_url(target) and is_different_url(target):
        return Raw(status=302, headers={"Location": target.encode().decode("latin-1")})
    return redirect_back(FALLBACK)


@app.get("/")
@app.get("/<path:path>")
def arrive(path: str = "") -> str:
    """Be where a browser ends up."""
    return f"arrived at {path!r}"
