"""CPU of signing a token and of checking it, beside itsdangerous alone.

itsdangerous's URLSafeTimedSerializer is made once, and signs the same number under the same key,
with SHA-256. A token of Sidearm's knows its maximum age, of one use its identifier, and finds the
application's keys each time, so that they can be changed while it runs.

"ratio" is the median of all turns; "A/A" is itsdangerous against itself.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable

from flask import Flask
from itsdangerous import URLSafeTimedSerializer

from sidearm import Sidearm
from sidearm.resources.sqlite import SQLite

from .measure import in_turns, ratio

ROUNDS = 200
REPEAT = 200
GOAL = 1.3  # times itsdangerous
KEY = "a key of the benchmark, long enough"
USER_ID = 1234567
MAX_AGE = 7 * 86400  # seconds


def compare(name: str, *contestants: Callable[[], object]) -> str:
    """Measure one line of the table: Sidearm, itsdangerous, itsdangerous again."""
    names = ("Sidearm", "itsdangerous", "again")
    named = {each: (lambda run=run: run()) for each, run in zip(names, contestants, strict=True)}
    in_turns(named, rounds=10, repeat=REPEAT)  # to warm up
    times = in_turns(named, rounds=ROUNDS, repeat=REPEAT)
    shown = ratio(times["Sidearm"], times["itsdangerous"])
    return (
        f"  {name:<24}{statistics.median(times['itsdangerous']):14.2f}"
        f"{statistics.median(times['Sidearm']):9.2f}{shown:8.2f}"
        f"{ratio(times['again'], times['itsdangerous']):8.3f}"
        f"   at most {GOAL}: {'yes' if shown <= GOAL else 'NO'}"
    )


def main() -> None:
    """Print the table."""
    app = Flask("signing")
    app.config["SECRET_KEY"] = KEY
    arm = Sidearm(app)
    arm.use(SQLite(":memory:"))
    plain = arm.token("plain", int, max_age=MAX_AGE)
    once = arm.token("once", int, max_age=MAX_AGE, single_use=True)
    bound = arm.token("bound", int, max_age=MAX_AGE, state=lambda _: "scrypt:32768:8:1$abcdefgh")
    serializers = [
        URLSafeTimedSerializer(KEY, salt="plain", signer_kwargs={"digest_method": hashlib.sha256})
        for _ in range(2)
    ]
    one, other = serializers
    code = one.dumps(USER_ID)
    print(f"CPU of one token, in microseconds (medians of {ROUNDS} turns of {REPEAT})")
    print(
        "  {:<24}{:>14}{:>9}{:>8}{:>8}   goal".format("", "itsdangerous", "Sidearm", "ratio", "A/A")
    )
    with app.app_context():
        for kind in (plain, once, bound):
            text = kind.sign(USER_ID)
            assert kind.verify(text).payload == one.loads(code, max_age=MAX_AGE) == USER_ID
            print(
                compare(
                    f"sign, {kind.purpose}",
                    lambda kind=kind: kind.sign(USER_ID),
                    lambda: one.dumps(USER_ID),
                    lambda: other.dumps(USER_ID),
                )
            )
            print(
                compare(
                    f"check, {kind.purpose}",
                    lambda kind=kind, text=text: kind.verify(text),
                    lambda: one.loads(code, max_age=MAX_AGE),
                    lambda: other.loads(code, max_age=MAX_AGE),
                )
            )


if __name__ == "__main__":
    main()
