"""What the shop remembers: products, customers, their orders, and mails that nobody had to send."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from sqlalchemy import CheckConstraint, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .database import Base

# How a stock is said, on the server and, by the same table, in static/live.js.
STOCK_WORDS = {"none": "Sold out", "low": "Only {n} left", "plenty": "{n} in stock"}
LOW_STOCK = 5  # pieces, and fewer


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)  # SQLite keeps no zone: all times are UTC


def _number() -> str:
    return secrets.token_urlsafe(9)  # an order's page shows an address: it must not be guessable


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

    @property
    def total(self) -> int:
        """In cents."""
        return self.price * self.quantity


class Mail(Base):
    """A mail in the demo mailbox, which stands in for an SMTP server."""

    __tablename__ = "mails"

    id: Mapped[int] = mapped_column(primary_key=True)
    recipient: Mapped[str] = mapped_column(String(254))
    subject: Mapped[str] = mapped_column(String(200))
    body: Mapped[str]
    sent_at: Mapped[datetime] = mapped_column(default=_now)
