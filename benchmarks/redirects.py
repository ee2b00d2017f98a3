"""Time of a verdict on a redirect, beside Django's ``url_has_allowed_host_and_scheme``.

Sidearm's side is all that a redirect costs: ``is_safe_url``, and the look at the response's final
headers before it leaves; it reads the settings and the request's origin too, which Django's
function is given. Each turn asks about other targets, for both alike: Python remembers the last
128 URLs that it has split, and Django splits with it. "every response" is what one that does not
redirect pays for being looked at, over a plain request.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from typing import Any

from flask import Flask, redirect
from flask.globals import _cv_request

from sidearm import Sidearm, is_safe_url
from sidearm.redirects.leaving import check_redirects

from .frameworks import others_are_here
from .measure import difference, in_turns, ratio, requester

ROUNDS = 200
REPEAT = 250
HOST = "app.example:8000"
#: Targets by kind, with a number in them that makes each a new one.
KINDS = {
    "a path": "/orders/{}?page=2",
    "this origin": f"http://{HOST}/orders/{{}}?page=2",
    "other letters": "/käse/{}?q=日本",
    "another host": "//evil.example/{}",
    "another scheme": "javascript:alert({})",
    "a trick": "/\t/evil.example/{}",
}
GOAL = 1.0  # times as much as Django's


def contestants(kind: str) -> dict[str, Callable[[], None]]:
    """What both do with targets of one kind, each with a target that it has not seen lately."""
    from django.utils.http import url_has_allowed_host_and_scheme

    targets = [KINDS[kind].format(number) for number in range(2000)]
    safe = is_safe_url(targets[0])
    assert safe == url_has_allowed_host_and_scheme(targets[0], {HOST})
    # A response is made for every redirect by both, and is not what is measured.
    cases = [(target, redirect(target if safe else "/")) for target in targets]
    allowed, context = {HOST}, _cv_request.get()

    def sidearm(following: Any) -> Callable[[], None]:
        def run() -> None:
            target, response = next(following)
            vars(context).pop("_sidearm_destinations", None)  # as in a new request
            assert is_safe_url(target) == safe
            assert check_redirects(response, refuse=True) is response

        return run

    def django(following: Any) -> Callable[[], None]:
        def run() -> None:
            target, _ = next(following)
            assert url_has_allowed_host_and_scheme(target, allowed) == safe

        return run

    return {
        "Sidearm": sidearm(itertools.cycle(cases)),
        "Django": django(itertools.cycle(cases)),
        "Django again": django(itertools.cycle(cases[1000:] + cases[:1000])),
    }


def compare(kind: str) -> str:
    """Measure one kind, and give its line of the table."""
    sides = contestants(kind)
    in_turns(sides, rounds=4, repeat=REPEAT)  # to warm up
    times = in_turns(sides, rounds=ROUNDS, repeat=REPEAT)
    share = ratio(times["Sidearm"], times["Django"])
    return (
        f"  {kind:<16}{statistics.median(times['Django']):9.2f}"
        f"{statistics.median(times['Sidearm']):9.2f}{share:8.2f}"
        f"{ratio(times['Django again'], times['Django']):8.3f}"
        f"   at most {GOAL:g}: {'yes' if share <= GOAL else 'NO'}"
    )


def compare_responses() -> str:
    """What an ordinary response pays for the look at its headers."""
    requests: dict[str, Callable[[], None]] = {}
    for name, mode in (("off", "off"), ("off again", "off"), ("log", "log")):
        app = make_app(mode)
        app.add_url_rule("/about", view_func=lambda: "about")
        requests[name] = requester(app.wsgi_app, "/about")
    in_turns(requests, rounds=4, repeat=40)
    times = in_turns(requests, rounds=300, repeat=40)
    over = difference(times["log"], times["off"])
    return (
        f"  {'every response':<16}{statistics.median(times['off']):9.2f}"
        f"{statistics.median(times['log']):9.2f}{ratio(times['log'], times['off']):8.3f}"
        f"{ratio(times['off again'], times['off']):8.3f}   ({over:+.2f} microseconds)"
    )


def make_app(mode: str = "log") -> Flask:
    """An application with Sidearm."""
    app = Flask("redirects")
    app.config["SIDEARM_CHECK_REDIRECTS"] = mode
    Sidearm(app)
    return app


def main() -> None:
    """Print the table."""
    if not others_are_here():
        print("Django is not here; 'make bench', or scripts/setup bench, brings it.")
        return
    print(f"A verdict on a redirect, in microseconds (medians of {ROUNDS} turns of {REPEAT})")
    columns = ("Django", "Sidearm", "ratio", "A/A")
    print("  {:<16}{:>9}{:>9}{:>8}{:>8}   goal".format("", *columns))
    app = make_app()
    with app.test_request_context("/account/login", base_url=f"http://{HOST}"):
        for kind in KINDS:
            print(compare(kind))
    print("  {:<16}{:>9}{:>9}{:>8}{:>8}".format("", "off", "log", "ratio", "A/A"))
    print(compare_responses())


if __name__ == "__main__":
    main()
