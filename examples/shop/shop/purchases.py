"""Buying: stock, order, mail and news are one piece of work, or none of it happens."""

from __future__ import annotations

from typing import Any

from flask import render_template
from sqlalchemy import select, update

from sidearm import after_commit, publish

from .database import db, insert_if_new
from .mail import send_mail
from .models import Account, Customer, Order, Product


class SoldOut(Exception):
    """There is less in stock than somebody wants.

    Attributes:
        product: With the stock as it is now.
    """

    def __init__(self, product: Product) -> None:
        self.product = product
        super().__init__(f"There are only {product.stock} of {product.name!r}.")


def take(product: Product, quantity: int) -> None:
    """Take some pieces off the shelf.

    One statement looks and takes, so two customers at once cannot take the same last piece: the
    database lets the second one look only when the first has committed or given up.

    Raises:
        SoldOut: There are not enough.
    """
    taken = db.session.execute(
        update(Product)
        .where(Product.id == product.id, Product.stock >= quantity)
        .values(stock=Product.stock - quantity, version=Product.version + 1)
        .returning(Product.id)
        .execution_options(synchronize_session=False)
    ).first()
    db.session.refresh(product)
    if taken is None:
        raise SoldOut(product)


def customer_for(email_address: str) -> Customer:
    """The customer with this address, who may be a new one.

    Args:
        email_address: A checked one; see :func:`shop.forms.parse_email_address`.
    """
    insert_if_new(Customer, email_address=email_address)
    return db.session.scalars(select(Customer).filter_by(email_address=email_address)).one()


def purchase_product(
    product: Product, customer: Customer, quantity: int = 1, account: Account | None = None
) -> Order:
    """Sell some pieces of a product. The caller's task commits; nobody hears of it before.

    Args:
        product: What is sold.
        customer: Who gets the mail.
        quantity: How many pieces.
        account: Who finds the order among their own, if somebody is logged in.

    Raises:
        SoldOut: There are not enough.
    """
    take(product, quantity)
    order = Order(customer=customer, product=product, quantity=quantity, price=product.price)
    order.account = account
    db.session.add(order)
    db.session.flush()

    # What is held leaves in this order, so the windows need not wait for the mail server.
    publish("stock", stock_news(product), event="stock")
    publish("sold", sale_news(order), event="sold")

    @after_commit
    def send_success_mail() -> None:
        body = render_template(
            "mails/product_purchased.txt", customer=customer, product=product, order=order
        )
        send_mail(customer.email_address, f"Product purchased: {product.name}", body)

    return order


def stock_news(product: Product) -> dict[str, Any]:
    """What a page has to know of a product's stock: the new value, not a difference."""
    return {"id": product.id, "stock": product.stock, "version": product.version}


def sale_news(order: Order) -> dict[str, Any]:
    """What everybody may know of an order: not who bought."""
    return {
        "id": order.id,
        "product": order.product.name,
        "slug": order.product.slug,
        "quantity": order.quantity,
        "at": f"{order.ordered_at.isoformat(timespec='seconds')}Z",
    }


def latest_sales(count: int = 6) -> list[Order]:
    """The newest orders, newest first."""
    return list(db.session.scalars(select(Order).order_by(Order.id.desc()).limit(count)))
