"""Serves an application with eventlet's own server: ``eventlet_server.py MODULE:NAME PORT``."""

from __future__ import annotations

import importlib
import sys
import warnings


def main(app: str, port: int) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # eventlet speaks of its own end
    import eventlet

    eventlet.monkey_patch()
    from eventlet import wsgi

    module, _, name = app.partition(":")
    found = getattr(importlib.import_module(module), name.removesuffix("()"))
    made = found() if name.endswith("()") else found
    wsgi.server(eventlet.listen(("127.0.0.1", port)), made, log_output=False)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
