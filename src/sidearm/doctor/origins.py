"""Which scheme and host the application sees: what it writes into absolute URLs tells.

Werkzeug answers a path with a doubled slash, and one that lacks its slash at the end, by a redirect
to an absolute URL, made of what the application was told. So any Flask application shows it, and
nothing has to be installed for it. A front that cleans paths before it passes them hides the first.
nginx puts its own name into ``Location`` where it finds that of the pool; in the body it does not.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

import httpx

from .findings import Finding, fault
from .probing import READABLE, Answer, Prober
from .target import Target, origin_of

_LINK = re.compile(r'<a href="([^"]+)"')


def examine_origin(
    prober: Prober, target: Target, page: Answer, links: Iterable[str], probes: Iterable[str]
) -> Iterator[Finding | str]:
    """Compare what the application says of itself with where it was found.

    Args:
        prober: Who asks.
        target: What is examined.
        page: The first page.
        links: Absolute URLs in it.
        probes: URLs that may redirect.
    """
    seen = [place for place in (page.head.headers.get("Location", ""),) if "://" in place]
    for probe in dict.fromkeys(probes):
        try:
            answer = prober.get(probe, Accept_Encoding=READABLE)
        except httpx.HTTPError:
            continue
        if answer.head.status_code in {301, 308}:
            places = [answer.head.headers.get("Location", ""), *_written_in(answer)]
            # Only what leads to the same path without the slash is Werkzeug's.
            seen += [each for each in places if "://" in each and _is_same(probe, each)]
    wrong = _differing(target, seen) or _differing(target, _suspicious(target, links))
    if wrong is None:
        if seen:
            yield f"The application sees {target.origin}, as browsers do."
        return
    scheme, ours = urlsplit(wrong).scheme, urlsplit(target.url).scheme
    if scheme != ours:
        yield fault(
            "scheme",
            target.url,
            f"The application sees the scheme {scheme}, and browsers use {ours}: it wrote {wrong}.",
            "Let the front send X-Forwarded-Proto (nginx: proxy_set_header X-Forwarded-Proto"
            " $scheme), and the application believe it: ProxyFix(app.wsgi_app, x_proto=1).",
        )
    if _host(wrong) != _host(target.url):
        yield fault(
            "host",
            target.url,
            f"The application sees the host {urlsplit(wrong).netloc}, and browsers use"
            f" {urlsplit(target.url).netloc}: it wrote {wrong}.",
            "Let the front pass the host on (nginx: proxy_set_header Host $http_host), or send"
            " X-Forwarded-Host and let ProxyFix believe it (x_host=1).",
        )


def _written_in(answer: Answer) -> Iterator[str]:
    for link in _LINK.findall(answer.text):
        yield html.unescape(link)


def doubled(url: str) -> str:
    """A URL whose last slash is doubled."""
    head, _, last = url.partition("?")[0].rpartition("/")
    return f"{head}//{last}"


def _is_same(probe: str, place: str) -> bool:
    asked, told = urlsplit(probe).path, urlsplit(place).path
    return asked.replace("//", "/").rstrip("/").endswith(told.rstrip("/"))


def _differing(target: Target, urls: Iterable[str]) -> str | None:
    return next((url for url in urls if origin_of(url) != target.origin), None)


def _suspicious(target: Target, links: Iterable[str]) -> Iterator[str]:
    """Links that must be to the site itself: to its own host, or to this machine."""
    for link in links:
        try:
            host = urlsplit(link).hostname or ""
        except ValueError:
            continue
        if host == urlsplit(target.url).hostname or (
            not target.is_loopback and (host == "localhost" or host.startswith("127."))
        ):
            yield link


def _host(url: str) -> tuple[str | None, int | None]:
    """The host, and its port where that is not the scheme's own."""
    parts = urlsplit(url)
    port = parts.port
    return parts.hostname, None if port in {80, 443} else port
