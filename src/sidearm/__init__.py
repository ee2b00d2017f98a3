"""Sidearm: the production half of a Flask application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .assets import import_map as import_map
    from .assets import integrity_for as integrity_for
    from .bodies import Delivery as Delivery
    from .bodies import raw_body as raw_body
    from .bodies import verify_webhook as verify_webhook
    from .events import EventStream as EventStream
    from .events import close_streams as close_streams
    from .events import close_streams_now as close_streams_now
    from .events import event_stream as event_stream
    from .events import publish as publish
    from .events import publish_now as publish_now
    from .events import stream_position as stream_position
    from .exceptions import BodyNotParsed as BodyNotParsed
    from .exceptions import EventTooLarge as EventTooLarge
    from .exceptions import InvalidChannel as InvalidChannel
    from .exceptions import InvalidField as InvalidField
    from .exceptions import NoRepresentation as NoRepresentation
    from .exceptions import OutsideTask as OutsideTask
    from .exceptions import RedirectLoop as RedirectLoop
    from .exceptions import SettingError as SettingError
    from .exceptions import SidearmError as SidearmError
    from .exceptions import TaskSettled as TaskSettled
    from .exceptions import UnsafeRedirect as UnsafeRedirect
    from .extension import Sidearm as Sidearm
    from .page import sidearm_js_url as sidearm_js_url
    from .redirects import is_different_url as is_different_url
    from .redirects import is_safe_url as is_safe_url
    from .redirects import redirect_back as redirect_back
    from .redirects import redirect_target as redirect_target
    from .signing import external_url_for as external_url_for
    from .signing import signed_url_for as signed_url_for
    from .signing import signed_url_required as signed_url_required
    from .tasks import after_commit as after_commit
    from .tasks import after_response as after_response
    from .tasks import after_rollback as after_rollback
    from .tasks import commit_on as commit_on
    from .tasks import current_task as current_task

# The hub is a process without Flask, and is found inside this package: what it would import here
# and never use is half of its memory. So names are loaded when they are used.
_HOMES = {
    "BodyNotParsed": "exceptions",
    "Delivery": "bodies",
    "EventStream": "events",
    "EventTooLarge": "exceptions",
    "InvalidChannel": "exceptions",
    "InvalidField": "exceptions",
    "NoRepresentation": "exceptions",
    "OutsideTask": "exceptions",
    "RedirectLoop": "exceptions",
    "SettingError": "exceptions",
    "Sidearm": "extension",
    "SidearmError": "exceptions",
    "TaskSettled": "exceptions",
    "UnsafeRedirect": "exceptions",
    "after_commit": "tasks",
    "after_response": "tasks",
    "after_rollback": "tasks",
    "close_streams": "events",
    "close_streams_now": "events",
    "commit_on": "tasks",
    "current_task": "tasks",
    "event_stream": "events",
    "import_map": "assets",
    "integrity_for": "assets",
    "is_different_url": "redirects",
    "is_safe_url": "redirects",
    "publish": "events",
    "publish_now": "events",
    "raw_body": "bodies",
    "redirect_back": "redirects",
    "redirect_target": "redirects",
    "external_url_for": "signing",
    "sidearm_js_url": "page",
    "signed_url_for": "signing",
    "signed_url_required": "signing",
    "stream_position": "events",
    "verify_webhook": "bodies",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
