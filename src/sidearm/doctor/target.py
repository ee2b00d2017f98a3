"""What is examined, as the command line says it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from ..exceptions import DoctorError


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is examined.

    Attributes:
        url: Where browsers find the application.
        streams: The URLs of streams.
        files: The URLs of static files, beside those that the first page names.
        pools: Where its workers are, past the front; nobody should reach them.
        headers: Sent with each request to the application's own origin.
        patience: Seconds for which an answer may let wait for it.
        silence: Seconds for which a stream may be silent.
        max_age: Seconds after which the application itself ends a stream; 0: never, or not known.
    """

    url: str
    streams: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    headers: Mapping[str, str]
    patience: float
    silence: float
    max_age: float = 0

    @property
    def origin(self) -> str:
        """Scheme and host of the URL, as in RFC 6454."""
        return origin_of(self.url)

    @property
    def has_tls(self) -> bool:
        """Whether browsers come by TLS."""
        return urlsplit(self.url).scheme == "https"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it by this URL."""
        host = urlsplit(self.url).hostname or ""
        return host in {"localhost", "::1"} or host.startswith("127.")

    def below(self, path: str) -> str:
        """The URL of a path below the application's, or of what is a URL already."""
        return path if "://" in path else f"{self.url.rstrip('/')}/{path.lstrip('/')}"


def origin_of(url: str) -> str:
    """Scheme and host of a URL, without the scheme's own port."""
    parts = urlsplit(url)
    port = parts.port
    unusual = port is not None and port != {"http": 80, "https": 443}.get(parts.scheme)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{f':{port}' if unusual else ''}"


def checked_url(text: str) -> str:
    """A URL that a browser could open.

    Args:
        text: As it was given.

    Returns:
        It, with a slash at its end if it has no path, and without a fragment.

    Raises:
        DoctorError: It is none.
    """
    try:
        parts = urlsplit(text.strip())
        has_port = parts.port != 0
    except ValueError:
        parts, has_port = urlsplit(""), False
    if parts.scheme not in {"http", "https"} or not parts.hostname or not has_port:
        raise DoctorError(
            f"{text!r} is no URL of a web site. Give one such as https://shop.example/."
        )
    if parts.username is not None:
        raise DoctorError(
            "The URL has a user's name in it. Give --header 'Authorization: ...' instead."
        )
    return urljoin(parts._replace(fragment="").geturl(), parts.path or "/")


def headers_from(headers: Iterable[str], cookies: Iterable[str]) -> dict[str, str]:
    """The headers that the command line gives.

    Args:
        headers: Such as ``Authorization: Bearer x``.
        cookies: Such as ``session=x``.

    Raises:
        DoctorError: One is no header, or no cookie.
    """
    found: dict[str, str] = {}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip() or {"\r", "\n"} & set(header):
            raise DoctorError(f"--header {header!r} is none. Give one such as 'Name: value'.")
        found[name.strip()] = value.strip()
    jar: list[str] = []
    for cookie in cookies:
        if "=" not in cookie or {"\r", "\n", ";"} & set(cookie):
            raise DoctorError(f"--cookie {cookie!r} is none. Give one such as 'session=value'.")
        jar.append(cookie.strip())
    if jar:
        found["Cookie"] = "; ".join(jar)
    return found
