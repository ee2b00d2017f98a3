"""Views that read their bodies themselves, with different limits."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from flask import Flask, request

from sidearm import Sidearm, raw_body

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 16 << 20
Sidearm(app)


@app.errorhandler(413)
def too_large(error: Any) -> tuple[str, int]:
    """The application's own page."""
    return f"ours: {error.description}", 413


@app.post("/count")
@raw_body(max_content_length=4 << 30)
def count() -> dict[str, Any]:
    """Read all in pieces; tells how many bytes there were, and their digest."""
    size, digest = 0, hashlib.blake2b()
    while piece := request.stream.read(64 * 1024):
        size += len(piece)
        digest.update(piece)
    return {"size": size, "digest": digest.hexdigest(), "pid": os.getpid()}


@app.post("/size")
@raw_body(max_content_length=4 << 30)
def size() -> str:
    """Read all in pieces, and only count."""
    total = 0
    while piece := request.stream.read(64 * 1024):
        total += len(piece)
    return str(total)


@app.post("/small")
@raw_body(max_content_length=64 << 10)
def small() -> str:
    """The same, up to 64 KiB."""
    size = 0
    while piece := request.stream.read(16 * 1024):
        size += len(piece)
    return str(size)


@app.post("/unread")
@raw_body(max_content_length=1 << 30)
def unread() -> tuple[str, int]:
    """Refuse without a look."""
    return "not you", 403


@app.post("/form")
def form() -> str:
    """An ordinary form."""
    return str(len(request.form["a"]))


@app.get("/memory")
def memory() -> dict[str, int]:
    """The peak of this process's resident memory since the last call, in bytes (proc(5))."""
    status = Path("/proc/self/status").read_text("ascii")
    Path("/proc/self/clear_refs").write_text("5", "ascii")
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return {"peak": int(peak) * 1024, "pid": os.getpid()}
