"""What is wrong with a stream: who holds its events back, who cuts it, who keeps it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx

from ..hub.eventstream import MEDIA_TYPE
from .findings import Finding, fault, note
from .probing import AT_ONCE, Prober, Watched, hops_of, is_encoded, told
from .target import Target

_STOPS = "A plain EventSource that gets this never comes back (HTML 9.2.3); sidearm.js tries again."
_UNBUFFERED = {
    "nginx": (
        '"proxy_buffering off;" in the location of the stream, as "flask sidearm export nginx"'
        " writes it, or let nginx obey X-Accel-Buffering (no proxy_ignore_headers)"
    ),
    "caddy": '"flush_interval -1" in the reverse_proxy of the stream',
    "cloudflare": "a rule that turns response buffering and transformations off for this path",
    "varnish": '"return (pipe)" for this path',
}


def examine_stream(prober: Prober, target: Target, url: str) -> Iterator[Finding | str]:
    """Watch one stream.

    Args:
        prober: Who asks.
        target: What is examined.
        url: The stream's.

    Yields:
        Findings, and lines about what is right.
    """
    try:
        watched = prober.watch(url)
    except httpx.HTTPError as error:
        yield fault(
            "stream-unanswered",
            url,
            f"The stream does not answer: {told(error)}.",
            "See what the front's log says of this path.",
        )
        return
    if watched is None:
        yield _held_back(prober, target, url)
        return
    problem = _no_stream(watched)
    if problem is not None:
        yield problem
        return
    yield from _head(watched)
    yield from _course(watched, target)
    yield note(
        "plain-eventsource",
        url,
        "While the front answers 502, 503 or 429 (a restart, its own limit), or 401 after a"
        " log-out, a plain EventSource stops for good. It cannot see the status either.",
        "Use sidearm.js, which tries again and tells the page, or open the EventSource anew from"
        " its error handler.",
    )


def _held_back(prober: Prober, target: Target, url: str) -> Finding:
    """No head came: is the stream held back, or is nobody there?"""
    try:
        head = prober.get(url, "HEAD", Accept=MEDIA_TYPE).head
    except httpx.HTTPError as error:
        return fault(
            "stream-unanswered",
            url,
            f"The stream does not answer within {target.patience:g} s, nor does HEAD:"
            f" {told(error)}.",
            "See whether a blocking worker is held by another stream, or its view waits.",
        )
    hops = hops_of(head)
    seen = "HEAD is answered at once"
    if any(_is_prompt(prober, pool, url) for pool in target.pools):
        seen += ", and so is the stream past the front, so the application does not wait"
    return fault(
        "stream-buffered",
        url,
        f"The stream is buffered by {_named(hops)}: not even its head arrives within"
        f" {target.patience:g} s, and {seen}. Small events wait until a buffer is full.",
        _unbuffer(hops),
    )


def _is_prompt(prober: Prober, pool: str, url: str) -> bool:
    try:
        watched = prober.watch_head(pool.rstrip("/") + urlsplit(url).path)
    except httpx.HTTPError:
        return False
    return watched is not None and watched.response.status_code == 200


def _named(hops: list[str]) -> str:
    return f"a hop on the way ({', '.join(hops)})" if hops else "a hop that does not tell its name"


def _unbuffer(hops: list[str]) -> str:
    ways = [f"{hop}: {_UNBUFFERED[hop.lower()]}" for hop in hops if hop.lower() in _UNBUFFERED]
    return "; ".join(ways or ["Turn response buffering off for this path, on each hop"]) + "."


def _no_stream(watched: Watched) -> Finding | None:
    """Why what answers is no stream, if so."""
    head, url = watched.response, watched.url
    status, place = head.status_code, head.headers.get("Location", "")
    if status in {401, 403} or (300 <= status < 400):
        whither = f" to {place}" if place else ""
        return fault(
            "stream-login",
            url,
            f"The stream answers {status}{whither}: it is behind a log-in, or has moved.",
            "Give --cookie 'session=...' or --header 'Authorization: ...' of somebody who may see"
            f" it. {_STOPS if status in {401, 403} else ''}".rstrip(),
        )
    if status == 204:
        return note(
            "stream-over", url, "The stream answers 204: it is over, and clients stop.", "Nothing."
        )
    if status != 200:
        return fault(
            "stream-status",
            url,
            f"The stream answers {status}{_by(head)}. {_STOPS}",
            _status_advice(status),
        )
    kind = head.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != MEDIA_TYPE:
        return fault(
            "stream-type",
            url,
            f"What answers has the type {kind or 'none'!r}, not {MEDIA_TYPE}. {_STOPS}",
            "See whether the path is a stream's, and whether a hop sets a type of its own.",
        )
    return None


def _by(head: httpx.Response) -> str:
    hops = hops_of(head)
    return f" (from {', '.join(hops)})" if hops else ""


def _status_advice(status: int) -> str:
    if status == 429:
        return (
            "Take limit_req and limit_conn away from streams, and let the hub count them:"
            " SIDEARM_MAX_STREAMS_PER_ADDRESS. It refuses with 200 and a time to wait."
        )
    if status in {502, 503, 504}:
        return "See whether the pool that the front names for this path runs."
    return "See what the application's log says of this path."


def _head(watched: Watched) -> Iterator[Finding | str]:
    head, url = watched.response, watched.url
    caching = head.headers.get("Cache-Control", "").lower()
    ages = [int(age) for age in re.findall(r"\b(?:s-maxage|max-age)\s*=\s*(\d+)", caching)]
    is_kept = any(ages) and not re.search(r"\bno-(?:store|cache)\b", caching)
    if is_kept or "Age" in head.headers or "immutable" in caching:
        how = f"Cache-Control: {caching}" if caching else f"Age: {head.headers['Age']}"
        yield fault(
            "stream-cached",
            url,
            f"Caches may keep the stream ({how}), and give old events to others.",
            "Let the front pass the application's own Cache-Control on: no add_header, no expires,"
            " no proxy_cache for this path.",
        )
    elif not caching:
        yield note(
            "stream-uncontrolled",
            url,
            "The stream says nothing of caches.",
            "Send Cache-Control: no-store, as event_stream() does.",
        )
    if is_encoded(head):
        yield fault(
            "stream-encoded",
            url,
            f"The stream is compressed ({head.headers['Content-Encoding']})"
            f"{_by(head)}: compressors collect small events, and each stream costs their memory.",
            'Take text/event-stream off the list of types, or "gzip off;" in the location.',
        )


def _course(watched: Watched, target: Target) -> Iterator[Finding | str]:
    url, end, silence = watched.url, watched.ended_after, watched.last_silence
    hops = _named(hops_of(watched.response))
    if end is not None and end < AT_ONCE:
        yield fault(
            "stream-ends",
            url,
            "The stream ends at once, so its clients poll.",
            "The hub is away or full, or no worker can hand a connection over: see their log and"
            ' "flask sidearm hub stats".',
        )
    elif end is not None and target.max_age and end > 0.8 * target.max_age:
        yield f"{url} ends after {end:.0f} s, as the application wants (SIDEARM_STREAM_MAX_AGE)."
    elif end is not None and silence <= max(AT_ONCE, *watched.gaps):
        yield fault(
            "stream-duration",
            url,
            f"The stream was cut after {end:.0f} s, though it was not silent. Clients reconnect,"
            " and each costs a request.",
            f"Raise the longest duration of a response on {hops}. If SIDEARM_STREAM_MAX_AGE"
            " is that short, this is its doing.",
        )
    elif end is not None:
        yield fault(
            "idle-timeout",
            url,
            f"The stream was cut after {silence:.0f} s of silence (idle timeout of {hops}).",
            "Raise the timeout (nginx: proxy_read_timeout 60s), or let comments come more often:"
            f" SIDEARM_HEARTBEAT below {silence:.0f}.",
        )
    elif not watched.arrivals and is_ours(watched.response):
        yield fault(
            "stream-buffered",
            url,
            f"The stream is buffered by {hops}: its head arrives and its first comment does not,"
            f" within {target.silence:g} s.",
            _unbuffer(hops_of(watched.response)),
        )
    elif watched.arrivals and watched.arrivals[-1] > target.silence:
        yield f"{url} is open, and events come as they are sent."
    elif not watched.comments:
        yield fault(
            "heartbeat",
            url,
            f"A quiet stream has no heartbeat: nothing came for {target.silence:g} s. A hop with a"
            " shorter timeout cuts it, and who has gone is noticed late.",
            "Set SIDEARM_HEARTBEAT (15 by default). If there were events meanwhile, a hop"
            f" collects them: {_unbuffer(hops_of(watched.response))}",
        )
    else:
        longest = max(watched.gaps)
        yield (
            f"{url} streams: the head after {watched.head_after:.1f} s, then a comment"
            f" each {longest:.0f} s."
        )


def is_ours(head: httpx.Response) -> bool:
    """Whether a stream's head is one of Sidearm's, whose first comment comes at once."""
    caching = head.headers.get("Cache-Control", "")
    return "no-transform" in caching and head.headers.get("X-Content-Type-Options") == "nosniff"
