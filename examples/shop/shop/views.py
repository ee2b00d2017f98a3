"""The shop's pages, its stream, and the figures that a page asks for after a gap."""

from __future__ import annotations

from typing import Any

from flask import (
    Blueprint,
    Response,
    current_app,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask_sqlalchemy.pagination import Pagination
from sqlalchemy import Select, select

from sidearm import EventStream, event_stream

from .accounts import logged_in_account
from .database import db
from .errors import FailedHalfWay
from .forms import MOST_AT_ONCE, PurchaseForm
from .mail import smtp_server
from .models import LOW_STOCK, STOCK_WORDS, Category, Mail, Order, Product
from .purchases import (
    SoldOut,
    customer_for,
    latest_sales,
    purchase_product,
    sale_news,
    stock_news,
)

PAGE_SIZE = 24
MAILS_SHOWN = 50

SORTINGS = {
    "shelf": ("By shelf", (Product.category_id, Product.id)),
    "name": ("By name", (Product.name,)),
    "cheap": ("Price, low first", (Product.price, Product.name)),
    "dear": ("Price, high first", (Product.price.desc(), Product.name)),
}

shop = Blueprint("shop", __name__)


@shop.app_template_global()
def stock_level(stock: int) -> str:
    """``none``, ``low`` or ``plenty``."""
    if stock <= 0:
        return "none"
    return "low" if stock <= LOW_STOCK else "plenty"


@shop.app_template_global()
def stock_label(stock: int) -> str:
    """The stock in words."""
    return STOCK_WORDS[stock_level(stock)].format(n=stock)


@shop.app_template_filter()
def money(cents: int) -> str:
    """Cents as euros, such as ``€1,234.50``."""
    return f"€{cents // 100:,}.{cents % 100:02d}"


@shop.app_context_processor
def add_template_names() -> dict[str, Any]:
    """What the frame of every page uses."""
    return {
        "latest_sales": latest_sales,
        "live_words": {"stock": STOCK_WORDS, "low": LOW_STOCK},
        "most_at_once": MOST_AT_ONCE,
    }


@shop.get("/")
def index() -> str:
    """All products, page by page; searched, filtered and sorted by the query."""
    shelf = request.args.get("category", "")
    words = request.args.get("q", "").strip()[:80]
    sorting = request.args.get("sort", "shelf")
    if sorting not in SORTINGS:
        sorting = "shelf"
    categories = db.session.scalars(select(Category).order_by(Category.id)).all()
    category = next((each for each in categories if each.slug == shelf), None)
    page: Pagination = db.paginate(
        _matching(category, words).order_by(*SORTINGS[sorting][1]), per_page=PAGE_SIZE
    )
    return render_template(
        "index.html",
        page=page,
        categories=categories,
        category=category,
        words=words,
        sorting=sorting,
        sortings={key: label for key, (label, _order) in SORTINGS.items()},
    )


def _matching(category: Category | None, words: str) -> Select[tuple[Product]]:
    """Products of the category; every word is in the name, the description or the shelf's name."""
    query = select(Product).join(Product.category)
    if category is not None:
        query = query.where(Product.category_id == category.id)
    for word in words.split():
        query = query.where(
            Product.name.icontains(word, autoescape=True)
            | Product.description.icontains(word, autoescape=True)
            | Category.name.icontains(word, autoescape=True)
        )
    return query


@shop.get("/products/<slug>")
def product(slug: str) -> str:
    """One product, its live stock, and the form to buy it."""
    account = logged_in_account()
    form = PurchaseForm(email=account.email_address if account else session.get("email", ""))
    return _product_page(_find_product(slug), form)


@shop.post("/products/<slug>")
def buy(slug: str) -> Any:
    """Buy, and go to the order's page; or show the form again, saying what is wrong."""
    product = _find_product(slug)
    form = PurchaseForm()
    if not form.validate():
        return _product_page(product, form), 422
    try:
        order = purchase_product(
            product, customer_for(form.address), form.count, logged_in_account()
        )
    except SoldOut as sold_out:
        left = sold_out.product.stock
        form.quantity.errors = [
            f"There are only {left} left. Somebody was faster." if left else "Just sold out. Sorry!"
        ]
        return _product_page(product, form), 409
    if form.fail.data:
        raise FailedHalfWay(product.id, form.count)
    session["email"] = form.address
    return redirect(url_for("shop.order", number=order.number), 303)


def _find_product(slug: str) -> Product:
    product: Product = db.one_or_404(select(Product).where(Product.slug == slug))
    return product


def _product_page(product: Product, form: PurchaseForm) -> str:
    beside = db.session.scalars(
        select(Product)
        .where(Product.category_id == product.category_id, Product.id > product.id)
        .order_by(Product.id)
        .limit(3)
    ).all()
    return render_template("product.html", product=product, form=form, beside=beside)


@shop.get("/orders/<number>")
def order(number: str) -> str:
    """The customer's receipt; who knows the number may see it."""
    order = db.one_or_404(select(Order).where(Order.number == number))
    return render_template("order.html", order=order, watched=order.number, smtp=smtp_server())


@shop.get("/mailbox")
def mailbox() -> str:
    """The mails that would have been sent, newest first."""
    mails = db.session.scalars(select(Mail).order_by(Mail.id.desc()).limit(MAILS_SHOWN)).all()
    return render_template("mailbox.html", mails=mails, smtp=smtp_server())


@shop.get("/streams/shop")
def stream() -> EventStream:
    """The news of all pages: stock, what was just sold, and of one order, that it is paid."""
    account = logged_in_account()
    tags = [account.stream_tag] if account else []
    order = _watched_order()
    return event_stream("stock", "sold", *([order.channel] if order else []), tags=tags)


def _watched_order() -> Order | None:
    """The order on whose page a window is, which names it by its number."""
    number = request.args.get("order")
    found: Order | None = (
        db.session.scalars(select(Order).where(Order.number == number)).first() if number else None
    )
    return found


@shop.get("/stock.json")
def stock() -> dict[str, Any]:
    """All that is live, as it is now: the stock of each product asked for, and the last sales."""
    wanted = request.args.getlist("id", type=int)[: PAGE_SIZE * 2]
    products = db.session.scalars(select(Product).where(Product.id.in_(wanted)))
    watched = _watched_order()
    return {
        "stock": [stock_news(product) for product in products],
        "sold": [sale_news(order) for order in reversed(latest_sales())],
        "paid": [{"order": watched.number}] if watched and watched.payment else [],
    }


@shop.get("/favicon.ico")
def favicon() -> Response:
    """For browsers that ask without reading the page."""
    return current_app.send_static_file("favicon.svg")
