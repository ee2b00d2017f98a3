"""What the shop remembers: products, customers, accounts, orders, and mails that nobody sent."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .database import Base

# How a stock is said, on the server and, by the same table, in static/live.js.
STOCK_WORDS = {"none": "Sold out", "low": "Only {n} left", "plenty": "{n} in stock"}
LOW_STOCK = 5  # pieces, and fewer


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)  # SQLite keeps no zone: all times are UTC


def _number() -> str:
    return secrets.token_urlsafe(9)  # an order's page shows an address: it must not be guessable


def new_key() -> str:
    """A key that nobody can guess, for the sessions of an account."""
    return secrets.token_urlsafe(24)


class Category(Base):
    """A shelf of the shop."""

    __tablename__ = "categories"

    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(String(40), unique=True)
    name: Mapped[str] = mapped_column(String(80))
    blurb: Mapped[str] = mapped_column(String(200))
    products: Mapped[list[Product]] = relationship(back_populates="category")


class Product(Base):
    """Something on a shelf. Its stock changes only by :func:`shop.purchases.take`.

    Attributes:
        price: In cents.
        version: Grows with every change of the stock, so that whoever hears of two changes in the
            wrong order knows which one is newer.
    """

    __tablename__ = "products"
    __table_args__ = (CheckConstraint("stock >= 0", name="stock_is_not_negative"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(String(80), unique=True)
    name: Mapped[str] = mapped_column(String(80))
    description: Mapped[str] = mapped_column(String(200))
    price: Mapped[int]
    stock: Mapped[int]
    version: Mapped[int] = mapped_column(default=1)
    category_id: Mapped[int] = mapped_column(ForeignKey("categories.id"), index=True)
    category: Mapped[Category] = relationship(back_populates="products", lazy="joined")

    def __str__(self) -> str:
        return self.name


class Customer(Base):
    """Somebody who bought something; all that we know is an address."""

    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    email_address: Mapped[str] = mapped_column(String(254), unique=True)
    orders: Mapped[list[Order]] = relationship(back_populates="customer")


class Account(Base):
    """Somebody who can log in.

    Attributes:
        password_hash: ``None`` until the link in the mail was followed.
        session_key: By what a session finds its account. A new one ends all sessions.
    """

    __tablename__ = "accounts"
    # An address in other capitals is the same account.
    __table_args__ = (Index("one_account_per_address", text("lower(email_address)"), unique=True),)

    id: Mapped[int] = mapped_column(primary_key=True)
    email_address: Mapped[str] = mapped_column(String(254))
    password_hash: Mapped[str | None] = mapped_column(String(255))
    session_key: Mapped[str] = mapped_column(String(40), unique=True, default=new_key)

    @property
    def is_active(self) -> bool:
        """Whether it was activated."""
        return self.password_hash is not None

    @property
    def stream_tag(self) -> str:
        """The tag of the streams that this account has open."""
        return f"account:{self.id}"

    # What Flask-Login asks, beside is_active.
    is_authenticated = True
    is_anonymous = False

    def get_id(self) -> str:
        """What is kept in the session."""
        return self.session_key


class AccountOrder(Base):
    """An order that was made by somebody who was logged in.

    A table of its own, so that databases from before there were accounts need no other change.
    """

    __tablename__ = "account_orders"

    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("accounts.id"), index=True)


class Order(Base):
    """One purchase of one product.

    Attributes:
        number: What the customer sees, and what the order's page is found by.
        price: For one piece, in cents, on the day of the purchase.
    """

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str] = mapped_column(String(20), unique=True, default=_number)
    quantity: Mapped[int]
    price: Mapped[int]
    ordered_at: Mapped[datetime] = mapped_column(default=_now)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), index=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("products.id"), index=True)
    customer: Mapped[Customer] = relationship(back_populates="orders", lazy="joined")
    product: Mapped[Product] = relationship(lazy="joined")
    account: Mapped[Account | None] = relationship(secondary="account_orders", viewonly=False)
    payment: Mapped[Payment | None] = relationship(viewonly=True)

    @property
    def total(self) -> int:
        """In cents."""
        return self.price * self.quantity

    @property
    def channel(self) -> str:
        """What its page listens to; who knows the number may."""
        return f"order:{self.number}"


class Payment(Base):
    """That an order was paid; a table of its own, as above."""

    __tablename__ = "order_payments"

    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), primary_key=True)
    paid_at: Mapped[datetime] = mapped_column(default=_now)


class Mail(Base):
    """A mail in the demo mailbox, which stands in for an SMTP server."""

    __tablename__ = "mails"

    id: Mapped[int] = mapped_column(primary_key=True)
    recipient: Mapped[str] = mapped_column(String(254))
    subject: Mapped[str] = mapped_column(String(200))
    body: Mapped[str]
    sent_at: Mapped[datetime] = mapped_column(default=_now)
