"""The same request under Flask with Sidearm, Pyramid with pyramid_tm, and Django's ATOMIC_REQUESTS.

Frameworks differ in what an empty request costs, so each is measured against its own: what is
compared is what a request takes more that has one transaction around one statement, and one
callback that runs after the commit. The connection is one of SQLite's in memory, held open by all
three, and reached without anybody's ORM; the statement is the same. Each is set up as cheaply as
its documentation allows: no middleware, connections that stay open, no user looked up.

Pyramid and Django are no part of the development environment: `scripts/setup bench` puts them into
a folder of their own, which comes last on the path.
"""

from __future__ import annotations

import sqlite3
import statistics
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from .measure import difference, in_turns, ratio, requester, undisturbed

ROUNDS = 200
REPEAT = 40  # requests in a turn, as in the other table

FOLDER = Path(__file__).parents[1] / ".cache/bench"
STATEMENT = "UPDATE stock SET count = count + 1"

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Site(NamedTuple):
    """One framework's application.

    Attributes:
        wsgi_app: What a server calls; ``/about`` is empty, ``/buy`` works.
        purchases: How many statements were committed.
        mails: How many callbacks ran.
    """

    wsgi_app: WSGIApp
    purchases: Callable[[], int]
    mails: Callable[[], int]


class Counter:
    """Counts what was sent."""

    def __init__(self) -> None:
        self.count = 0

    def send(self, *_: Any) -> None:
        """Send a mail."""
        self.count += 1


class Connections:
    """A pool of one connection, to a table with one row."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:")
        make_table(self.connection)
        self.connection.commit()
        self._free = [self.connection]

    def get(self) -> sqlite3.Connection:
        """Take it out."""
        return self._free.pop()

    def put(self, connection: sqlite3.Connection) -> None:
        """Put it back."""
        self._free.append(connection)

    def count(self) -> int:
        """What was committed: what is not is undone first."""
        self.connection.rollback()
        return purchases(self.connection)


def make_table(connection: Any) -> None:
    """Make the table that all of them write to."""
    connection.execute("CREATE TABLE stock (count INTEGER)")
    connection.execute("INSERT INTO stock VALUES (0)")


def purchases(connection: Any) -> int:
    """How many statements a connection sees."""
    (count,) = connection.execute("SELECT count FROM stock").fetchone()
    return int(count)


def the_work_alone() -> Callable[[], None]:
    """The statement and its commit, with no framework around."""
    connection = Connections().connection

    def work() -> None:
        connection.execute(STATEMENT)
        connection.commit()

    return work


def flask_with_sidearm() -> Site:
    """Flask: a resource of a generator function, and ``after_commit``."""
    from flask import Flask

    from sidearm import Sidearm, after_commit

    app, connections, mailbox = Flask("with_sidearm"), Connections(), Counter()
    arm = Sidearm(app)

    @arm.resource
    def get_connection() -> Any:
        connection = connections.get()
        try:
            yield connection
        finally:
            connections.put(connection)

    @app.get("/buy")
    def buy() -> str:
        get_connection().execute(STATEMENT)
        after_commit(mailbox.send)
        return "bought"

    return Site(app.wsgi_app, connections.count, lambda: mailbox.count)


def flask_alone() -> Site:
    """Flask without Sidearm: the empty request."""
    from flask import Flask

    app = Flask("flask_alone")
    app.add_url_rule("/about", view_func=lambda: "about")
    return Site(app.wsgi_app, lambda: 0, lambda: 0)


class DataManager:
    """Settles a connection as ``transaction.interfaces.IDataManager`` says."""

    def __init__(self, transaction_manager: Any, connections: Connections) -> None:
        self.transaction_manager = transaction_manager
        self.connection: Any = connections.get()
        self._connections = connections

    def sortKey(self) -> str:  # noqa: N802 - the interface's own name
        return "stock"

    def abort(self, _: Any) -> None:
        if self.connection is not None:
            self.connection.rollback()
            self._put_back()

    def tpc_begin(self, _: Any) -> None: ...

    def commit(self, _: Any) -> None: ...

    def tpc_vote(self, _: Any) -> None: ...

    def tpc_finish(self, _: Any) -> None:
        self.connection.commit()
        self._put_back()

    tpc_abort = abort

    def _put_back(self) -> None:
        self._connections.put(self.connection)
        self.connection = None


def pyramid_with_tm() -> Site:
    """Pyramid: pyramid_tm's tween, a data manager, and an after-commit hook."""
    from pyramid.config import Configurator
    from pyramid.response import Response

    connections, mailbox = Connections(), Counter()

    def buy(request: Any) -> Any:
        transaction = request.tm.get()
        manager = DataManager(request.tm, connections)
        transaction.join(manager)
        manager.connection.execute(STATEMENT)
        transaction.addAfterCommitHook(mailbox.send)
        return Response("bought")

    settings = {
        "tm.annotate_user": "false",
        "tm.commit_veto": "pyramid_tm.default_commit_veto",  # an error's status rolls back, as ours
    }
    with Configurator(settings=settings) as config:
        config.include("pyramid_tm")
        config.add_route("buy", "/buy")
        config.add_view(buy, route_name="buy")
        app = config.make_wsgi_app()
    return Site(app, connections.count, lambda: mailbox.count)


def pyramid_alone() -> Site:
    """Pyramid without pyramid_tm: the empty request."""
    from pyramid.config import Configurator
    from pyramid.response import Response

    with Configurator() as config:
        config.add_route("about", "/about")
        config.add_view(lambda _: Response("about"), route_name="about")
        app = config.make_wsgi_app()
    return Site(app, lambda: 0, lambda: 0)


def django_atomic() -> Site:
    """Django: ATOMIC_REQUESTS and one ``on_commit``; its empty view is exempt from the first.

    A process has one Django, so both views are in it; that the empty one is asked whether it is
    atomic is in Django's favour.
    """
    import django
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler
    from django.db import connection, transaction
    from django.http import HttpResponse
    from django.urls import path

    mailbox = Counter()

    def buy(_: Any) -> Any:
        connection.connection.execute(STATEMENT)  # the driver's own, as elsewhere
        transaction.on_commit(mailbox.send)
        return HttpResponse("bought")

    @transaction.non_atomic_requests
    def about(_: Any) -> Any:
        return HttpResponse("about")

    urls = types.ModuleType("benchmarks.django_urls")
    urls.urlpatterns = [path("buy", buy), path("about", about)]  # type: ignore[attr-defined]
    sys.modules[urls.__name__] = urls
    settings.configure(
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=[],
        ROOT_URLCONF=urls.__name__,
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": ":memory:",
                "ATOMIC_REQUESTS": True,
                "CONN_MAX_AGE": None,
            }
        },
    )
    django.setup()
    connection.ensure_connection()
    make_table(connection.connection)

    def count() -> int:
        assert not connection.connection.in_transaction
        return purchases(connection.connection)

    return Site(WSGIHandler(), count, lambda: mailbox.count)


def others_are_here() -> bool:
    """Whether Pyramid and Django can be imported, from ``.cache/bench`` if it is there."""
    if FOLDER.is_dir() and str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    from importlib.util import find_spec

    return all(map(find_spec, ("pyramid", "pyramid_tm", "django")))


def main() -> None:
    """Print what each takes more than its own empty request."""
    if not others_are_here():
        print("Pyramid and Django are not here; 'make bench', or scripts/setup bench, brings them.")
        return
    django = django_atomic()
    sites = {
        "Flask, Sidearm": (flask_alone(), flask_with_sidearm()),
        "Pyramid, pyramid_tm": (pyramid_alone(), pyramid_with_tm()),
        "Django, ATOMIC_REQUESTS": (django, django),
    }
    contestants = {"the work alone": the_work_alone()}
    for name, (empty, full) in sites.items():
        contestants[f"{name}: empty"] = requester(empty.wsgi_app, "/about")
        contestants[f"{name}: empty again"] = requester(empty.wsgi_app, "/about")
        contestants[name] = requester(full.wsgi_app, "/buy")
    in_turns(contestants, rounds=4, repeat=REPEAT)  # to warm up
    times = in_turns(contestants, rounds=ROUNDS, repeat=REPEAT)
    for name, (_, site) in sites.items():
        done = (site.purchases(), site.mails())
        assert done == ((ROUNDS + 4) * REPEAT,) * 2, f"{name} did {done}"

    print("What one transaction and one callback take more than the framework's own empty request,")
    print(f"in microseconds of CPU (medians of {ROUNDS} turns of {REPEAT} requests)")
    columns = ("empty", "full", "over", "at best", "to ours", "A/A")
    print("  {:<28}{:>9}{:>9}{:>9}{:>9}{:>9}{:>8}".format("", *columns))
    ours = None
    for name in sites:
        empty, again, full = times[f"{name}: empty"], times[f"{name}: empty again"], times[name]
        over = difference(full, empty)
        at_best = undisturbed(full) - undisturbed(empty)
        ours = ours or over
        print(
            f"  {name:<28}{statistics.median(empty):9.1f}{statistics.median(full):9.1f}"
            f"{over:+9.1f}{at_best:+9.1f}{over / ours:9.2f}{ratio(again, empty):8.3f}"
        )
    work = times["the work alone"]
    print(
        f"  The statement and its commit in a loop by themselves: {statistics.median(work):.1f};"
        " inside a request several times that, on all sides."
    )
