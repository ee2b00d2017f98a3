"""Why a token or a signed URL was refused; each is also the HTTP answer that fits.

They stand here and not with the others because they are Werkzeug's too, and the hub, which reads
those, knows no framework.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from werkzeug.exceptions import Forbidden, Gone, NotFound

from ..exceptions import SidearmError


class TokenError(SidearmError):
    """A token was refused.

    Attributes:
        purpose: The kind of token that was asked for.
        reason: Why, in a few words for the log.
        payload: What the token carries. Of a :class:`BadToken` the bytes as they came, if there
            are any, which nobody has signed; of the others what was signed, which may be shown
            ("your link for ...") and must not be acted on.
        date_signed: When it says that it was signed.
    """

    def __init__(
        self,
        purpose: str,
        reason: str,
        *,
        payload: Any = None,
        date_signed: datetime | None = None,
    ) -> None:
        self.purpose = purpose
        self.reason = reason
        self.payload = payload
        self.date_signed = date_signed
        # What a page shows is the HTTP class's own text: the reason is for the log.
        super().__init__()

    def __str__(self) -> str:
        return f"A token for {self.purpose!r} was refused: {self.reason}."


class BadToken(TokenError, NotFound):
    """It was not signed here for this purpose, or not as it is now: 404."""


class ExpiredToken(TokenError, Gone):
    """It is too old, or was signed by a clock that is ahead of this one: 410.

    Attributes:
        date_expired: When it ended.
    """

    date_expired: datetime | None = None

    description = "This link has expired. Ask for a new one."


class SpentToken(TokenError, Gone):
    """It may be used once, and was: 410."""

    description = "This link has been used already."


class StaleToken(TokenError, Gone):
    """What it is bound to has changed since it was signed: 410."""

    description = "This link is out of date. Ask for a new one."


class BadSignedURL(SidearmError, Forbidden):
    """A URL is not as it was signed, or was not signed at all: 403.

    Attributes:
        endpoint: What was asked for.
        reason: Why, in a few words for the log.
    """

    description = "This link is incomplete, or has been changed."

    def __init__(self, endpoint: str | None, reason: str) -> None:
        self.endpoint = endpoint
        self.reason = reason
        super().__init__()

    def __str__(self) -> str:
        return f"A URL for the endpoint {self.endpoint!r} was refused: {self.reason}."


class ExpiredSignedURL(SidearmError, Gone):
    """A signed URL is too old: 410.

    Attributes:
        endpoint: What was asked for.
        date_expired: When it ended.
    """

    description = "This link has expired. Ask for a new one."

    def __init__(self, endpoint: str | None, date_expired: datetime) -> None:
        self.endpoint = endpoint
        self.date_expired = date_expired
        super().__init__()

    def __str__(self) -> str:
        return f"A signed URL for the endpoint {self.endpoint!r} expired at {self.date_expired}."
