"""E5: which broker a URL names is settled at start-up, and its password is shown nowhere."""

from __future__ import annotations

import sys

import pytest
from flask import Flask

from sidearm import Sidearm
from sidearm.brokers import (
    HUB,
    Limits,
    check_url,
    open_broker,
    without_password,
)
from sidearm.brokers.redis_urls import read_cluster_url, read_sentinel_url
from sidearm.exceptions import BrokerError, SettingError
from sidearm.hub.config import BROKER_VARIABLE, HubConfig
from sidearm.settings import Settings

SECRET = "redis://shop:s3cret@db.example:6380/2"


@pytest.mark.parametrize(
    "url",
    [
        HUB,
        "redis://127.0.0.1",
        "redis://h:1/0",
        "rediss://:pw@h:6379/15",
        "rediss://h/0?ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=false",
        "redis://[::1]:1/",
        "redis+sentinel://h/mymaster",
        "redis+sentinel://u:p%40w@h:1,[::1]:2/mymaster/3",
        "redis+cluster://h",
        "redis+cluster://u:p%40w@h:1,[::1]:2/0",
        "rediss+cluster://:pw@h:1,k?ssl_ca_certs=/etc/ca.pem",
        "postgresql://",
        "postgresql://u:p%40w@h:5433/db?sslmode=require",
        "postgres://one,two/db?target_session_attrs=read-write",
        "postgresql:///db?host=/run/postgresql",
    ],
)
def test_e5_urls_that_name_a_broker(url: str) -> None:
    """Each of these is accepted."""
    check_url(url)
    assert Settings.from_config({"SIDEARM_BROKER": url}).broker == url


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("", "no broker"),
        ("hub", "no broker"),
        ("kafka://h", "no broker 'kafka:'"),
        ("redis:", "such as 'redis://127"),
        ("redis:///0", "such as"),
        ("redis://h:port/0", "such as"),
        ("redis://h:0/0", "such as"),
        ("redis://h/name", "such as"),
        ("redis://h/0#x", "such as"),
        ("redis://[::1/0", "such as"),
        ("redis+sentinel://h:1", "SERVICE"),
        ("redis+sentinel://h:1/name/db", "SERVICE"),
        ("redis+sentinel://h:1,/name", "SERVICE"),
        ("redis+sentinel://h:x/name", "SERVICE"),
        ("redis://h/0?socket_timeout=abc", "option 'socket_timeout'"),
        ("redis://h/0?password=s3cret", "option 'password'"),
        ("redis://h/0?ssl_ca_certs=x", "option 'ssl_ca_certs'"),
        ("redis+sentinel://h/m?db=1", "option 'db'"),
        ("redis+cluster://", "redis+cluster://HOST:PORT"),
        ("redis+cluster://h/1", "redis+cluster://HOST:PORT"),
        ("redis+cluster://h,,k", "redis+cluster://HOST:PORT"),
        ("redis+cluster://h:0", "redis+cluster://HOST:PORT"),
        ("redis+cluster://h?ssl_ca_certs=x", "option 'ssl_ca_certs'"),
        ("postgresql+psycopg://h/db", "no broker 'postgresql+psycopg:'"),
        ("postgresql:h", "libpq cannot read it"),
        ("postgresql://h/db?pool_size=3", "libpq cannot read it"),
        ("postgresql://u:p@w@h/db?x", "libpq cannot read it"),
        (6379, "Give a URL"),
        (None, "Give a URL"),
    ],
)
def test_e5_urls_that_name_none(url: object, advice: str) -> None:
    """Any other is refused at start-up, by the setting's name."""
    with pytest.raises(SettingError, match="SIDEARM_BROKER") as refused:
        Settings.from_config({"SIDEARM_BROKER": url})
    assert advice in str(refused.value)


def test_e5_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without redis-py the application does not start, and is told what to install."""
    monkeypatch.setitem(sys.modules, "redis", None)
    app = Flask(__name__)
    app.config["SIDEARM_BROKER"] = SECRET
    with pytest.raises(SettingError, match=r"pip install 'sidearm\[redis\]'"):
        Sidearm(app)
    with pytest.raises(BrokerError, match=r"pip install 'sidearm\[redis\]'"):
        open_broker(SECRET, "key", Limits(1, 1))


def test_e5_psycopg_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be there without libpq, and cannot be imported then."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SettingError, match=r"pip install 'sidearm\[postgresql\]'"):
        Settings.from_config({"SIDEARM_BROKER": "postgresql://h/db"})


def test_e5_postgresql_has_no_bridge() -> None:
    """Nothing would ever be heard by it, and that is said at start-up."""
    with pytest.raises(SettingError, match="SIDEARM_BROKER_BRIDGE"):
        Settings.from_config(
            {"SIDEARM_BROKER": "postgresql://h/db", "SIDEARM_BROKER_BRIDGE": ["stock"]}
        )


def test_e5_no_password_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in a message, not in a repr, not among a process's arguments."""
    assert without_password(SECRET) == "redis://***@db.example:6380/2"
    assert without_password("redis://h/0") == "redis://h/0"
    assert "s3cret" not in without_password("redis://:s3cret@[::1/0")
    wrong = ["@h/name", "#x@h/0", "/x@h/0", "?x@h", "@h/0?password=s3cret", "@h:x"]
    for url in [f"redis://:s3cret{rest}" for rest in wrong] + ["redis://h?password=s3cret"]:
        with pytest.raises(SettingError) as refused:
            Settings.from_config({"SIDEARM_BROKER": url})
        assert "s3cret" not in str(refused.value)
    for url in (
        "postgresql://:s3cret@[::1/db",
        "postgresql://h/db?password=s3cret&x=1",
        "postgresql://u:s3cret@h/db?nonsense=1",
        "postgresql://u:pass@s3cret@h/db",
    ):
        with pytest.raises(SettingError) as refused:
            Settings.from_config({"SIDEARM_BROKER": url})
        assert "s3cret" not in str(refused.value)
    assert without_password("postgresql://h/db?password=s3cret") == "postgresql://h/db"
    assert "s3cret" not in repr(Settings.from_config({"SIDEARM_BROKER": SECRET}))
    config = HubConfig(socket="x", broker=SECRET)
    assert "s3cret" not in repr(config)
    assert "s3cret" not in config.to_json()
    assert HubConfig(socket="x", broker="redis://h").environment() == {}
    monkeypatch.setenv(BROKER_VARIABLE, config.environment()[BROKER_VARIABLE])
    assert HubConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("key", ["", "a b", "{a}", "x" * 101, 7, "\u00fc"])
def test_e5_a_key_that_redis_would_read_otherwise(key: object) -> None:
    """Braces name a slot of a Cluster, so they are ours."""
    with pytest.raises(SettingError, match="SIDEARM_BROKER_KEY"):
        Settings.from_config({"SIDEARM_BROKER_KEY": key})


@pytest.mark.parametrize("patterns", ["stock", [""], ["a\nb"], [7], None, ["x" * 201]])
def test_e5_patterns_that_redis_would_not_take(patterns: object) -> None:
    """One text is no list; what cannot be a channel's name is refused."""
    with pytest.raises(SettingError, match="SIDEARM_BROKER_BRIDGE"):
        Settings.from_config({"SIDEARM_BROKER": SECRET, "SIDEARM_BROKER_BRIDGE": patterns})


def test_e5_a_bridge_needs_a_broker() -> None:
    """Without one nothing would ever be heard, and that is said at start-up."""
    with pytest.raises(SettingError, match="SIDEARM_BROKER_BRIDGE"):
        Settings.from_config({"SIDEARM_BROKER_BRIDGE": ["stock"]})


def test_e5_a_sentinel_url_is_read() -> None:
    """Several Sentinels, one service; the password is Redis's own."""
    where = read_sentinel_url("redis+sentinel://u:p%40w@h:1,[::1],k/mymaster/3")
    assert where == ([("h", 1), ("::1", 26379), ("k", 26379)], "mymaster", 3, "u", "p@w")
    assert without_password("redis+sentinel://u:pw@h:1,k:2/m") == "redis+sentinel://***@h:1,k:2/m"


def test_e5_a_cluster_url_is_read() -> None:
    """Each node has a URL like a server of its own, with password and TLS."""
    where = read_cluster_url("rediss+cluster://u:p%40w@h:1,[::1],k?ssl_check_hostname=false")
    assert where.hosts == [("h", 1), ("::1", 6379), ("k", 6379)]
    assert where.url_of("h", 1) == "rediss://u:p%40w@h:1/0?ssl_check_hostname=false"
    assert where.url_of("::1", 6379) == "rediss://u:p%40w@[::1]:6379/0?ssl_check_hostname=false"
    assert read_cluster_url("redis+cluster://h").url_of("h", 6379) == "redis://h:6379/0"
