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
from functools import lru_cache
from typing import Any

from ada_url import URL, HostType

from ..origin import derive_origin, running_application
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

_HOST = r"(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
_ABSOLUTE = re.compile(
    rf"(https?:|)//({_HOST})(?:/{_PATH})?{_TAIL}(?<!\s)", re.ASCII | re.IGNORECASE
)

# What needs no percent-encoding: almost every target, seen with as little work as can be.
_PLAIN_TAIL = r"(?:[?#][\w\-.~!$&'()*+,;=:@%/?#]*+)?"
_PLAIN_PATH = r"/[\w\-.~!$&'()*+,;=:@%/]*+"
_PLAIN = re.compile(rf"(?!//){_PLAIN_PATH}{_PLAIN_TAIL}", re.ASCII)
_AFTER_ORIGIN = re.compile(rf"(?:{_PLAIN_PATH})?{_PLAIN_TAIL}", re.ASCII)

#: Truth, if a target is a plain path: safe wherever the application is, and sent as it is.
is_path = _PLAIN.fullmatch

#: Truth, if a target names no host: safe wherever the application is.
is_relative = _RELATIVE.fullmatch

#: The longest label that a host's name may have (RFC 1035, 2.3.4), and that Werkzeug can write.
_MAX_LABEL = 63  # bytes

#: Where the answer for a request hangs on its context.
_DESTINATIONS = "_sidearm_destinations"


@lru_cache(maxsize=64)
def find_destinations(origin: str | None, hosts: tuple[str, ...]) -> Destinations:
    """The destinations of an origin and a list, which are the same for most requests."""
    return Destinations(origin, hosts)


class Destinations:
    """Where redirects may lead.

    Attributes:
        origin: The application's own origin; ``None`` if it is not known.
        hosts: Other hosts, as ``SIDEARM_REDIRECT_HOSTS`` has them.
    """

    def __init__(self, origin: str | None, hosts: tuple[str, ...]) -> None:
        self.origin = origin
        self.hosts = hosts
        self._scheme, _, host = (origin or "").partition("//")
        self._name = host.partition(":")[0]  # of an address of IPv6 only its bracket

    def include(self, target: str) -> bool:
        """Whether a browser that is sent to a target arrives at one of them.

        Args:
            target: What the browser is sent; of any length.
        """
        return (
            self.have_plain(target) or is_relative(target) is not None or self.include_url(target)
        )

    def have_plain(self, target: str) -> bool:
        """Whether a target begins with the application's own origin, and is plain after it.

        A host cannot go on after it then: what follows is a path, a query, a fragment, or nothing.
        """
        origin = self.origin
        return (
            origin is not None
            and target.startswith(origin)
            and _AFTER_ORIGIN.fullmatch(target, len(origin)) is not None
        )

    def include_url(self, target: str) -> bool:
        """The same as :meth:`include`, of a target that is known to name a host."""
        if not self.hosts and self._name not in target.lower():
            return False  # most of what is hostile, without another look at it
        found = _ABSOLUTE.fullmatch(target)
        if found is None:
            return False
        scheme, host = map(str.lower, found.groups())
        if not scheme and self.origin is None:  # the scheme of a page that is not known
            return False
        origin = f"{scheme or self._scheme}//{host}"
        return origin == self.origin or self._include_other(origin)

    def _include_other(self, other: str) -> bool:
        """Whether it is another spelling (of a port, an address), or a host that is allowed."""
        labels = other.rpartition("/")[2].split(".")
        if not all(0 < len(label) <= _MAX_LABEL for label in labels):
            return False
        try:
            url = URL(other)
        except ValueError:
            return False
        if url.origin == self.origin:
            return True
        if url.protocol != "https:" and self._scheme != "http:":
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


def current_destinations() -> Destinations:
    """Where redirects of the running application may lead.

    Raises:
        RuntimeError: No application context is pushed, or its application has no Sidearm.
    """
    app, context = running_application()
    # Going back asks several times, and what leaves is asked about once more.
    found: Destinations | None = getattr(context, _DESTINATIONS, None)
    if found is None:
        settings = state_of(app).settings
        origin = settings.origin or derive_origin(app, context and context.request)
        found = find_destinations(origin, settings.redirect_hosts)
        if context is not None:
            setattr(context, _DESTINATIONS, found)
    return found


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
    if is_path(target):
        return True
    # A letter has at most four bytes, and each of them three when it is sent.
    if len(target) > MAX_LENGTH // 12 and _sent_length(target) > MAX_LENGTH:
        return False
    if target.startswith("//"):
        return current_destinations().include_url(target)
    if target[:4].lower() == "http":  # the beginning of a URL, or of a path
        return current_destinations().include(target)
    return is_relative(target) is not None


def _sent_length(target: str) -> int:
    """The bytes of a target whose other letters are percent-encoded."""
    encoded = target.encode(errors="replace")
    return 3 * len(encoded) - 2 * len(target.encode("ascii", "ignore"))
