"""Pools that can be reached past their front, where nothing stands before them."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx

from .findings import Finding, fault
from .probing import Answer, Prober, hops_of
from .target import Target


def examine_pool(
    prober: Prober, target: Target, page: Answer, pool: str, *, is_named: bool
) -> Iterator[Finding | str]:
    """See whether a pool answers.

    Args:
        prober: Who asks.
        target: What is examined.
        page: The first page, as the front gives it.
        pool: The pool's URL.
        is_named: Whether the operator named it; else it has to show that it is the application.
    """
    try:
        answer = prober.get(pool, Accept_Encoding="identity")
    except httpx.HTTPError:
        yield f"{pool} cannot be reached from here."
        return
    if not is_named and not _is_application(prober, target, page, answer, pool):
        return
    yield fault(
        "pool-reachable",
        pool,
        f"The pool answers {answer.head.status_code} past its front"
        f" ({', '.join(hops_of(answer.head)) or 'it does not tell its name'}). Who comes this way"
        " forges X-Forwarded-For and the like, and is held by no limit of the front.",
        "Bind it to 127.0.0.1 or to a Unix socket, or close the port in the firewall.",
    )


def _is_application(
    prober: Prober, target: Target, page: Answer, answer: Answer, pool: str
) -> bool:
    for stream in target.streams:
        try:
            head = prober.get(pool.rstrip("/") + urlsplit(stream).path, "HEAD").head
        except httpx.HTTPError:
            continue
        if head.headers.get("Content-Type", "").startswith("text/event-stream"):
            return True
    same = answer.head.status_code == page.head.status_code
    return same and bool(answer.body) and answer.text == page.text
