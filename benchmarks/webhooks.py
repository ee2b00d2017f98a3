"""CPU of verifying a webhook, beside the senders' own libraries.

Standard Webhooks' ``Webhook`` is made once, and parses no JSON; of Stripe's it is
``WebhookSignature.verify_header``, which makes no event either. Sidearm's side reads the delivery's
id too, which Stripe has in the body: so "with its id" is that and ``json.loads``. The headers are
Werkzeug's, as in a request, for Sidearm, and what each library takes for the others.

"ratio" is the median of all turns; "A/A" is the library against itself.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from werkzeug.datastructures import Headers

from sidearm.bodies.sources import Source, sources_of

from .frameworks import others_are_here
from .measure import in_turns, ratio

ROUNDS = 150
REPEAT = 100
GOAL = 1.0  # times the library
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SIZES = (1 << 10, 64 << 10)  # bytes


def body_of(size: int) -> bytes:
    """An event of about so many bytes."""
    text = "x" * (size - 100)
    return f'{{"id": "evt_1", "object": "event", "data": {{"text": "{text}"}}}}'.encode()


def compare(
    name: str, ours: Callable[[], Any], theirs: Callable[[], Any], *, alike: bool = True
) -> str:
    """Measure one line of the table: Sidearm, the library, the library again.

    Args:
        name: The line's.
        ours: Sidearm.
        theirs: The library.
        alike: Whether both do the same, so that there is a goal.
    """
    named = {"ours": ours, "theirs": theirs, "again": lambda: theirs()}  # noqa: PLW0108 - a contestant of its own
    in_turns(named, rounds=10, repeat=REPEAT)  # to warm up
    times = in_turns(named, rounds=ROUNDS, repeat=REPEAT)
    shown = ratio(times["ours"], times["theirs"])
    return (
        f"  {name:<24}{statistics.median(times['theirs']):9.2f}"
        f"{statistics.median(times['ours']):9.2f}{shown:8.2f}"
        f"{ratio(times['again'], times['theirs']):8.3f}"
        + (f"   at most {GOAL:.1f}: {'yes' if shown <= GOAL else 'NO'}" if alike else "")
    )


def sent(source: Source, body: bytes) -> dict[str, str]:
    """The headers of a delivery that was sent just now."""
    return source.scheme.sign(body, now=time.time(), id="msg_1")


def main() -> None:
    """Print the table."""
    if not others_are_here():
        return
    import standardwebhooks
    import stripe

    sources = sources_of(
        {
            "standard": {"scheme": "standard", "secrets": [SECRET]},
            "stripe": {"scheme": "stripe", "secrets": [SECRET]},
        }
    )
    webhook = standardwebhooks.Webhook(SECRET)
    verify_header = stripe.WebhookSignature.verify_header
    print(f"CPU of verifying one webhook, in microseconds (medians of {ROUNDS} turns of {REPEAT})")
    print("  {:<24}{:>9}{:>9}{:>8}{:>8}   goal".format("", "library", "Sidearm", "ratio", "A/A"))
    for size in SIZES:
        body = body_of(size)
        source = sources["standard"]
        given = sent(source, body)
        headers = Headers(given)
        assert source.verify(headers, body).id == "msg_1"
        print(
            compare(
                f"standard, {size >> 10} KiB",
                lambda source=source, headers=headers, body=body: source.verify(headers, body),
                lambda given=given, body=body: webhook.verify(body, given, json_parse=False),
            )
        )
        source = sources["stripe"]
        given = sent(source, body)
        headers = Headers(given)
        assert source.verify(headers, body).id == "evt_1"
        print(
            compare(
                f"stripe, {size >> 10} KiB",
                lambda source=source, headers=headers, body=body: source.verify(headers, body),
                lambda given=given, body=body: verify_header(
                    body, given["Stripe-Signature"], SECRET, 300
                ),
                alike=False,
            )
        )
        print(
            compare(
                "  with its id",
                lambda source=source, headers=headers, body=body: source.verify(headers, body),
                lambda given=given, body=body: (
                    verify_header(body, given["Stripe-Signature"], SECRET, 300),
                    json.loads(body)["id"],
                ),
            )
        )


if __name__ == "__main__":
    main()
