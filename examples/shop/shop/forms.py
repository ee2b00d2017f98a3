"""The one form of the shop, and what may be wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

MOST_AT_ONCE = 99

# The addresses that people have, which are fewer than those that RFC 5321 allows: no quoted local
# part, no address literal. What passes is printable ASCII without a space, comma or bracket, so it
# cannot name a second recipient either.
_LOCAL = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"(?P<local>{_LOCAL})@(?P<domain>{_LABEL}(?:\.{_LABEL})+)")


def parse_email_address(text: str) -> str | None:
    """The address in the spelling that we keep (the domain in lower case), or ``None``."""
    match = _ADDRESS.fullmatch(text.strip())
    if match is None or len(match["local"]) > 64 or len(match[0]) > 254:
        return None
    return f"{match['local']}@{match['domain'].lower()}"


@dataclass
class PurchaseForm:
    """What somebody typed, kept as typed so that a page can show it again.

    Attributes:
        errors: A sentence for each field that is wrong; empty if all is well.
    """

    email: str = ""
    quantity: str = "1"
    fail: bool = False
    errors: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, values: Mapping[str, str]) -> PurchaseForm:
        """Take the fields of a request, and check them."""
        form = cls(
            email=values.get("email", "").strip(),
            quantity=values.get("quantity", "").strip(),
            fail=values.get("fail") == "yes",
        )
        form.check()
        return form

    def check(self) -> None:
        """Fill :attr:`errors`."""
        if not self.email:
            self.errors["email"] = "Please tell us where to send the confirmation."
        elif parse_email_address(self.email) is None:
            self.errors["email"] = "That does not look like an address such as ada@example.org."
        if not re.fullmatch(r"[0-9]{1,4}", self.quantity):
            self.errors["quantity"] = "Please give a whole number."
        elif not 1 <= int(self.quantity) <= MOST_AT_ONCE:
            self.errors["quantity"] = f"Please choose between 1 and {MOST_AT_ONCE}."

    @property
    def address(self) -> str:
        """The checked address; only to be asked of a form without errors."""
        address = parse_email_address(self.email)
        if address is None:
            raise ValueError(f"{self.email!r} is no address. Look at errors first.")
        return address

    @property
    def count(self) -> int:
        """The checked quantity; only to be asked of a form without errors."""
        return int(self.quantity)
