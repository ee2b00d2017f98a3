"""Token kinds: declared once, then used as functions, in URLs, and on confirmation pages.

A token is the base64 of its head and payload, a full stop, and the signature. The head is binary:

    1 byte   4 for the layout, 2 if bound to a state, 1 if for one use
    4 bytes  when it was signed, in seconds since 1970 (to 2106)
    4 bytes  its maximum age in seconds
    9 bytes  its identifier, if it is for one use: random
    8 bytes  a keyed digest of the state, if it is bound to one

and what follows is MessagePack. A token for one use that carries a number of 64 bits has 59
characters. The maximum age is the token's own: a kind whose age is raised later revives none, so
the row of a spent token can go when the token's own age is over.
"""

from __future__ import annotations

import hmac
import logging
import math
import re
import secrets
import struct
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
from flask import Flask
from itsdangerous.encoding import base64_decode, base64_encode

from .. import spent
from ..exceptions import shorten
from ..tasks.state import the_app
from .confirmation import Confirmation, spending
from .converter import SignedText
from .exceptions import BadToken, ExpiredToken, SpentToken, StaleToken, TokenError
from .keys import signers_for

if TYPE_CHECKING:
    from itsdangerous import Signer

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

logger = logging.getLogger("sidearm.signing")

#: A clock of another machine may be ahead of ours by so much.
CLOCK_SKEW = 5  # seconds

_LAYOUT, _STATE, _ONCE = 4, 2, 1
_HEAD = struct.Struct(">BII")
_ID_SIZE = 9  # bytes
_STATE_SIZE = 8  # bytes
_MAX_TIME = 2**32 - 1  # seconds: what four bytes hold
_PURPOSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,79}")


@dataclass(frozen=True, slots=True)
class Token(Generic[T]):
    """What a token says that was signed here, and has not expired.

    Attributes:
        purpose: Its kind.
        payload: What was signed.
        date_signed: When.
        date_expires: Until when it counts.
        max_age: Its own maximum age in seconds; its kind may allow less by now.
        id: By what it is told apart from others, if it is for one use.
    """

    purpose: str
    payload: T
    date_signed: datetime
    date_expires: datetime
    max_age: int
    id: str | None = None


class TokenKind(Generic[T]):
    """A kind of token, made by :meth:`sidearm.Sidearm.token`.

    Attributes:
        purpose: Its name, which no other kind has, and part of its keys.
        type: What it carries.
        max_age: Seconds.
        single_use: Whether a token of this kind acts once.
    """

    def __init__(
        self,
        purpose: str,
        type_: type[T],
        *,
        max_age: float | timedelta,
        single_use: bool | Any,
        state: Callable[[T], Any] | None,
        resources: list[Any],
        apps: weakref.WeakSet[Flask],
    ) -> None:
        if not isinstance(purpose, str) or not _PURPOSE.fullmatch(purpose):  # type: ignore[redundant-expr]
            raise ValueError(
                f"The purpose of a token is {purpose!r}. Give a short name of letters, digits,"
                " '_', '.', ':' and '-', such as 'activate'."
            )
        if state is not None and not callable(state):
            raise TypeError(
                f"The state of {purpose!r} is {state!r}. Give a function of the payload that"
                " returns what the token is bound to, such as the user's password hash."
            )
        self.purpose = purpose
        self.type = type_
        self.max_age = math.ceil(seconds(max_age, f"The max_age of {purpose!r}"))
        self.single_use = single_use is not False
        #: Whether there is a page that asks before a token of this kind acts.
        self.asks = False
        self._state = state
        self._apps = apps
        self._salt = f"sidearm.token.{purpose}"
        self._encoder = msgspec.msgpack.Encoder(uuid_format="bytes")
        try:
            self._decoder = msgspec.msgpack.Decoder(type_)
        except TypeError as error:
            raise TypeError(
                f"Tokens for {purpose!r} cannot carry {type_!r}: {error}. Give a type that msgspec"
                " reads back, such as int, str, uuid.UUID, datetime.date or a dataclass."
            ) from error
        chosen = None if isinstance(single_use, bool) else single_use
        self._spent = spent.SpentTokens(purpose, chosen, resources) if self.single_use else None

    def __repr__(self) -> str:
        return f"<TokenKind {self.purpose!r}>"

    def sign(self, payload: T, *, max_age: float | timedelta | None = None) -> str:
        """Sign a payload.

        Args:
            payload: What the token carries; who has it can read it.
            max_age: Seconds, or a ``timedelta``, if this one ends sooner than its kind.

        Returns:
            A text of letters, digits, ``-``, ``_`` and one full stop.

        Raises:
            TypeError: The payload is not of the kind's type.
            ValueError: ``max_age`` is longer than the kind's, or there is no state to bind to.
            SecretKeyError: ``SECRET_KEY`` is missing, or too short.
            NoSpentTokens: The token is for one use, and no resource can keep that.
        """
        app = self.app()
        signer = signers_for(app, self._salt, repr(self))[0]
        age = self.max_age if max_age is None else self._shorter(max_age)
        flags, extra = _LAYOUT, b""
        if self._spent is not None:
            self._spent.require()
            flags |= _ONCE
            extra = secrets.token_bytes(_ID_SIZE)
        if self._state is not None:
            flags |= _STATE
            digest = self._digest(signer, payload)
            if digest is None:
                raise ValueError(
                    f"The state of {self.purpose!r} is None for {shorten(payload)}. There is"
                    " nothing to bind the token to: does it exist, and is it saved?"
                )
            extra += digest
        head = _HEAD.pack(flags, int(time.time()), age)
        body = base64_encode(head + extra + self._encoded(payload))
        text = SignedText((body + b"." + signer.get_signature(body)).decode("ascii"))
        text.purpose = self.purpose
        return text

    def load(self, text: str) -> T:
        """Give the payload of a token that counts; spends nothing.

        Args:
            text: The token.

        Raises:
            BadToken: It was not signed here for this purpose, or not as it is now (404).
            ExpiredToken: It is too old (410).
            StaleToken: What it is bound to has changed (410).
            SpentToken: It may be used once, and was (410).
        """
        return self.inspect(text).payload

    def inspect(self, text: str) -> Token[T]:
        """Like :meth:`load`, with the dates.

        Args:
            text: The token.

        Raises:
            TokenError: As :meth:`load`.
        """
        token = self.verify(text)
        self.refuse_spent(token)
        return token

    def spend(self, text: str) -> T:
        """Give the payload of a token for one use, and let it count no more.

        That it is spent is a row of the task that runs: it commits with what the task does, and
        if the task rolls back the token can be used again. Of several that spend one token at
        the same time one succeeds, and the others wait for its outcome.

        Args:
            text: The token.

        Raises:
            TokenError: As :meth:`load`.
            TypeError: The kind is not for one use.
            OutsideTask: There is no task.
        """
        token = self.verify(text)
        self.spend_token(token)
        return token.payload

    def confirm(self, template: str | None = None, **context: Any) -> Callable[[F], F]:
        """Show a page that asks before a link acts; a decorator for views.

        ``GET`` and ``HEAD`` show the page, so that mail scanners, which follow links, change
        nothing. Its form posts to the same URL; that spends the token, if the kind is for one
        use, and reaches the view. Its place is next to the function, below a ``login_required``:
        what does not reach it spends nothing.

        Args:
            template: A template of the application's. It gets the view's arguments, ``context``,
                and ``csrf_field``, which stands inside the form. Without one
                ``sidearm/confirm.html`` is taken, or a plain page of Sidearm's own.
            context: More for the template, such as ``title`` and ``button`` of the plain page.
        """
        return Confirmation(self, template, context)

    def once(self, view: F) -> F:
        """Spend the URL's token, then call the view; a decorator for views that are posted to.

        Its place is next to the function, below a ``login_required``.
        """
        if not self.single_use:
            raise TypeError(
                f"@once stands on a view for {self!r}, whose tokens are not for one use. Declare"
                " it with single_use=True, or leave @once out."
            )
        return spending(self, view)

    # What the rest of the room asks.

    def app(self) -> Flask:
        """The application whose keys sign now."""
        return the_app(f"The token kind {self.purpose!r}", self._apps)

    def verify(self, text: str) -> Token[T]:
        """Check everything that the text and the state tell, but not whether it is spent."""
        try:
            return self._verify(text)
        except TokenError as error:
            logger.info("%s", error)
            raise

    def refuse_spent(self, token: Token[T]) -> None:
        """Raise if a token was spent.

        Raises:
            SpentToken: It was.
        """
        if self._spent is not None and self._spent.has(token.id):
            raise self._spent_error(token)

    def spend_token(self, token: Token[T]) -> spent.Spending:
        """Spend a token that was verified.

        Returns:
            Its row.

        Raises:
            SpentToken: It was spent before.
        """
        if self._spent is None:
            raise TypeError(
                f"{self!r}.spend() was called, and its tokens are not for one use. Declare it with"
                " single_use=True, or call load()."
            )
        # Its own age, and not what its kind allows today: that can be raised again.
        ends = token.date_signed + timedelta(seconds=token.max_age)
        spending_row = self._spent.add(token.id, ends)
        if spending_row is None:
            raise self._spent_error(token)
        return spending_row

    def _spent_error(self, token: Token[T]) -> SpentToken:
        return SpentToken(
            self.purpose, "it was used", payload=token.payload, date_signed=token.date_signed
        )

    def _shorter(self, max_age: float | timedelta) -> int:
        age = seconds(max_age, f"The max_age of a token for {self.purpose!r}")
        if age > self.max_age:
            raise ValueError(
                f"The max_age of a token for {self.purpose!r} is {age:g} seconds, and its kind"
                f" allows {self.max_age}. Give less, or declare the kind with more."
            )
        return math.ceil(age)

    def _encoded(self, payload: T) -> bytes:
        try:
            data = self._encoder.encode(payload)
            self._decoder.decode(data)  # what does not come back must not leave
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(
                f"Tokens for {self.purpose!r} carry {_name(self.type)}, and it was given"
                f" {shorten(payload)}: {error}"
            ) from error
        return data

    def _digest(self, signer: Signer, payload: T) -> bytes | None:
        """A digest of the state, keyed so that a state such as a date cannot be guessed from it."""
        state = self._state(payload) if self._state is not None else None
        if state is None:
            return None
        # A colon occurs in no text that is signed.
        message = b"state:" + self._encoder.encode(state)
        return hmac.digest(signer.secret_key, message, "sha256")[:_STATE_SIZE]

    def _verify(self, text: str) -> Token[T]:
        signers = signers_for(self.app(), self._salt, repr(self))
        if not isinstance(text, str) or not text.isascii():  # type: ignore[redundant-expr]
            raise BadToken(self.purpose, "it is no text of ASCII letters")
        body, _, signature = text.encode("ascii").rpartition(b".")
        for signer in signers:
            if hmac.compare_digest(signer.get_signature(body), signature):
                return self._read(signer, base64_decode(body))
        raise BadToken(
            self.purpose,
            "its signature is that of no key, or of another purpose",
            **_claimed(body),
        )

    def _read(self, signer: Signer, data: bytes) -> Token[T]:
        # Whoever has the key could sign this with itsdangerous too.
        if len(data) < _HEAD.size or data[0] & ~(_STATE | _ONCE) != _LAYOUT:
            raise BadToken(self.purpose, "it has another layout", payload=data or None)
        flags, signed, age = _HEAD.unpack_from(data)
        place = _HEAD.size
        date_signed = date_of(signed)
        id_ = digest = None
        if flags & _ONCE:
            id_, place = data[place : place + _ID_SIZE].hex(), place + _ID_SIZE
        if flags & _STATE:
            digest, place = data[place : place + _STATE_SIZE], place + _STATE_SIZE
        encoded = data[place:]
        if (self.single_use and id_ is None) or (self._state is not None and digest is None):
            raise BadToken(
                self.purpose,
                "it was signed before its kind was declared as it is now",
                payload=encoded,
                date_signed=date_signed,
            )
        try:
            payload = self._decoder.decode(encoded)
        except msgspec.MsgspecError as error:
            raise BadToken(
                self.purpose,
                f"it carries no {_name(self.type)}",
                payload=encoded,
                date_signed=date_signed,
            ) from error
        expires = signed + min(age, self.max_age)
        self._refuse_old(signed, expires, payload)
        if self._state is not None:
            self._refuse_stale(signer, payload, digest or b"", date_signed)
        return Token(self.purpose, payload, date_signed, date_of(expires), age, id_)

    def _refuse_old(self, signed: int, expires: int, payload: T) -> None:
        now = int(time.time())
        if signed - CLOCK_SKEW <= now <= expires:
            return
        reason = "it has expired" if now > expires else "it was signed in the future"
        error = ExpiredToken(self.purpose, reason, payload=payload, date_signed=date_of(signed))
        error.date_expired = date_of(expires)
        raise error

    def _refuse_stale(
        self, signer: Signer, payload: T, digest: bytes, date_signed: datetime
    ) -> None:
        now = self._digest(signer, payload)
        if now is None:
            raise BadToken(
                self.purpose, "its state is gone", payload=payload, date_signed=date_signed
            )
        if not hmac.compare_digest(now, digest):
            raise StaleToken(
                self.purpose,
                "what it is bound to has changed",
                payload=payload,
                date_signed=date_signed,
            )


def seconds(value: float | timedelta, what: str) -> float:
    """A maximum age in seconds.

    Raises:
        TypeError: It is neither a number nor a ``timedelta``.
        ValueError: It is not above zero, or longer than a token can say.
    """
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"{what} is {value!r}. Give seconds, or a datetime.timedelta.")
    if not 0 < number <= _MAX_TIME // 2:  # refuses NaN too
        raise ValueError(f"{what} is {value!r}. Give more than zero, and at most 68 years.")
    return number


def date_of(timestamp: int) -> datetime:
    """A time of a token as a date."""
    return datetime.fromtimestamp(timestamp, tz=UTC)


def _claimed(body: bytes) -> dict[str, Any]:
    """What a token says that nobody vouches for; for the log."""
    try:
        data = base64_decode(body)
        _, signed, _ = _HEAD.unpack_from(data)
    except Exception:  # noqa: BLE001 - any bytes can have come
        return {"payload": body or None}
    return {"payload": data[_HEAD.size :], "date_signed": date_of(signed)}


def _name(type_: Any) -> str:
    return type_.__name__ if isinstance(type_, type) else str(type_)
