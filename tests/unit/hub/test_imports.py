"""The hub is a process of its own, which holds no framework in its memory."""

from __future__ import annotations

import subprocess
import sys

LIST = "import sys, sidearm.hub.__main__; print(*sys.modules)"


def test_the_hubs_process_imports_no_framework() -> None:
    """Neither Flask nor what belongs to it, although the hub is found inside of this package."""
    done = subprocess.run(
        [sys.executable, "-c", LIST], capture_output=True, text=True, timeout=60, check=True
    )
    packages = {name.partition(".")[0] for name in done.stdout.split()}
    assert "msgspec" in packages
    assert not packages & {"flask", "werkzeug", "jinja2", "click", "blinker", "sqlalchemy"}
