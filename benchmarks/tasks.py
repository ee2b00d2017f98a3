"""CPU of a request with one resource and one callback, beside the talk's slides written by hand.

The hand-written application is the slides' (rows 2c to 2e of the talk) with their faults mended:
one key of ``g``, a commit before the response leaves and none for an error's response, callbacks
each on its own, also without a connection, and before the release, and a teardown that may run
twice. It still commits what an error handler turns into a page that is no error, keeps no record,
and knows neither independent tasks nor who commits; what Sidearm takes more is the price of those.

Requests are direct WSGI calls in this process, so that nothing but the application is measured.
"over" is the median of all turns; "at best" compares the tenth of them that other programs
disturbed least; "share" is that over a plain request, on Flask alone, and what the goal is about.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, g

from sidearm import Sidearm, after_commit

from . import frameworks, tasks_memory
from .measure import difference, in_turns, ratio, requester, undisturbed

ROUNDS = 300
REPEAT = 40  # short turns: whatever else the machine does falls into few of them
#: Microseconds on a machine on which a request that does nothing, without any of this, takes 50.
#: Machines differ, and everything here is as slow as theirs: so goals are shares of that request.
GOALS = {"one resource, one callback": 8.0, "no resource": 3.0}
PLAIN = 50.0  # microseconds


class Connection:
    """A connection that costs next to nothing, so that what is left is the framework's."""

    def __init__(self) -> None:
        self.commits = self.rollbacks = self.purchases = 0

    def execute(self) -> None:
        """Do some work."""
        self.purchases += 1

    def commit(self) -> None:
        """Keep it."""
        self.commits += 1

    def rollback(self) -> None:
        """Undo it."""
        self.rollbacks += 1


class Pool:
    """A pool of one connection."""

    def __init__(self) -> None:
        self.connection = Connection()
        self._free = [self.connection]

    def get_connection(self) -> Connection:
        """Take it out."""
        return self._free.pop()

    def release_connection(self, connection: Connection) -> None:
        """Put it back."""
        self._free.append(connection)


class Mailbox:
    """Counts what was sent."""

    def __init__(self) -> None:
        self.count = 0

    def send(self) -> None:
        """Send a mail."""
        self.count += 1


def written_by_hand() -> tuple[Flask, Pool, Mailbox]:  # noqa: C901 - views and hooks are closures
    """The slides' application, mended."""
    app, pool, mailbox = Flask("by_hand"), Pool(), Mailbox()

    def get_database_connection() -> Connection:
        connection: Connection | None = getattr(g, "database_connection", None)
        if connection is None:
            g.database_connection = connection = pool.get_connection()
        return connection

    def after_commit(callback: Callable[[], None]) -> Callable[[], None]:
        callbacks = getattr(g, "on_commit_callbacks", None)
        if callbacks is None:
            g.on_commit_callbacks = callbacks = []
        callbacks.append(callback)
        return callback

    @app.after_request
    def settle(response: Response) -> Response:
        connection = getattr(g, "database_connection", None)
        if connection is not None:
            if response.status_code >= 400:
                connection.rollback()
                return response
            try:
                connection.commit()
            except Exception:
                connection.rollback()
                raise
        for callback in g.pop("on_commit_callbacks", ()):
            try:
                callback()
            except Exception:
                app.logger.exception("A callback failed.")
        return response

    @app.teardown_appcontext
    def return_database_connection(error: BaseException | None = None) -> None:
        connection = g.pop("database_connection", None)
        if connection is None:
            return
        try:
            if error is not None:
                connection.rollback()
        finally:
            pool.release_connection(connection)

    add_views(app, get_database_connection, after_commit, mailbox)
    return app, pool, mailbox


def written_with_sidearm() -> tuple[Flask, Pool, Mailbox]:
    """The same application on Sidearm."""
    app, pool, mailbox = Flask("with_sidearm"), Pool(), Mailbox()
    arm = Sidearm(app)

    @arm.resource
    def get_database_connection() -> Any:
        connection = pool.get_connection()
        try:
            yield connection
        finally:
            pool.release_connection(connection)

    add_views(app, get_database_connection, after_commit, mailbox)
    return app, pool, mailbox


def add_views(
    app: Flask,
    get_database_connection: Callable[[], Connection],
    after_commit: Callable[[Callable[[], None]], Any],
    mailbox: Mailbox,
) -> None:
    """Add the views, which are the same in both."""

    @app.get("/buy")
    def buy() -> str:
        get_database_connection().execute()

        @after_commit
        def send_success_mail() -> None:
            mailbox.send()

        return "bought"

    @app.get("/about")
    def about() -> str:
        return "about"


def compare(path: str, goal_name: str) -> str:
    """Measure one path, and give its line of the table."""
    by_hand, hand_pool, hand_mailbox = written_by_hand()
    with_sidearm, pool, mailbox = written_with_sidearm()
    plain = Flask("plain")
    plain.add_url_rule("/about", view_func=lambda: "about")
    contestants = {
        "plain": requester(plain.wsgi_app, "/about"),
        "by hand": requester(by_hand.wsgi_app, path),
        "by hand again": requester(by_hand.wsgi_app, path),
        "Sidearm": requester(with_sidearm.wsgi_app, path),
    }
    in_turns(contestants, rounds=4, repeat=REPEAT)  # to warm up
    times = in_turns(contestants, rounds=ROUNDS, repeat=REPEAT)
    requests = (ROUNDS + 4) * REPEAT if path == "/buy" else 0
    check(pool, mailbox, requests)
    check(hand_pool, hand_mailbox, 2 * requests)

    over = difference(times["Sidearm"], times["by hand"])
    at_best = undisturbed(times["Sidearm"]) - undisturbed(times["by hand"])
    share = at_best / undisturbed(times["plain"])
    goal = GOALS[goal_name] / PLAIN
    return (
        f"  {goal_name:<28}{statistics.median(times['plain']):9.1f}"
        f"{statistics.median(times['by hand']):9.1f}"
        f"{statistics.median(times['Sidearm']):9.1f}{over:+9.1f}{at_best:+9.1f}"
        f"{ratio(times['Sidearm'], times['by hand']):8.2f}"
        f"{ratio(times['by hand again'], times['by hand']):8.3f}"
        f"{share:+8.1%}   at most {goal:.0%}: {'yes' if share <= goal else 'NO'}"
    )


def check(pool: Pool, mailbox: Mailbox, requests: int) -> None:
    """See to it that everything that was measured was also done."""
    connection = pool.connection
    done = (connection.purchases, connection.commits, mailbox.count)
    assert done == (requests,) * 3, f"{done}, not {requests}"
    assert connection.rollbacks == 0


def main() -> None:
    """Print the table."""
    print(f"CPU of one request, in microseconds (medians of {ROUNDS} turns of {REPEAT} requests)")
    columns = ("plain", "by hand", "Sidearm", "over", "at best")
    ratios = ("ratio", "A/A", "share")
    print("  {:<28}{:>9}{:>9}{:>9}{:>9}{:>9}{:>8}{:>8}{:>8}   goal".format("", *columns, *ratios))
    print(compare("/buy", "one resource, one callback"))
    print(compare("/about", "no resource"))
    print()
    frameworks.main()
    print()
    tasks_memory.main()


if __name__ == "__main__":
    main()
