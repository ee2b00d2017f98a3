"""The shop's forms, and what may be wrong with them."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from flask_wtf import FlaskForm
from wtforms import BooleanField, EmailField, Field, HiddenField, PasswordField, StringField
from wtforms.validators import InputRequired, Length, StopValidation, ValidationError

MOST_AT_ONCE = 99
SHORTEST_PASSWORD = 10  # characters
LONGEST_PASSWORD = 200  # characters

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


class Address:
    """A validator: the field holds an address that the shop can write to.

    Args:
        missing: What to say if it is empty.
    """

    field_flags: ClassVar = {"required": True, "maxlength": 254}

    def __init__(self, missing: str) -> None:
        self.missing = missing

    def __call__(self, _form: FlaskForm, field: Field) -> None:
        """Check a field."""
        if not field.data:
            raise StopValidation(self.missing)
        if parse_email_address(field.data) is None:
            raise ValidationError("That does not look like an address such as ada@example.org.")


def check_quantity(_form: FlaskForm, field: Field) -> None:
    """A validator: a whole number of pieces that one purchase may have."""
    if not re.fullmatch(r"[0-9]{1,4}", field.data or ""):
        raise ValidationError("Please give a whole number.")
    if not 1 <= int(field.data) <= MOST_AT_ONCE:
        raise ValidationError(f"Please choose between 1 and {MOST_AT_ONCE}.")


def _stripped(text: Any) -> Any:
    return text.strip() if isinstance(text, str) else text


class AddressForm(FlaskForm):
    """Asks for an address, and nothing else."""

    email = EmailField("E-mail", [Address("Please give your e-mail address.")], filters=[_stripped])

    @property
    def address(self) -> str:
        """The checked address; only to be asked of a form without errors."""
        address = parse_email_address(self.email.data or "")
        if address is None:
            raise ValueError(f"{self.email.data!r} is no address. Look at errors first.")
        return address


class PurchaseForm(AddressForm):
    """What somebody who buys has to say."""

    email = EmailField(
        "E-mail for the confirmation",
        [Address("Please tell us where to send the confirmation.")],
        filters=[_stripped],
    )
    # A text, so that a page can show again what was typed.
    quantity = StringField("How many", [check_quantity], default="1", filters=[_stripped])
    fail = BooleanField()

    @property
    def count(self) -> int:
        """The checked quantity; only to be asked of a form without errors."""
        return int(self.quantity.data or "")


class LogInForm(FlaskForm):
    """Address and password; ``next`` is where somebody wants to go, and not to be trusted."""

    email = EmailField("E-mail", [InputRequired("Please give your e-mail address.")])
    password = PasswordField("Password", [InputRequired("Please give your password.")])
    next = HiddenField()


class PasswordForm(FlaskForm):
    """A new password. It is typed once: browsers show it, and can invent one."""

    password = PasswordField(
        "New password",
        [
            InputRequired("Please choose a password."),
            Length(
                SHORTEST_PASSWORD,
                LONGEST_PASSWORD,
                f"Please take {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters.",
            ),
        ],
    )
