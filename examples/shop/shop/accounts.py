"""Accounts: made by a link in a mail, opened by a password, and shut everywhere at once.

What these functions answer is the same for an address that has an account and for one that has
none: each gets a mail, and only that mail tells. So nobody can ask the shop who its customers are.
"""

from __future__ import annotations

import functools
import secrets
from datetime import timedelta

from flask import session
from flask_login import LoginManager, current_user, login_user, logout_user
from sqlalchemy import func, select
from werkzeug.security import check_password_hash, generate_password_hash

from sidearm import close_streams, external_url_for

from .database import arm, db, insert_if_new
from .mail import mail_after_commit
from .models import Account, new_key

ACTIVATION_AGE = timedelta(days=7)
RESET_AGE = timedelta(hours=1)

# What outlives a log-in: messages that were not shown yet. All else belongs to whoever sat there.
KEPT_IN_SESSION = ("_flashes",)

login_manager = LoginManager()
login_manager.login_view = "account.log_in"
login_manager.login_message = "Please log in first."


def is_active(account_id: int) -> bool | None:
    """Whether an account has a password; ``None`` if there is no such account."""
    return db.session.scalar(
        select(Account.password_hash.is_not(None)).where(Account.id == account_id)
    )


def password_hash(account_id: int) -> str | None:
    """The hash as the database has it now."""
    return db.session.scalar(select(Account.password_hash).where(Account.id == account_id))


# Each link acts once, even if it is clicked twice in one moment. Two mails may hold two links, and
# what either is bound to ends both: an account is activated once, a password changed once.
activate = arm.token("activate", int, max_age=ACTIVATION_AGE, single_use=True, state=is_active)
reset = arm.token("reset", int, max_age=RESET_AGE, single_use=True, state=password_hash)


@login_manager.user_loader
def load_account(key: str) -> Account | None:
    """The account that a session belongs to, if the session has not been ended since."""
    return db.session.scalars(select(Account).filter_by(session_key=key)).first()


def logged_in_account() -> Account | None:
    """Whose request this is, or ``None``."""
    return current_user if isinstance(current_user._get_current_object(), Account) else None  # noqa: SLF001


def find_account(address: str) -> Account | None:
    """The account with an address, whatever its capitals are."""
    query = select(Account).where(func.lower(Account.email_address) == address.lower())
    return db.session.scalars(query).first()


def sign_up(address: str) -> None:
    """Mail a link that activates a new account, or say that there is one already.

    Args:
        address: A checked one; see :func:`shop.forms.parse_email_address`.
    """
    insert_if_new(Account, email_address=address, session_key=new_key())
    account = find_account(address)
    if account is None or account.is_active:
        mail_after_commit(
            address,
            "You have an account already",
            "mails/account_exists.txt",
            log_in=external_url_for("account.log_in"),
            forgotten=external_url_for("account.forgotten"),
        )
        return
    mail_after_commit(
        address,
        "Activate your account",
        "mails/activate.txt",
        link=external_url_for("account.activate_account", account_id=account.id),
    )


def forget_password(address: str) -> None:
    """Mail a link that changes the password, or say that there is no account.

    Args:
        address: A checked one.
    """
    account = find_account(address)
    if account is None or not account.is_active:
        mail_after_commit(
            address,
            "There is no account",
            "mails/no_account.txt",
            sign_up=external_url_for("account.sign_up"),
        )
        return
    mail_after_commit(
        account.email_address,
        "Choose a new password",
        "mails/reset.txt",
        link=external_url_for("account.reset_password", account_id=account.id),
    )


def set_password(account: Account, password: str) -> None:
    """Give an account a password, and end the sessions and streams that the old one has opened."""
    close_streams(account.stream_tag)
    account.password_hash = generate_password_hash(password)
    account.session_key = new_key()


def check_password(address: str, password: str) -> Account | None:
    """The account, if the password is right. Finding none takes as long as a wrong password."""
    account = find_account(address.strip())
    known = account.password_hash if account is not None else None
    right = check_password_hash(known or _nobodys_hash(), password)
    return account if known is not None and right else None


@functools.cache
def _nobodys_hash() -> str:
    return generate_password_hash(secrets.token_urlsafe())


def begin_session(account: Account) -> None:
    """Log in, in a new session: nothing that was put into the old one counts (OWASP, fixation)."""
    kept = {name: session[name] for name in KEPT_IN_SESSION if name in session}
    session.clear()
    session.update(kept)
    login_user(account)


def end_session() -> None:
    """Log out, and close the streams of whoever it was."""
    account = logged_in_account()
    if account is not None:
        close_streams(account.stream_tag)
    logout_user()
    session.clear()
