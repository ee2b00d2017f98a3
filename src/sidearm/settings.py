"""Every ``SIDEARM_*`` setting: key, type, unit, default, meaning; checked at start-up."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .brokers import HUB, check_url, is_postgresql, without_password
from .exceptions import SettingError

PREFIX = "SIDEARM_"
MOST_HUBS = 64
_KEY = re.compile(r"[\w.:-]{1,100}", re.ASCII)
MIB = 1 << 20  # bytes

Check = Callable[[str, Any], Any]


def _seconds(minimum: float) -> Check:
    def check(key: str, value: Any) -> float:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
        ):
            raise SettingError(key, value, "Give seconds as a number, such as 15.")
        if value < minimum:
            raise SettingError(key, value, f"Give at least {minimum:g} seconds.")
        return float(value)

    return check


def _rate(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise SettingError(key, value, "Give a number for each second, such as 200; 0 is no limit.")
    return float(value)


def _whole(minimum: int, unit: str) -> Check:
    def check(key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise SettingError(key, value, f"Give a whole number of {unit}.")
        if value < minimum:
            raise SettingError(key, value, f"Give at least {minimum} {unit}.")
        return value

    return check


def _boolean(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise SettingError(key, value, "Give True or False.")
    return value


def _boolean_or_none(key: str, value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise SettingError(key, value, "Give True, False or None.")
    return value


def _path(key: str, value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value and "\0" not in value):
        return value
    raise SettingError(key, value, "Give the path of a Unix socket, such as '/run/shop/hub.sock'.")


def _few_hubs(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_HUBS:
        raise SettingError(key, value, f"Give a number from 1 to {MOST_HUBS}, such as 4.")
    return value


def _broker(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise SettingError(key, value, "Give a URL, such as 'redis://127.0.0.1:6379/0'.")
    try:
        check_url(value)
    except ValueError as error:
        raise SettingError(key, without_password(value), str(error)) from None
    return value


def _broker_key(key: str, value: Any) -> str:
    if not isinstance(value, str) or not _KEY.fullmatch(value):
        raise SettingError(
            key, value, "Give letters, digits and any of ._:- such as 'shop', up to 100."
        )
    return value


def _patterns(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(each, str) and 0 < len(each) <= 200 and each.isprintable() for each in value
    ):
        raise SettingError(
            key, value, "Give a list of channels as Redis's PSUBSCRIBE takes them: ['chat:*']."
        )
    return tuple(dict.fromkeys(value))


def _names(key: str, value: Any) -> frozenset[str]:
    advice = "Give a list of names, such as ['utm_source', 'fbclid']."
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise SettingError(key, value, advice)
    if not all(isinstance(name, str) for name in value):
        raise SettingError(key, value, advice)
    return frozenset(value)


def _port(key: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
        raise SettingError(key, value, "Give a port of this machine, such as 9464, or None.")
    return value


def _webhooks(key: str, value: Any) -> dict[str, dict[str, Any]]:
    """The shape of the table; what a scheme wants of a secret is checked where schemes are known.

    No message shows a value in which a secret may stand.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        advice = "Give a table of sources, such as {'payments': {'scheme': ..., 'secrets': [...]}}."
        raise SettingError(key, _TypeOf(value), advice)
    return {str(name): _webhook(f"{key}[{name!r}]", options) for name, options in value.items()}


def _webhook(key: str, options: Any) -> dict[str, Any]:
    if not isinstance(options, Mapping) or not {"scheme", "secrets"} <= set(options):
        raise SettingError(
            key, _TypeOf(options), "Give {'scheme': 'standard', 'secrets': ['whsec_...']}."
        )
    unknown = sorted(map(str, set(options) - {"scheme", "secrets", "tolerance", "keep"}))
    if unknown:
        raise SettingError(
            f"{key}[{unknown[0]!r}]",
            _TypeOf(options[unknown[0]]),
            "There is no such option. Known are 'scheme', 'secrets', 'tolerance' and 'keep'.",
        )
    secrets = options["secrets"]
    if (
        not isinstance(secrets, (list, tuple))
        or not secrets
        or not all(isinstance(secret, str) for secret in secrets)
    ):
        raise SettingError(
            f"{key}['secrets']",
            _TypeOf(secrets),
            "Give a list of those that count now, at least one, as the sender shows them.",
        )
    chosen = {"scheme": str(options["scheme"]), "secrets": list(secrets)}
    for name in {"tolerance", "keep"} & set(options):
        chosen[name] = _seconds(1)(f"{key}[{name!r}]", options[name])
    return chosen


class _TypeOf:
    def __init__(self, value: Any) -> None:
        self._text = "empty" if value in ("", [], (), {}) else f"of type {type(value).__name__}"

    def __repr__(self) -> str:
        return self._text


def _one_of(*choices: str) -> Check:
    def check(key: str, value: Any) -> str:
        if value not in choices:
            raise SettingError(key, value, f"Give one of {', '.join(map(repr, choices))}.")
        return str(value)

    return check


def _statuses(key: str, value: Any) -> Container[int]:
    advice = "Give HTTP status codes, such as range(400, 600) or [409, 500]."
    if isinstance(value, range):
        return value
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise SettingError(key, value, advice)
    if not all(isinstance(status, int) and 100 <= status <= 599 for status in value):
        raise SettingError(key, value, advice)
    return frozenset(value)


def _origin(key: str, value: Any) -> str | None:
    if value is None:
        return None
    advice = (
        "Give scheme and host, with the port where it is unusual, such as 'https://shop.example'."
    )
    # Browsers overlook blanks and controls; whoever wrote one here did not mean it.
    url = _parse(value) if isinstance(value, str) and value.isprintable() else None
    if (
        url is None
        or url.protocol not in ("http:", "https:")
        or url.port == "0"
        or not all(0 < len(label) < 64 for label in url.hostname.split("."))  # RFC 1035, 2.3.4
    ):
        raise SettingError(key, value, advice)
    if url.href not in (f"{url.origin}/", url.origin):
        raise SettingError(
            key, value, f"{advice} A path prefix is told by the proxy or APPLICATION_ROOT."
        )
    return str(url.origin)


def _origins(key: str, value: Any) -> frozenset[str]:
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise SettingError(key, value, "Give a list of origins, such as ['https://app.example'].")
    for entry in value:
        if not isinstance(entry, str) or entry == "null" or "*" in entry:
            raise SettingError(
                key, value, f"{entry!r} is no origin. Name each one, such as 'https://app.example'."
            )
    return frozenset(str(_origin(key, entry)) for entry in value)


def _hosts(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise SettingError(
            key, value, "Give a list of hosts, such as ['pay.example', '.shop.example']."
        )
    return tuple(sorted(_host(key, value, entry) for entry in value))


def _host(key: str, value: Any, entry: Any) -> str:
    dot = "." if isinstance(entry, str) and entry.startswith(".") else ""
    url = None
    if isinstance(entry, str) and not set(entry) & set("/\\?#@*%, \t\r\n"):
        url = _parse(f"https://{entry.removeprefix('.')}")
    if url is None or not url.hostname or url.hostname.startswith("."):
        raise SettingError(
            key,
            value,
            f"{entry!r} is no host. Give it as in a URL, such as 'pay.example' or"
            " 'pay.example:8443', without scheme and path; '.shop.example' stands for"
            " shop.example and every host under it.",
        )
    if dot and (url.host_type != 0 or "." not in url.hostname.rstrip(".")):
        raise SettingError(
            key, value, f"{entry!r} would stand for hosts of other people. Name the host."
        )
    return dot + str(url.hostname if url.port == "80" else url.host)


def _assets(key: str, value: Any) -> Any:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value is None or isinstance(value, bool):
        return value or None
    if isinstance(value, str) and value and "\0" not in value:
        return value
    raise SettingError(
        key,
        value,
        "Give True, or the path of a folder for what is built, such as '/srv/shop/assets'.",
    )


def _prefix(key: str, value: Any) -> str | None:
    if value is None:
        return None
    advice = (
        "Give a URL without query, such as 'https://cdn.example' or 'https://cdn.example/shop'."
    )
    url = _parse(value) if isinstance(value, str) and value.isprintable() else None
    if (
        url is None
        or url.protocol not in ("http:", "https:")
        or url.username
        or url.password
        or "?" in value
        or "#" in value
    ):
        raise SettingError(key, value, advice)
    return str(url.href).rstrip("/")


def _types(key: str, value: Any) -> tuple[tuple[str, str], ...]:
    advice = "Give content types by ending or file name, such as {'.glb': 'model/gltf-binary'}."
    if not isinstance(value, Mapping):
        raise SettingError(key, value, advice)
    for name, type_ in value.items():
        if not (isinstance(name, str) and isinstance(type_, str) and _is_type(type_) and name):
            raise SettingError(key, value, f"{name!r}: {type_!r} is none. {advice}")
    return tuple((name.lower(), type_) for name, type_ in value.items())


def _is_type(value: str) -> bool:
    type_, slash, subtype = value.partition("/")
    return bool(type_ and slash and subtype) and value.isascii() and value.isprintable()


def _parse(url: str) -> Any:
    from ada_url import URL  # the hub's process reads no such setting

    try:
        return URL(url)
    except ValueError:
        return None


def _setting(default: Any, check: Check, unit: str, meaning: str) -> Any:
    return field(default=default, metadata={"check": check, "unit": unit, "meaning": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one application, read from ``app.config`` by :meth:`from_config`."""

    socket: str | None = _setting(
        None, _path, "path", "The hub's Unix socket. Without it: a private folder of this user's."
    )
    hub: str = _setting(
        "auto",
        _one_of("auto", "socket", "memory"),
        "",
        "Where events go: 'socket' to a hub process; 'memory' to a log in this process, for tests;"
        " 'auto' takes 'memory' while app.testing is set, starts a hub in the process under"
        " 'flask run', and else expects one on the socket.",
    )
    hubs: int = _setting(
        1,
        _few_hubs,
        "hubs",
        "Hubs that share the streams of this machine, each a process: as many as a core each, where"
        " one is not enough. The first has the log, unless a broker has it; the others listen on"
        " sockets beside it. What limits streams and memory is each hub's own.",
    )
    broker: str = field(
        default=HUB,
        repr=False,  # a password
        metadata={
            "check": _broker,
            "unit": "",
            "meaning": "Where the log of events is: in the hub ('hub:'), or in a Redis or Valkey"
            " that every hub and every worker can reach, such as 'redis://127.0.0.1:6379/0'"
            " (`rediss://` with TLS), 'redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE' or"
            " 'redis+cluster://HOST:PORT,HOST:PORT', or in PostgreSQL:"
            " 'postgresql://USER:PASSWORD@HOST:PORT/DATABASE'. They need"
            " `pip install 'sidearm[redis]'` and `'sidearm[postgresql]'`.",
        },
    )
    broker_key: str = _setting(
        "sidearm",
        _broker_key,
        "",
        "What the names of the broker's keys begin with. Applications that share a broker have"
        " different ones.",
    )
    broker_bridge: tuple[str, ...] = _setting(
        (),
        _patterns,
        "patterns",
        "Channels of Redis's own `PUBLISH` that streams of the same channels hear, such as"
        " `['stock', 'chat:*']`: live, without ids.",
    )
    handoff: bool = _setting(
        True,
        _boolean,
        "",
        "Hand the sockets of streams to the hub. Off: a worker of gevent holds its"
        " streams itself, and under every other one they are polled.",
    )
    heartbeat: float = _setting(
        15.0, _seconds(0), "seconds", "A comment is sent to each quiet stream this often. 0: never."
    )
    peer_timeout: float = _setting(
        30.0, _seconds(1), "seconds", "A client that acknowledges nothing for so long is gone."
    )
    retry: float = _setting(
        1.0, _seconds(0.01), "seconds", "The shortest wait before a browser reconnects."
    )
    retry_spread: float = _setting(
        3.0, _seconds(0), "seconds", "Each stream's wait is longer by a random part of this."
    )
    reconnect_rate: float = _setting(
        200.0,
        _rate,
        "a second",
        "Where many streams are open, the random part is larger: so that about so many would come"
        " back in a second. 0: it stays as it is.",
    )
    max_event_size: int = _setting(
        MIB, _whole(1, "bytes"), "bytes", "An event whose frame is larger is refused."
    )
    subscriber_buffer: int = _setting(
        MIB,
        _whole(1, "bytes"),
        "bytes",
        "A client that reads so slowly that more than this waits for it is disconnected, and"
        " resumes by its id.",
    )
    waiting_bytes: int = _setting(
        128 * MIB,
        _whole(1, "bytes"),
        "bytes",
        "Bytes that may wait for all clients together; what several wait for counts once. Beyond it"
        " those that have been slow for longest are disconnected, and resume by their id. At least"
        " as much as for one client, and as the history.",
    )
    max_streams: int = _setting(
        0,
        _whole(0, "streams"),
        "streams",
        "Streams that may be open. One more gets what is due, and comes back later. 0: as many as"
        " the hub may have descriptors.",
    )
    max_streams_per_address: int = _setting(
        256,
        _whole(0, "streams"),
        "streams",
        "Streams that one client's address may have open: `request.remote_addr`, IPv6 by its first"
        " 64 bits. One more gets what is due, and comes back later. 0: any number.",
    )
    limit_loopback: bool = _setting(
        False,
        _boolean,
        "",
        "Count addresses of this machine, too. Off, because behind a proxy that the application"
        " does not know of (`ProxyFix`) every client has its address.",
    )
    stream_max_age: float = _setting(
        3600.0,
        _seconds(0),
        "seconds",
        "A stream ends when it is so old, up to a tenth earlier, and its client comes back by its"
        " id: so the view's checks run again. 0: never.",
    )
    history_count: int = _setting(
        1000, _whole(0, "events"), "events", "Events kept for resuming, for each channel."
    )
    history_age: float = _setting(
        300.0, _seconds(0), "seconds", "Events are kept for resuming for so long."
    )
    history_bytes: int = _setting(
        16 * MIB, _whole(0, "bytes"), "bytes", "Bytes kept for resuming, in all channels together."
    )
    metrics_port: int | None = _setting(
        None,
        _port,
        "port",
        "The hub's figures for Prometheus are at http://127.0.0.1:PORT/metrics.",
    )
    pending_count: int = _setting(
        10_000, _whole(0, "events"), "events", "Events that wait in a worker while the hub is away."
    )
    pending_bytes: int = _setting(
        16 * MIB, _whole(0, "bytes"), "bytes", "Bytes that wait in a worker while the hub is away."
    )
    pending_age: float = _setting(
        30.0, _seconds(0), "seconds", "Waiting events that are older are dropped, with a log line."
    )
    fail_statuses: Container[int] = _setting(
        range(400, 600), _statuses, "statuses", "Responses with these statuses fail their task."
    )
    record_count: int = _setting(
        200, _whole(0, "records"), "records", "Records of settled rounds kept in each process."
    )
    report_records: bool = _setting(
        True,
        _boolean,
        "",
        "Let 'flask sidearm tasks' read the records of each process, through the hub.",
    )
    origin: str | None = _setting(
        None,
        _origin,
        "",
        "Where browsers find the application, such as 'https://shop.example'. Links in mails are"
        " made with it, and redirects are held to it. Without it: SERVER_NAME, or the request's"
        " host, which TRUSTED_HOSTS should name.",
    )
    stream_origins: frozenset[str] = _setting(
        frozenset(),
        _origins,
        "",
        "Other origins whose pages may read streams, with cookies, such as"
        " `['https://app.example']`. A page of any other origin gets 403.",
    )
    redirect_hosts: tuple[str, ...] = _setting(
        (),
        _hosts,
        "",
        "Other hosts that redirects may lead to. '.shop.example' stands for shop.example and every"
        " host under it; a port other than 443 and 80 is named with its host.",
    )
    check_redirects: str = _setting(
        "log",
        _one_of("off", "log", "raise"),
        "",
        "What becomes of a redirect to another origin that is in no such list: 'log' lets it leave,"
        " with a warning; 'raise' answers with UnsafeRedirect in its place; 'off' does not look.",
    )

    signed_url_max_age: float = _setting(
        7 * 86400.0,
        _seconds(1),
        "seconds",
        "Signed URLs end after so long, or earlier if they say so.",
    )
    signed_url_ignore: frozenset[str] = _setting(
        frozenset(),
        _names,
        "names",
        "Query parameters that may be added to every signed URL, such as those of mail trackers.",
    )

    webhooks: Any = field(
        default=None,
        repr=False,  # secrets
        metadata={
            "check": _webhooks,
            "unit": "",
            "meaning": "Who sends webhooks, by name: `{'payments': {'scheme': 'standard',"
            " 'secrets': ['whsec_...']}}`. The scheme is 'standard' (Standard Webhooks), 'github'"
            " or 'stripe'; every secret in the list counts. 'tolerance' (300 seconds) is how much"
            " a delivery's time may differ from ours, 'keep' (30 days, in seconds) for how long one"
            " that acted is remembered.",
        },
    )
    assets: str | bool | None = _setting(
        None,
        _assets,
        "path",
        "Static files get URLs with a hash of their content. True, or the folder for what"
        " `flask sidearm assets build` writes; True takes `assets` in the instance folder, and a"
        " relative path begins there too.",
    )
    assets_url: str | None = _setting(
        None,
        _prefix,
        "",
        "Where else the hashed files are, such as 'https://cdn.example'. It stands in the place of"
        " scheme, host and prefix.",
    )
    assets_keep: int = _setting(
        3, _whole(0, "builds"), "builds", "Earlier builds whose files are served still."
    )
    assets_types: tuple[tuple[str, str], ...] = _setting(
        (),
        _types,
        "types",
        "Content types of static files by ending or file name, such as"
        " `{'.glb': 'model/gltf-binary'}`.",
    )

    health: bool | None = _setting(
        None,
        _boolean_or_none,
        "",
        "Answer `/-/live` and `/-/ready`. None: under `flask sidearm up` only.",
    )
    health_timeout: float = _setting(
        2.0,
        _seconds(0.1),
        "seconds",
        "What has not answered `/-/ready` after so long is taken to be away.",
    )
    log_format: str = _setting(
        "text",
        _one_of("text", "json"),
        "",
        "The form of the log lines of `flask sidearm up` and its processes. 'json': one object on"
        " each line.",
    )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Settings:
        """Read and check all ``SIDEARM_*`` keys of an application's configuration.

        Args:
            config: ``app.config``, or any mapping with upper-case keys.

        Raises:
            SettingError: A value is wrong, or a key is unknown; the message names it.
        """
        table = {PREFIX + f.name.upper(): f for f in fields(cls)}
        chosen: dict[str, Any] = {}
        for key in config:
            if not str(key).startswith(PREFIX):
                continue
            if key not in table:
                close = difflib.get_close_matches(key, table, n=1)
                hint = f"Did you mean {close[0]}?" if close else f"Known are {', '.join(table)}."
                raise SettingError(key, config[key], f"There is no such setting. {hint}")
            setting = table[key]
            chosen[setting.name] = setting.metadata["check"](key, config[key])
        settings = cls(**chosen)
        _check_together(settings)
        return settings


def _check_together(settings: Settings) -> None:
    """Check what depends on several settings."""
    if settings.broker_bridge and settings.broker == HUB:
        raise SettingError(
            PREFIX + "BROKER_BRIDGE",
            settings.broker_bridge,
            "There is no broker to listen to. Set SIDEARM_BROKER, such as"
            " 'redis://127.0.0.1:6379/0'.",
        )
    if settings.broker_bridge and is_postgresql(settings.broker):
        raise SettingError(
            PREFIX + "BROKER_BRIDGE",
            settings.broker_bridge,
            "PostgreSQL has no channels with patterns. Leave it out, or take Redis as the broker.",
        )
    least = max(settings.subscriber_buffer, settings.history_bytes)
    if settings.waiting_bytes < least:
        raise SettingError(
            PREFIX + "WAITING_BYTES",
            settings.waiting_bytes,
            f"Give at least {least}: SIDEARM_SUBSCRIBER_BUFFER is {settings.subscriber_buffer} and"
            f" SIDEARM_HISTORY_BYTES is {settings.history_bytes}, and one client may wait for so"
            " much.",
        )
