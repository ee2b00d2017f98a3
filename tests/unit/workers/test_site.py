"""What is said about a deployment, and what is found out before it starts."""

from __future__ import annotations

import importlib.util
import socket
from typing import Any

import pytest

from sidearm.exceptions import StartError
from sidearm.workers.site import check_platform, describe_workers


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (
            {"workers": 2, "worker_class": "sync", "threads": 1},
            "2 workers (gunicorn, sync, blocking)",
        ),
        (
            {"workers": 1, "worker_class": "sync", "threads": 1},
            "1 worker (gunicorn, sync, blocking)",
        ),
        (
            {"workers": 2, "worker_class": "gthread", "threads": 4},
            "2 workers (gunicorn, gthread, 4 threads each, blocking)",
        ),
        ({"workers": 2, "worker_class": "gevent", "threads": 1}, "2 workers (gunicorn, gevent)"),
    ],
)
def test_workers_in_words(facts: dict[str, Any], words: str) -> None:
    """Number, kind, threads where there are several, and whether they block."""
    assert describe_workers(facts) == words


def test_a_platform_without_unix_sockets_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows gets a message that says what to use there."""
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(StartError, match="Use 'flask run'"):
        check_platform()


def test_a_missing_gunicorn_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gunicorn the message says how to install it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StartError, match="pip install gunicorn"):
        check_platform()
