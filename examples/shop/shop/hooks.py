"""What other services tell the shop: payments, by signed webhooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import Blueprint, abort
from sqlalchemy import select

from sidearm import Delivery, publish, verify_webhook

from .database import db, insert_if_new
from .models import Order, Payment

hooks = Blueprint("hooks", __name__, url_prefix="/hooks")


@dataclass
class Paid:
    """What a payment says.

    Attributes:
        order: The order's number.
        amount: In cents.
    """

    order: str
    amount: int


@dataclass
class PaymentSucceeded:
    """An event of the payment service."""

    data: Paid


@hooks.post("/payments")
@verify_webhook("payments", once=db)
def payment(delivery: Delivery) -> tuple[str, int]:
    """Note that an order is paid, and show it on its page."""
    if delivery.json(dict[str, Any]).get("type") != "payment.succeeded":
        return "", 204
    paid: Paid = delivery.json(PaymentSucceeded).data
    order = db.one_or_404(select(Order).where(Order.number == paid.order))
    if paid.amount != order.total:
        abort(422, f"The order costs {order.total} cents, and {paid.amount} were paid.")
    insert_if_new(Payment, order_id=order.id)
    publish(order.channel, {"order": order.number}, event="paid")
    return "", 204
