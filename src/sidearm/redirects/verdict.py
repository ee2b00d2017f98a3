"""Whether a browser that is sent to a target stays on the application's origin.

Parsers disagree about URLs, and each disagreement is a way out: Werkzeug rewrites what is given to
``redirect()``, Chromium reads a ``Location`` differently from ``new URL()`` in places, and both
differ from ``urllib``. So nothing is mended and nothing is guessed. A target has to be of a form
about which all of them agree, which is a small part of what the URL standard (URL, 4.4) can read:

- a reference without a host: a path, a query, a fragment. It resolves to the origin of whatever it
  is resolved against. It must not begin like anything else: with two slashes, with a scheme (a
  colon in the first segment), or with what browsers strip (spaces, controls) or take for a slash
  (a backslash);
- or ``http``, ``https`` or nothing before ``//`` and a host of plain ASCII labels. It is parsed as
  browsers do, by ada-url, and its origin compared. No user, no percent sign, no other script in
  it: those are read differently, and no application needs them there.

The same is asked of what leaves in the end, after Werkzeug's rewriting: see ``leaving``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ada_url import URL, HostType
from flask import current_app

from ..origin import trusted_origin
from ..tasks.state import state_of

#: The longest target, in bytes as they would leave. RFC 9110, 4.1, asks for at least 8,000; but
#: nginx has 4 or 8 KiB for a whole head, cookies and all, and answers 502 to one that is longer.
MAX_LENGTH = 4096

# Controls are stripped by some and end a header for others; a lone surrogate cannot be sent.
_NEVER = r"\x00-\x1f\x7f\ud800-\udfff"
_TAIL = rf"(?:[?#][^{_NEVER}]*+)?"
_PATH = rf"[^?#\\{_NEVER}]*+"

#: No host and no scheme: a digit cannot begin a scheme, so a colon may follow it.
_RELATIVE = re.compile(
    rf"(?!\s|//)(?:[0-9][^/?#\\{_NEVER}]*+|[^:/?#\\{_NEVER}]*+)(?:/{_PATH})?{_TAIL}(?<!\s)"
)

#: What almost every target is, seen with as little work as can be.
_PLAIN = re.compile(
    r"/(?!/)[\w\-.~!$&'()*+,;=:@%/]*+(?:[?#][\w\-.~!$&'()*+,;=:@%/?#]*+)?", re.ASCII
)

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_ABSOLUTE = re.compile(
    rf"((?:https?:)?)//((?:{_LABEL}(?:\.{_LABEL})*+\.?|\[[0-9a-f:.]+\])(?::[0-9]{{1,5}})?)"
    rf"(?:/{_PATH})?{_TAIL}(?<!\s)",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Destinations:
    """Where redirects may lead.

    Attributes:
        origin: The application's own origin; ``None`` if it is not known.
        hosts: Other hosts, as ``SIDEARM_REDIRECT_HOSTS`` has them.
    """

    origin: str | None
    hosts: tuple[str, ...]

    def include(self, target: str) -> bool:
        """Whether a browser that is sent to a target arrives at one of them.

        Args:
            target: What the browser is sent; of any length.
        """
        if _RELATIVE.fullmatch(target) is not None:
            return True
        found = _ABSOLUTE.fullmatch(target)
        if found is None:
            return False
        scheme, host = found[1].lower(), found[2].lower()
        if not scheme and self.origin is None:  # the scheme of a page that is not known
            return False
        own_scheme = (self.origin or "").partition(":")[0]
        origin = f"{scheme or own_scheme + ':'}//{host}"
        return origin == self.origin or self._include_other(origin, own_scheme)

    def _include_other(self, other: str, own_scheme: str) -> bool:
        # Only what can be typed in two ways is left: a port, an address, a host that is allowed.
        try:
            url = URL(other)
        except ValueError:
            return False
        if url.origin == self.origin:
            return True
        if url.protocol != "https:" and own_scheme != "http":
            return False
        return any(_is_host(url, host) for host in self.hosts)


def _is_host(url: URL, allowed: str) -> bool:
    """Whether a URL's host is one of the allow-list; labels are compared, not endings."""
    if not allowed.startswith("."):
        return url.host == allowed
    name, _, port = allowed[1:].partition(":")
    return (
        url.port == port
        and url.host_type == HostType.DEFAULT
        and (url.hostname == name or url.hostname.endswith(f".{name}"))
    )


@lru_cache(maxsize=64)
def _destinations(origin: str | None, hosts: tuple[str, ...]) -> Destinations:
    return Destinations(origin, hosts)


def current_destinations() -> Destinations:
    """Where redirects of the running application may lead.

    Raises:
        RuntimeError: No application context is pushed, or its application has no Sidearm.
    """
    hosts = state_of(current_app).settings.redirect_hosts
    return _destinations(trusted_origin(), hosts)


def is_safe_url(target: Any) -> bool:
    """Whether a redirect to a target keeps the browser on this application's origin.

    Judged is what a browser does with it (WHATWG URL), also after Werkzeug's own rewriting of a
    ``Location``. Nothing that is passed in raises.

    Args:
        target: What somebody asks to be sent to, such as ``request.args.get("next")``: a path, a
            URL, rubbish, ``None``.

    Returns:
        ``True`` for a path, query or fragment, for a URL of the application's own origin (of
        ``SIDEARM_ORIGIN``, ``SERVER_NAME`` or else of the request), and for one of a host in
        ``SIDEARM_REDIRECT_HOSTS``. ``False`` for everything else, also if it is longer than
        4,096 bytes, or empty.

    Raises:
        RuntimeError: No application context is pushed, or its application has no Sidearm.
    """
    if not isinstance(target, str) or not target or len(target) > MAX_LENGTH:
        return False
    if _PLAIN.fullmatch(target) is not None:
        return True
    if not target.isascii() and _sent_length(target) > MAX_LENGTH:
        return False
    return current_destinations().include(target)


def _sent_length(target: str) -> int:
    """The bytes of a target whose other characters are percent-encoded."""
    return sum(1 if char.isascii() else 3 * len(char.encode(errors="replace")) for char in target)
