"""How senders sign: Standard Webhooks, GitHub's ``X-Hub-Signature-256``, Stripe's.

Each is HMAC-SHA-256 (RFC 2104) of the body as it came, byte by byte, and of what else the sender
vouches for. A signature is compared as the text that came, in constant time, with the one text that
is right: base64 has several spellings for one value, and a text that is none needs no case of its
own. Whatever headers hold, the answer is a verdict, never an exception of another kind.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, NamedTuple, Protocol

import msgspec

from .exceptions import BadDelivery, MalformedDelivery

MIN_SECRET_SIZE = 16  # bytes; 128 bits, below which a key can be guessed

_TIMESTAMP = re.compile(r"[0-9]{1,11}", re.ASCII)
_ID = re.compile(r"[!-~]{1,255}", re.ASCII)


_NO_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Headers(Protocol):
    """A request's headers; Werkzeug's find a name in any case."""

    def get(self, key: str, /) -> str | None:
        """The value of a header."""


class SecretError(ValueError):
    """A secret is none of this scheme's; the message says what is wrong, and never repeats it."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a view gets of a webhook: signed by its source, and not too old.

    Attributes:
        source: The source's name in ``SIDEARM_WEBHOOKS``.
        id: By what the sender tells it apart from others; the same when it is sent again.
        body: The body, byte by byte as it was signed.
        timestamp: When it was sent, if the sender signs that.
    """

    source: str
    id: str
    body: bytes = field(repr=False)
    timestamp: datetime | None = None

    def json(self, type: Any = Any) -> Any:
        """Read the body as JSON.

        Args:
            type: What it has to be, as msgspec reads it: a ``Struct``, a dataclass, ``dict``, ...

        Raises:
            MalformedDelivery: It is no JSON, or no such value (400).
        """
        try:
            return msgspec.json.decode(self.body, type=type)
        except _NO_JSON as error:
            raise MalformedDelivery(self.source, str(error)) from error


class Signed(NamedTuple):
    """What a signature vouches for.

    Attributes:
        id: The delivery's.
        timestamp: In seconds since 1970, if it is signed.
    """

    id: str
    timestamp: int | None


class Scheme(ABC):
    """One way to sign.

    Args:
        secrets: All that count now, as the sender shows them; the first one signs.
        source: The source's name, for errors.

    Raises:
        SecretError: A secret is none.
    """

    #: Its name in the settings.
    name: ClassVar[str]
    #: Whether its senders sign when they send.
    has_timestamp: ClassVar[bool] = True

    def __init__(self, secrets: Iterable[str], source: str) -> None:
        self.source = source
        self._keys = [self._key(secret) for secret in secrets]

    @abstractmethod
    def verify(self, headers: Headers, body: bytes, *, now: float, tolerance: float) -> Signed:
        """Check a delivery.

        Args:
            headers: The request's.
            body: Its body.
            now: Seconds since 1970.
            tolerance: Seconds by which its time may differ from now.

        Raises:
            BadDelivery: It is not signed, or not now.
            MalformedDelivery: It is signed, and has no id.
        """

    @abstractmethod
    def sign(self, body: bytes, *, now: float, id: str | None = None) -> dict[str, str]:
        """The headers of a delivery as the sender would make them; for development and tests.

        Args:
            body: Its body.
            now: Seconds since 1970.
            id: Its id; without one a new one, where headers carry it.
        """

    def digest(self, body: bytes) -> bytes:
        """A digest of what is the same when a delivery is sent again."""
        return hashlib.sha256(body).digest()

    def _key(self, secret: str) -> bytes:
        key = secret.encode()
        if len(key) < MIN_SECRET_SIZE:
            raise SecretError(
                f"It has {len(key)} bytes; with fewer than {MIN_SECRET_SIZE} it can be guessed."
            )
        return key

    def _refuse(self, reason: str) -> BadDelivery:
        return BadDelivery(self.source, reason)

    def _header(self, headers: Headers, name: str) -> str:
        value = headers.get(name)
        if not value:
            raise self._refuse(f"it has no header {name}")
        return value

    def _time(self, text: str, now: float, tolerance: float) -> int:
        if not _TIMESTAMP.fullmatch(text):
            raise self._refuse("its timestamp is no number of seconds")
        timestamp = int(text)
        if abs(now - timestamp) > tolerance:
            raise self._refuse(f"it was signed {now - timestamp:.0f} seconds ago")
        return timestamp

    def _require(self, message: bytes, signatures: Iterable[str]) -> None:
        """Let at least one signature be that of one secret."""
        given = [each.encode("ascii", "replace") for each in signatures]
        for key in self._keys:
            right = self._spell(hmac.digest(key, message, "sha256"))
            for signature in given:
                if hmac.compare_digest(right, signature):
                    return
        raise self._refuse("its signature is that of no secret" if given else "it is not signed")

    def _spell(self, signature: bytes) -> bytes:
        return signature.hex().encode()


class StandardWebhooks(Scheme):
    """Standard Webhooks 1.0, symmetric signatures (``v1``)."""

    name = "standard"

    def _key(self, secret: str) -> bytes:
        # The specification asks for 24 to 64 bytes.
        text = secret.removeprefix("whsec_")
        try:
            key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not 24 <= len(key) <= 64:
            raise SecretError("Give 'whsec_' and 24 to 64 bytes in base64, as the sender shows it.")
        return key

    def verify(self, headers: Headers, body: bytes, *, now: float, tolerance: float) -> Signed:
        """Check a delivery: ``webhook-id``, ``webhook-timestamp``, ``webhook-signature``."""
        id_ = self._header(headers, "webhook-id")
        # A full stop separates what is signed, so an id has none.
        if not _ID.fullmatch(id_) or "." in id_:
            raise self._refuse("its id is none")
        time = self._header(headers, "webhook-timestamp")
        timestamp = self._time(time, now, tolerance)
        signatures = self._header(headers, "webhook-signature").split(" ")
        # Other versions, such as v1a, may stand beside.
        self._require(
            f"{id_}.{time}.".encode() + body,
            [each[3:] for each in signatures if each.startswith("v1,")],
        )
        return Signed(id_, timestamp)

    def sign(self, body: bytes, *, now: float, id: str | None = None) -> dict[str, str]:
        """The headers of a delivery."""
        id_ = id or f"msg_{uuid.uuid4().hex}"
        message = f"{id_}.{int(now)}.".encode() + body
        signature = self._spell(hmac.digest(self._keys[0], message, "sha256")).decode()
        return {
            "webhook-id": id_,
            "webhook-timestamp": str(int(now)),
            "webhook-signature": f"v1,{signature}",
        }

    def _spell(self, signature: bytes) -> bytes:
        return base64.b64encode(signature)


class GitHub(Scheme):
    """GitHub's ``X-Hub-Signature-256``, which signs the body and nothing else."""

    name = "github"
    has_timestamp = False

    def verify(self, headers: Headers, body: bytes, *, now: float, tolerance: float) -> Signed:
        """Check a delivery: ``X-Hub-Signature-256`` and ``X-GitHub-Delivery``."""
        signature = self._header(headers, "X-Hub-Signature-256")
        self._require(body, [signature[7:]] if signature.startswith("sha256=") else [])
        id_ = self._header(headers, "X-GitHub-Delivery")
        if not _ID.fullmatch(id_):
            raise self._refuse("its id is none")
        return Signed(id_, None)

    def sign(self, body: bytes, *, now: float, id: str | None = None) -> dict[str, str]:
        """The headers of a delivery."""
        return {
            "X-GitHub-Delivery": id or str(uuid.uuid4()),
            "X-Hub-Signature-256": f"sha256={hmac.digest(self._keys[0], body, 'sha256').hex()}",
        }


class _Event(msgspec.Struct):
    """What is needed of Stripe's events; the rest of a body is passed over quickly."""

    id: str


_event_decoder = msgspec.json.Decoder(_Event)


class Stripe(Scheme):
    """Stripe's ``Stripe-Signature`` (``v1``); the id is the event's own, in the body."""

    name = "stripe"

    def verify(self, headers: Headers, body: bytes, *, now: float, tolerance: float) -> Signed:
        """Check a delivery: ``Stripe-Signature``."""
        pairs = [
            each.partition("=") for each in self._header(headers, "Stripe-Signature").split(",")
        ]
        times = [value for name, _, value in pairs if name == "t"]
        if len(times) != 1:
            raise self._refuse("it has not one timestamp")
        timestamp = self._time(times[0], now, tolerance)
        self._require(
            f"{times[0]}.".encode() + body, [value for name, _, value in pairs if name == "v1"]
        )
        try:
            id_ = _event_decoder.decode(body).id
        except _NO_JSON as error:
            raise MalformedDelivery(self.source, str(error)) from error
        if not _ID.fullmatch(id_):
            raise MalformedDelivery(self.source, "its id is none")
        return Signed(id_, timestamp)

    def sign(self, body: bytes, *, now: float, id: str | None = None) -> dict[str, str]:
        """The header of a delivery; its id is the body's."""
        message = f"{int(now)}.".encode() + body
        signature = hmac.digest(self._keys[0], message, "sha256").hex()
        return {"Stripe-Signature": f"t={int(now)},v1={signature}"}

    def digest(self, body: bytes) -> bytes:
        """A digest of the event without what Stripe counts while it delivers."""
        try:
            event: dict[str, Any] = msgspec.json.decode(body)
        except _NO_JSON as error:  # in what the id was read past
            raise MalformedDelivery(self.source, str(error)) from error
        event.pop("pending_webhooks", None)
        return hashlib.sha256(msgspec.json.encode(event, order="deterministic")).digest()


SCHEMES: dict[str, type[Scheme]] = {each.name: each for each in (StandardWebhooks, GitHub, Stripe)}
