"""What is wrong with the site: its certificate, its protocol, its static files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx

from .findings import Finding, fault, note
from .probing import ENCODINGS, READABLE, Answer, Prober, hops_of, is_encoded, told
from .target import Target, origin_of

MOST_REDIRECTS = 20  # as in the Fetch standard, 4.4
MOST_FILES = 20  # of a page
WORTH_COMPRESSING = 1024  # bytes
DAY, HOUR = 86_400, 3600  # seconds
_TEXTUAL = re.compile(r"text/|[/+](?:json|xml|javascript)\b|image/svg")
#: As Sidearm, Django, Rails, Vite and webpack write them; what has digits alone may be a date.
_HASHED = re.compile(
    r"[.-](?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{8,64}\.[a-z0-9]+$"
    r"|\.[0-9a-f]{16}(?:\.[^./]*)?$"
    r"|-(?=\w*\d)(?=\w*[A-Z])\w{8}\.[a-z]+$"
)


class _References(HTMLParser):
    """The URLs in a page."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[str] = []
        self.others: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        kind = given.get("rel", "")
        if tag == "link" and not {"stylesheet", "icon", "modulepreload", "preload"} & set(
            kind.split()
        ):
            names = self.others
        else:
            names = self.files if tag in {"link", "script", "img"} else self.others
        names.extend(given[name] for name in ("href", "src", "action", "content") if name in given)


def references_of(answer: Answer, base: str) -> tuple[list[str], list[str]]:
    """The URLs of a page's files, and all other absolute ones.

    Args:
        answer: The page.
        base: Its URL.
    """
    parser = _References()
    if answer.head.headers.get("Content-Type", "").startswith("text/html"):
        parser.feed(answer.text)
    files = [urljoin(base, each) for each in parser.files if not each.startswith("data:")]
    return list(dict.fromkeys(files)), [each for each in parser.others if "://" in each]


def first_page(prober: Prober, target: Target) -> tuple[Answer, str, list[Finding]]:
    """The first page, after redirects within the site.

    Raises:
        httpx.HTTPError: There was no answer.
    """
    url, answer = target.url, _page(prober, target.url)
    for _ in range(MOST_REDIRECTS):
        place = answer.head.headers.get("Location")
        if not 300 <= answer.head.status_code < 400 or place is None:
            return answer, url, []
        following = urljoin(url, place)
        if origin_of(following) != target.origin:
            return answer, url, []
        url, answer = following, _page(prober, following)
    loop = fault(
        "redirect-loop",
        target.url,
        f"The first page redirects more than {MOST_REDIRECTS} times, at last to {url}.",
        "Often the application sees http behind a front with TLS and redirects to https again and"
        " again: send X-Forwarded-Proto, and let ProxyFix believe it.",
    )
    return answer, url, [loop]


def _page(prober: Prober, url: str) -> Answer:
    return prober.get(url, Accept="text/html,*/*;q=0.8", Accept_Encoding=READABLE)


def examine_protocol(prober: Prober, target: Target, page: Answer) -> Iterator[Finding | str]:
    """Certificate and version of HTTP."""
    if prober.certificate_error is not None:
        yield fault(
            "certificate",
            target.url,
            f"Browsers do not trust the certificate: {prober.certificate_error}.",
            "Renew it, send the whole chain, or see whether it is for this host name.",
        )
    version = page.head.http_version
    if version == "HTTP/1.0":
        yield fault(
            "http-version",
            target.url,
            f"The front speaks {version}, so each request opens a connection of its own.",
            "Let it speak HTTP/1.1 at least, with TLS HTTP/2.",
        )
    elif version == "HTTP/1.1":
        text = (
            "The front speaks HTTP/1.1 only, so a browser opens six connections to this host, and"
            " six streams in six tabs stop the seventh page."
        )
        if target.has_tls:
            yield fault("http-version", target.url, text, 'Turn HTTP/2 on (nginx: "http2 on;").')
        else:
            yield note(
                "http-version",
                target.url,
                text,
                "With TLS a front speaks HTTP/2; without, one stream for all tabs (sidearm.js)"
                " helps.",
            )
    else:
        yield f"{target.url} speaks {version}."
    if page.head.status_code >= 500:
        yield fault(
            "page-status",
            target.url,
            f"The first page answers {page.head.status_code} ({', '.join(hops_of(page.head))}).",
            "See the front's log, and whether the pool behind it runs.",
        )
    elif not is_encoded(page.head) and _is_worth_it(page):
        yield note(
            "page-compression",
            target.url,
            f"The first page has {len(page.body):,} bytes, and comes uncompressed.",
            "Compress pages at the front, where none of them shows a secret beside what others"
            " can put into it (BREACH).",
        )


def _is_worth_it(answer: Answer) -> bool:
    kind = answer.head.headers.get("Content-Type", "")
    return bool(_TEXTUAL.search(kind)) and len(answer.body) > WORTH_COMPRESSING


def examine_file(prober: Prober, url: str) -> Iterator[Finding | str]:
    """One static file: how long it is kept, and whether it is compressed."""
    try:
        answer = prober.get(url, Accept_Encoding=ENCODINGS)
    except httpx.HTTPError as error:
        yield fault("static-missing", url, f"No answer: {told(error)}.", "See the front's log.")
        return
    head = answer.head
    if head.status_code != 200:
        yield fault(
            "static-missing",
            url,
            f"The static file answers {head.status_code}.",
            'See whether "flask sidearm assets build" ran in this deploy, and whether the front may'
            " read its folder.",
        )
        return
    caching = head.headers.get("Cache-Control", "")
    found = re.search(r"max-age=(\d+)", caching)
    age = int(found[1]) if found and "no-store" not in caching else 0
    ours = [*_caching(url, caching, age), *_compression(url, answer)]
    yield from ours
    if not ours:
        yield f"{url} is kept ({caching or 'no Cache-Control'})."


def is_hashed(url: str) -> bool:
    """Whether the name of a file tells its content."""
    return _HASHED.search(urlsplit(url).path) is not None


def _caching(url: str, caching: str, age: int) -> Iterator[Finding]:
    says = f"Cache-Control: {caching}" if caching else "no Cache-Control"
    if is_hashed(url):
        if "immutable" not in caching or age < DAY:
            yield fault(
                "static-caching",
                url,
                f"The file's name tells its content, but it is not immutable ({says}), so browsers"
                " ask for it again.",
                "Let the front send the application's own headers, or write it by"
                ' "flask sidearm export": public, max-age=31536000, immutable.',
            )
    elif age > HOUR or "immutable" in caching:
        yield fault(
            "static-stale",
            url,
            f"The file's name tells nothing of its content, and browsers keep it ({says}): after a"
            " deploy they show the old one.",
            "Set SIDEARM_ASSETS, so that names carry a hash, or let the age be short.",
        )
    else:
        yield note(
            "static-unhashed",
            url,
            f"The file has no hash in its name, so browsers ask for it again and again ({says}).",
            "Set SIDEARM_ASSETS; then its name carries a hash, and it is immutable.",
        )


def _compression(url: str, answer: Answer) -> Iterator[Finding]:
    head = answer.head
    if is_encoded(head):
        if "accept-encoding" not in head.headers.get("Vary", "").lower():
            yield fault(
                "static-vary",
                url,
                "The file is compressed and does not say Vary: Accept-Encoding, so a cache gives it"
                " to those who cannot read it.",
                'Let the front say so (nginx: "gzip_vary on;").',
            )
    elif _is_worth_it(answer):
        yield fault(
            "compression",
            url,
            f"The file has {len(answer.body):,} bytes, and comes uncompressed to those who accept"
            f" {ENCODINGS}.",
            'Run "flask sidearm assets build" and export the front\'s file again, or compress at'
            " the front. See whether it passes Accept-Encoding on.",
        )
