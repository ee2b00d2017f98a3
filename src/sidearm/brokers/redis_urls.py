"""The URLs that name a Redis: one server, those that Sentinels watch, or a Cluster.

Nothing of redis-py is needed here, so that a wrong URL is found at start-up in any case.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

SENTINEL = "redis+sentinel"
CLUSTER = "redis+cluster"
TLS_CLUSTER = "rediss+cluster"
SCHEMES = ("redis", "rediss", SENTINEL, CLUSTER, TLS_CLUSTER)
PORT = 6379
SENTINEL_PORT = 26379


class SentinelAddress(NamedTuple):
    """What a URL says of a Redis that Sentinels watch.

    Attributes:
        hosts: The Sentinels.
        service: The name of the primary.
        database: Its database.
        username: For Redis itself.
        password: For Redis itself.
    """

    hosts: list[tuple[str, int]]
    service: str
    database: int
    username: str | None
    password: str | None


class ClusterAddress(NamedTuple):
    """What a URL says of a Cluster.

    Attributes:
        hosts: Some of its nodes.
        before: What stands before a node's host in a URL that names it alone.
        behind: What stands behind its port.
    """

    hosts: list[tuple[str, int]]
    before: str
    behind: str

    def url_of(self, host: str, port: int) -> str:
        """The URL of one node."""
        name = f"[{host}]" if ":" in host else host
        return f"{self.before}{name}:{port}{self.behind}"


def scheme_of(url: str) -> str:
    """The scheme of a URL."""
    return url.partition(":")[0]


def is_cluster(url: str) -> bool:
    """Whether a URL names a Cluster."""
    return scheme_of(url) in (CLUSTER, TLS_CLUSTER)


def check(url: str, known: str) -> None:
    """See whether a URL names a Redis.

    Args:
        url: The URL.
        known: What to give, for messages.

    Raises:
        ValueError: It does not; the message says what to do, and shows no password.
    """
    if not _names_server(url):
        raise ValueError(f"Give {known}, such as 'redis://127.0.0.1:6379/0'.")
    options = parse_qs(urlsplit(url).query, keep_blank_values=True)
    has_tls = scheme_of(url) in ("rediss", TLS_CLUSTER)
    unknown = [name for name in options if not (has_tls and name.startswith("ssl_"))]
    if unknown:
        raise ValueError(
            f"It has the option {unknown[0]!r}. Only those of TLS can be given (rediss://...?ssl_...);"
            " a password stands before the host."
        )


def read_sentinel_url(url: str) -> SentinelAddress:
    """Read ``redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE/DATABASE``.

    Raises:
        ValueError: It is none.
    """
    parts = urlsplit(url)
    credentials, _, netloc = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    service, _, database = parts.path.lstrip("/").partition("/")
    if not service or parts.fragment or not (database or "0").isdecimal():
        raise ValueError("The path is the service's name, then the database's number.")
    return SentinelAddress(
        _hosts(netloc, SENTINEL_PORT),
        service,
        int(database or 0),
        unquote(username) or None,
        unquote(password) or None,
    )


def read_cluster_url(url: str) -> ClusterAddress:
    """Read ``redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT``.

    Raises:
        ValueError: It is none.
    """
    parts = urlsplit(url)
    credentials, at, netloc = parts.netloc.rpartition("@")
    if parts.path.strip("/") not in ("", "0") or parts.fragment:
        raise ValueError("A Cluster has one database.")
    scheme = "rediss" if scheme_of(url) == TLS_CLUSTER else "redis"
    behind = f"/0?{parts.query}" if parts.query else "/0"
    return ClusterAddress(_hosts(netloc, PORT), f"{scheme}://{credentials}{at}", behind)


def _hosts(netloc: str, default_port: int) -> list[tuple[str, int]]:
    hosts = []
    for each in netloc.split(","):
        host = urlsplit(f"//{each}")
        if not host.hostname or host.port == 0:
            raise ValueError(f"{each!r} is no host.")
        hosts.append((host.hostname, host.port or default_port))
    return hosts


def _names_server(url: str) -> bool:
    try:
        if scheme_of(url) == SENTINEL:
            read_sentinel_url(url)
            return True
        if is_cluster(url):
            read_cluster_url(url)
            return True
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    database = parts.path.strip("/")
    return bool(
        parts.hostname
        and port != 0
        and not parts.fragment
        and (not database or database.isdecimal())
    )
