"""The sources of webhooks that ``SIDEARM_WEBHOOKS`` names, checked when the application starts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ..exceptions import SettingError
from .schemes import SCHEMES, Delivery, Headers, Scheme, SecretError

KEY = "SIDEARM_WEBHOOKS"
TOLERANCE = 300.0  # seconds; what the vendors' own libraries take
KEEP = 30 * 86400.0  # seconds; senders try for days, and people send again by hand later


class Source:
    """One sender.

    Attributes:
        name: Its name in the settings.
        scheme: How it signs.
        tolerance: Seconds by which a delivery's time may differ from ours.
        keep: Seconds for which a delivery that acted is remembered.
    """

    def __init__(self, name: str, scheme: Scheme, tolerance: float, keep: float) -> None:
        self.name = name
        self.scheme = scheme
        self.tolerance = tolerance
        self.keep = keep

    def verify(self, headers: Headers, body: bytes) -> Delivery:
        """Check a delivery that has come now.

        Args:
            headers: The request's.
            body: Its body.

        Raises:
            BadDelivery: It is not signed, or not now (403).
            MalformedDelivery: It is signed, and has no id (400).
        """
        signed = self.scheme.verify(headers, body, now=time.time(), tolerance=self.tolerance)
        at = None if signed.timestamp is None else datetime.fromtimestamp(signed.timestamp, UTC)
        return Delivery(self.name, signed.id, body, at)


def sources_of(webhooks: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Source]:
    """Read the value of the setting.

    Args:
        webhooks: The setting, whose shape has been checked.

    Raises:
        SettingError: It names a scheme that there is not, or a secret that is none.
    """
    return {name: _source(name, options) for name, options in (webhooks or {}).items()}


def _source(name: str, options: Mapping[str, Any]) -> Source:
    where = f"{KEY}[{name!r}]"
    scheme = SCHEMES.get(options.get("scheme", ""))
    if scheme is None:
        raise SettingError(
            f"{where}['scheme']",
            options.get("scheme"),
            f"Give one of {', '.join(map(repr, SCHEMES))}.",
        )
    if "tolerance" in options and not scheme.has_timestamp:
        raise SettingError(
            f"{where}['tolerance']",
            options["tolerance"],
            f"Leave it out: {scheme.name!r} does not sign the time.",
        )
    tolerance: float = options.get("tolerance", TOLERANCE)
    keep: float = options.get("keep", KEEP)
    if scheme.has_timestamp and keep < 2 * tolerance:
        # A delivery may be dated that much ahead, and counts as long after.
        raise SettingError(
            f"{where}['keep']",
            keep,
            f"Give at least {2 * tolerance:g} seconds, twice the tolerance: while a signature still"
            " counts, that its delivery has acted must be known.",
        )
    keys: list[str] = options["secrets"]
    for number, secret in enumerate(keys):
        try:
            scheme([secret], name)
        except SecretError as error:
            # The value stays out of messages and logs.
            raise SettingError(
                f"{where}['secrets'][{number}]", _Hidden(secret), str(error)
            ) from None
    return Source(
        name,
        scheme(keys, name),
        tolerance,
        keep,
    )


class _Hidden:
    def __init__(self, secret: str) -> None:
        self._length = len(secret)

    def __repr__(self) -> str:
        return f"a text of {self._length} characters"
