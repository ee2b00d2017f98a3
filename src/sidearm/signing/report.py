"""What ``flask sidearm keys`` prints: the keys, and how long each is needed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from flask import Flask
from flask.sessions import SecureCookieSessionInterface

from ..tasks.state import state_of
from .keys import fingerprint, keys_of
from .tokens import TokenKind


def key_report(app: Flask) -> Iterator[str]:
    """The lines of the report.

    A key that signs no more is needed for as long as what it signed last counts.

    Args:
        app: The application.

    Raises:
        SecretKeyError: There is no key, or one is too short.
    """
    keys = keys_of(app, "flask sidearm keys")
    yield "Keys, by fingerprint"
    for number, key in enumerate(keys):
        name = f"SECRET_KEY_FALLBACKS[{number - 1}]" if number else "SECRET_KEY"
        yield f"  {fingerprint(key)}  {'verifies only' if number else 'signs':<15}{name}"
    needs = dict(_needs(app))
    width = max(map(len, needs)) + 2
    yield ""
    yield "A key has to stay, after it has signed for the last time,"
    for purpose, age in needs.items():
        yield f"  for {purpose:<{width}}{in_words(age)}"
    yield f"  for all of it: {in_words(max(needs.values()))}"


def _needs(app: Flask) -> Iterator[tuple[str, float]]:
    state = state_of(app)
    kinds: dict[str, TokenKind[object]] = state.arm.token_kinds
    for purpose, kind in sorted(kinds.items()):
        yield purpose, kind.max_age
    yield "signed URLs", state.settings.signed_url_max_age
    if isinstance(app.session_interface, SecureCookieSessionInterface):
        yield "session cookies", app.permanent_session_lifetime.total_seconds()


def in_words(seconds: float) -> str:
    """A time in days, hours, minutes and seconds; what is nought is left out."""
    whole = timedelta(seconds=round(seconds))
    hours, rest = divmod(whole.seconds, 3600)
    parts = zip(
        (whole.days, hours, rest // 60, rest % 60),
        ("day", "hour", "minute", "second"),
        strict=True,
    )
    return " ".join(f"{count} {unit}{'' if count == 1 else 's'}" for count, unit in parts if count)
