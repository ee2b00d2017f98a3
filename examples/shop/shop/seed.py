"""``flask --app shop seed``: the tables, and the products of catalogue.toml."""

from __future__ import annotations

import re
import tomllib
import zlib
from pathlib import Path

import click
from flask.cli import with_appcontext
from sqlalchemy import func, select

from .database import db
from .models import Category, Product

CATALOGUE = Path(__file__).with_name("catalogue.toml")


@click.command()
@with_appcontext
def seed() -> None:
    """Create the tables, and fill an empty shop with products."""
    db.create_all()
    known = db.session.scalar(select(func.count(Product.id))) or 0
    if known:
        click.echo(f"The shop already has {known} products; nothing to do.")
        return
    categories = read_catalogue()
    db.session.add_all(categories)
    db.session.flush()  # so that the line below is true; the command's task commits
    count = sum(len(category.products) for category in categories)
    click.echo(f"The shop has {count} products in {len(categories)} categories.")


def read_catalogue() -> list[Category]:
    """The catalogue as new, unsaved rows; the same ones each time."""
    with CATALOGUE.open("rb") as file:
        shelves = tomllib.load(file)["category"]
    return [
        Category(
            slug=shelf["slug"],
            name=shelf["name"],
            blurb=shelf["blurb"],
            products=[_product(*fields) for fields in shelf["products"]],
        )
        for shelf in shelves
    ]


def _product(name: str, price: int, description: str) -> Product:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return Product(slug=slug, name=name, price=price, description=description, stock=_stock(slug))


def _stock(slug: str) -> int:
    """A stock that looks like a real one: mostly plenty, sometimes low, now and then none."""
    number = zlib.crc32(slug.encode())
    if number % 29 == 0:
        return 0
    return 1 + number % 5 if number % 7 == 0 else 6 + number % 43
