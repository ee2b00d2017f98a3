"""The pages for what goes wrong."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from flask import Flask, render_template
from flask_wtf.csrf import CSRFError
from sqlalchemy import inspect
from sqlalchemy.exc import DBAPIError
from werkzeug.exceptions import Gone, HTTPException, SecurityError

from .database import Base, db
from .models import Product


class FailedHalfWay(Exception):
    """Raised on demand, after everything of a purchase was done and nothing was committed.

    Attributes:
        product_id: What was being bought.
        quantity: How much of it.
    """

    def __init__(self, product_id: int, quantity: int) -> None:
        self.product_id = product_id
        self.quantity = quantity
        super().__init__(f"The purchase of product {product_id} failed on demand.")


def register(app: Flask) -> None:
    """Show these pages instead of the framework's."""
    app.register_error_handler(FailedHalfWay, failed_half_way)
    app.register_error_handler(404, not_found)
    app.register_error_handler(CSRFError, form_too_old)
    app.register_error_handler(SecurityError, unknown_host)
    app.register_error_handler(Gone, link_is_over)
    app.register_error_handler(HTTPException, other_error)
    app.register_error_handler(DBAPIError, not_open_yet)


def failed_half_way(error: FailedHalfWay) -> tuple[str, int]:
    """Explain what did not happen; the page reads the stock anew, after the rollback."""
    product = db.session.get(Product, error.product_id)
    return render_template("failed.html", product=product, quantity=error.quantity), 500


def not_found(_error: HTTPException) -> tuple[str, int]:
    """404, with a way on."""
    return render_template("not_found.html"), 404


def form_too_old(error: CSRFError) -> tuple[str, int]:
    """A form without the token of its session: it is old, or another site has sent it."""
    text = (
        "This form belongs to a session that is over, or your browser keeps no cookies. Go back,"
        " load the page again, and send it once more. Nothing was done."
    )
    page = render_template("error.html", code=error.code, heading="Please try again", text=text)
    return page, 400


def unknown_host(_error: SecurityError) -> tuple[str, int]:
    """A host that the shop does not answer to."""
    # Plain text: the address of everything on a page would have that host.
    text = "The shop does not answer to this host. Set SHOP_ORIGIN to the address that people type."
    return text, 400


def link_is_over(error: Gone) -> tuple[str, int]:
    """410: a link from a mail that was used, or is too old."""
    return render_template("link_is_over.html", text=error.description), 410


def other_error(error: HTTPException) -> Any:
    """Every other status from 400 up, also 500: a page that needs no database.

    The database may be the cause.
    """
    if error.code is None or error.code < 400:
        return error
    heading, text = HTTPStatus(error.code).phrase, error.description
    if error.code >= 500:
        heading = "Something broke"
        text = (
            "That was us, not you. Whatever you were doing was not done by halves: nothing of it"
            " was saved."
        )
    response = error.get_response()
    page = render_template("error.html", code=error.code, heading=heading, text=text)
    response.set_data(page)
    response.content_type = "text/html; charset=utf-8"
    return response


def not_open_yet(error: DBAPIError) -> tuple[str, int]:
    """503 with the cure where nobody has seeded the shop; other errors are ours."""
    if not set(Base.metadata.tables) - set(inspect(db.engine).get_table_names()):
        raise error
    text = "The shop lacks shelves. Run “flask --app shop seed” to build and fill them."
    return render_template("error.html", code=503, heading="Not open yet", text=text), 503
