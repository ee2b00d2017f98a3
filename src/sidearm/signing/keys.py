"""The application's keys: ``SECRET_KEY``, and ``SECRET_KEY_FALLBACKS`` (Flask 3.1) for what is old.

The signatures are itsdangerous's: HMAC with a key derived for each purpose, in base64 without
padding. The code is HMAC-SHA-256-128 (RFC 4868): the first 128 bits are what RFC 2104, section 5,
allows at the least, and make a link 21 characters shorter. A signature is compared as the text
that came, not as the bytes that it decodes to: base64 has several spellings for one value.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Sequence
from typing import Any

from flask import Flask
from itsdangerous.signer import Signer, SigningAlgorithm

from ..exceptions import SecretKeyError
from ..tasks.state import state_of

logger = logging.getLogger("sidearm.signing")

MIN_KEY_SIZE = 16  # bytes; 128 bits, as much as a signature has
SIGNATURE_SIZE = 16  # bytes
SIGNATURE_LENGTH = 22  # characters of base64

_MAKE_ONE = "python -c 'import secrets; print(secrets.token_hex())' prints a good one."


class HMACSHA256128(SigningAlgorithm):
    """HMAC-SHA-256-128 (RFC 4868, section 2.6)."""

    def get_signature(self, key: bytes, value: bytes) -> bytes:
        return hmac.digest(key, value, "sha256")[:SIGNATURE_SIZE]


class Signers:
    """Signers for one purpose, the one that signs first; kept until the keys change."""

    __slots__ = ("fallbacks", "secret", "signers")

    def __init__(self, app: Flask, salt: str, what: str) -> None:
        self.secret, self.fallbacks = _configured(app)
        self.signers = tuple(signer_of(key, salt) for key in keys_of(app, what))


_algorithm = HMACSHA256128()


def signer_of(key: bytes, salt: str) -> Signer:
    """A signer with the key that is derived from one key for one purpose."""
    derived = Signer(
        key, salt=salt, key_derivation="hmac", digest_method=hashlib.sha256
    ).derive_key()
    return Signer(derived, salt=salt, key_derivation="none", algorithm=_algorithm)


def signers_for(app: Flask, salt: str, what: str) -> tuple[Signer, ...]:
    """The signers for a purpose, with the application's keys as they are now.

    Args:
        app: The application.
        salt: The purpose.
        what: The call that needs them, for errors.

    Raises:
        SecretKeyError: There is no key, or one is too short.
    """
    kept: dict[str, Signers] = state_of(app).signers
    known = kept.get(salt)
    if known is None or (known.secret, known.fallbacks) != _configured(app):
        known = kept[salt] = Signers(app, salt, what)
    return known.signers


def _configured(app: Flask) -> tuple[Any, Any]:
    fallbacks = app.config.get("SECRET_KEY_FALLBACKS")
    # A list can be changed in place.
    return app.secret_key, tuple(fallbacks) if isinstance(fallbacks, list) else fallbacks


def keys_of(app: Flask, what: str) -> list[bytes]:
    """The application's keys, checked: the one that signs, then those that only verify.

    Args:
        app: The application.
        what: The call that needs them, for errors.

    Raises:
        SecretKeyError: There is none, or one is too short. In debug mode a short one is logged.
    """
    secret, fallbacks = _configured(app)
    if not secret:
        raise SecretKeyError(
            "SECRET_KEY",
            f"is not set, and {what} signs with it. Set it to a long random text, the same for"
            f" every process of the application. {_MAKE_ONE}",
        )
    if fallbacks is None:
        fallbacks = ()
    if isinstance(fallbacks, (str, bytes)) or not isinstance(fallbacks, Sequence):
        raise SecretKeyError(
            "SECRET_KEY_FALLBACKS",
            f"is of type {type(fallbacks).__name__}. Give a list of former keys, newest first.",
        )
    keys = [_checked(app, "SECRET_KEY", secret)]
    for number, fallback in enumerate(fallbacks):
        keys.append(_checked(app, f"SECRET_KEY_FALLBACKS[{number}]", fallback))
    return keys


def _checked(app: Flask, name: str, key: Any) -> bytes:
    if not isinstance(key, (str, bytes)):
        raise SecretKeyError(name, f"is of type {type(key).__name__}. Give a text, or bytes.")
    data = key.encode() if isinstance(key, str) else key
    if len(data) < MIN_KEY_SIZE:
        advice = (
            f"has {len(data)} bytes; with fewer than {MIN_KEY_SIZE} it can be guessed, and whoever"
            f" guesses it signs in your name. {_MAKE_ONE}"
        )
        if not app.debug:
            raise SecretKeyError(name, advice)
        # None while it is being installed.
        told: set[str] = getattr(app.extensions.get("sidearm"), "told", set())
        if name not in told:
            told.add(name)
            logger.warning("%s %s Outside debug mode this is an error.", name, advice)
    return data


def fingerprint(key: bytes) -> str:
    """Eight hexadecimal digits by which people can tell keys apart, and learn nothing of them.

    Args:
        key: The key.
    """
    return signer_of(key, "sidearm.fingerprint").derive_key()[:4].hex()
