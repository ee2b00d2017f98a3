"""The pages of an account: sign up, activate, log in and out, a new password, one's orders."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flask import Blueprint, Response, flash, redirect, render_template, url_for
from flask_login import login_required
from sqlalchemy import select

from sidearm import redirect_back, redirect_target, signed_url_for, signed_url_required

from .accounts import (
    activate,
    begin_session,
    check_password,
    end_session,
    forget_password,
    logged_in_account,
    reset,
    set_password,
    sign_up,
)
from .database import db
from .forms import AddressForm, LogInForm, PasswordForm
from .mail import smtp_server
from .models import Account, Order

RECEIPT_AGE = timedelta(hours=1)

account = Blueprint("account", __name__)

ACTIVATION = {
    "heading": "Welcome",
    "text": "Choose a password, and your account is ready.",
    "button": "Activate my account",
}
RESET = {
    "heading": "A new password",
    "text": "Choose it here. You will be logged out wherever you are logged in now.",
    "button": "Change my password",
}


@account.route("/sign-up", methods=["GET", "POST"], endpoint="sign_up")
def sign_up_page() -> Any:
    """Ask for an address, and mail it a link."""
    if logged_in_account():
        return redirect(url_for("account.orders"))
    form = AddressForm()
    if not form.is_submitted():
        return render_template("account/sign_up.html", form=form)
    if not form.validate():
        return render_template("account/sign_up.html", form=form), 422
    sign_up(form.address)
    return redirect(url_for("account.mailed"), 303)


@account.get("/mailed")
def mailed() -> str:
    """Say that a mail is on its way; the same words for each address."""
    return render_template("account/mailed.html", smtp=smtp_server())


# GET shows the page alone. A form that is sent back with 422 rolls back, and so the link is good
# for another try.
@account.route("/activate/<token('activate'):account_id>", methods=["GET", "POST"])
@activate.confirm("account/password.html", new_form=PasswordForm, **ACTIVATION)
def activate_account(account_id: int) -> Any:
    """Give the account its first password, and log in."""
    form = PasswordForm()
    if not form.validate():
        return render_template("account/password.html", form=form, **ACTIVATION), 422
    account = db.get_or_404(Account, account_id)
    set_password(account, form.password.data)
    begin_session(account)
    flash("Your account is active, and you are logged in.")
    return redirect(url_for("account.orders"), 303)


@account.route("/log-in", methods=["GET", "POST"])
def log_in() -> Any:
    """Ask for the password, and go back to where somebody came from, if that is in the shop."""
    if logged_in_account():
        return redirect_back("account.orders")
    form = LogInForm()
    if not form.is_submitted():
        return _log_in_page(form)
    if not form.validate():
        return _log_in_page(form), 422
    account = check_password(form.email.data, form.password.data)
    if account is None:
        form.form_errors.append("The address or the password is not right.")
        return _log_in_page(form), 422
    begin_session(account)
    return redirect_back("account.orders")


def _log_in_page(form: LogInForm) -> str:
    form.next.data = redirect_target() or ""
    return render_template("account/log_in.html", form=form)


@account.post("/log-out")
def log_out() -> Any:
    """End the session."""
    end_session()
    flash("You are logged out.")
    return redirect(url_for("shop.index"), 303)


@account.route("/forgotten", methods=["GET", "POST"])
def forgotten() -> Any:
    """Ask for an address, and mail it a link to a new password."""
    form = AddressForm()
    if not form.is_submitted():
        return render_template("account/forgotten.html", form=form)
    if not form.validate():
        return render_template("account/forgotten.html", form=form), 422
    forget_password(form.address)
    return redirect(url_for("account.mailed"), 303)


@account.route("/reset/<token('reset'):account_id>", methods=["GET", "POST"])
@reset.confirm("account/password.html", new_form=PasswordForm, **RESET)
def reset_password(account_id: int) -> Any:
    """Change the password, and end what the old one has opened."""
    form = PasswordForm()
    if not form.validate():
        return render_template("account/password.html", form=form, **RESET), 422
    account = db.get_or_404(Account, account_id)
    set_password(account, form.password.data)
    end_session()
    flash("Your password is changed. Please log in with it.")
    return redirect(url_for("account.log_in"), 303)


@account.get("/orders")
@login_required
def orders() -> str:
    """What the account has bought, newest first."""
    account = logged_in_account()
    query = select(Order).where(Order.account == account).order_by(Order.id.desc())
    return render_template(
        "account/orders.html", account=account, orders=db.session.scalars(query).all()
    )


@account.app_template_global()
def receipt_url(order: Order) -> str:
    """The address of an order's receipt, which opens for whoever has it, for an hour."""
    url: str = signed_url_for(
        "account.receipt", number=order.number, _max_age=RECEIPT_AGE, _external=False
    )
    return url


@account.get("/orders/<number>/receipt.txt")
@signed_url_required
def receipt(number: str) -> Response:
    """The receipt as a file, for as long as the link lasts; logged in or not."""
    order = db.one_or_404(select(Order).where(Order.number == number))
    response = Response(render_template("receipt.txt", order=order), mimetype="text/plain")
    response.headers["Content-Disposition"] = f'attachment; filename="receipt-{order.number}.txt"'
    response.headers["Cache-Control"] = "private, no-store"
    return response
