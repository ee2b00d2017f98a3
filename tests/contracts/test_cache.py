"""Contract T12: a cache whose writes wait for the commit, and which reads its own writes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest
from cachelib import FileSystemCache, SimpleCache
from flask import Flask

from sidearm import OutsideTask, Sidearm, after_commit, current_task

if TYPE_CHECKING:
    from pathlib import Path


class Broken(Exception):
    """What tasks raise here."""


@pytest.fixture(params=["SimpleCache", "FileSystemCache"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """The cache itself, as others see it."""
    if request.param == "SimpleCache":
        return SimpleCache()
    return FileSystemCache(str(tmp_path / "cache"))


@pytest.fixture
def cache(backend: Any, arm: Sidearm, app: Flask) -> Any:
    """The cache as tasks see it."""
    return arm.use(backend)


def test_t12_writes_wait_for_the_commit(arm: Sidearm, backend: Any, cache: Any) -> None:
    """Others see the old value until then; the task its own."""
    backend.set("old", 1)
    with arm.task("work"):
        assert cache.set("new", 2)
        assert cache.delete("old")
        assert not cache.delete("missing")
        assert (cache.get("new"), cache.get("old")) == (2, None)
        assert (cache.has("new"), cache.has("old"), cache.has("missing")) == (True, False, False)
        assert cache.get_many("new", "old") == [2, None]
        assert cache.get_dict("new", "old") == {"new": 2, "old": None}
        assert backend.get_many("new", "old") == [None, 1]
    assert backend.get_many("new", "old") == [2, None]


def test_t12_nothing_is_written_after_a_rollback(arm: Sidearm, backend: Any, cache: Any) -> None:
    """The cache never tells of rows that are not there."""
    backend.set("stock", 5)
    with pytest.raises(Broken), arm.task("work"):
        cache.set("stock", 4)
        cache.clear()
        raise Broken
    assert backend.get("stock") == 5


@pytest.mark.parametrize("status", [200, 409])
def test_t12_in_requests(app: Flask, backend: Any, cache: Any, serve: Any, status: int) -> None:
    """By the outcome of the request."""

    def view() -> tuple[str, int]:
        cache.set("key", "value")
        return "x", status

    serve(view)
    app.test_client().get("/")
    assert backend.get("key") == ("value" if status == 200 else None)


def test_t12_adding_and_counting(arm: Sidearm, backend: Any, cache: Any) -> None:
    """``add`` minds what the task has written; sums are made when the task commits."""
    backend.set("count", 10)
    with arm.task("work"):
        assert cache.add("a", 1)
        assert not cache.add("a", 2)
        assert not cache.add("count", 0)
        assert [cache.inc("count"), cache.inc("count", 5), cache.dec("count", 2)] == [11, 16, 14]
        assert cache.inc("fresh") == 1
        assert cache.get("count") == 14
        backend.inc("count", 100)  # somebody else
    assert backend.get_many("a", "count", "fresh") == [1, 114, 1]


def test_t12_clearing_and_many(arm: Sidearm, backend: Any, cache: Any) -> None:
    """In the order of the calls."""
    backend.set_many({"a": 1, "b": 2})
    with arm.task("work"):
        cache.set("a", 3)
        cache.clear()
        assert cache.get_many("a", "b") == [None, None]
        assert cache.set_many({"b": 4, "c": 5}) == ["b", "c"]
        assert cache.delete_many("c", "d") == ["c"]
        assert cache.get_many("a", "b", "c") == [None, 4, None]
    assert backend.get_many("a", "b", "c") == [None, 4, None]


def test_t12_savepoints_and_callbacks(arm: Sidearm, backend: Any, cache: Any) -> None:
    """What a savepoint undoes the task no longer reads; a callback may write too."""
    with arm.task("work"):
        cache.set("key", "kept")
        with pytest.raises(Broken), current_task.savepoint():
            cache.set("key", "undone")
            raise Broken
        assert cache.get("key") == "kept"
        after_commit(lambda: cache.set("callback", backend.get("key")))
    assert backend.get_many("key", "callback") == ["kept", "kept"]


def test_t12_a_write_belongs_to_the_transaction_that_is_open(
    arm: Sidearm, backend: Any, cache: Any, make: Any
) -> None:
    """Committed by hand it leaves at once; rolled back by hand it is forgotten."""
    store = make("session", "explicit")
    with arm.task("work"):
        store.write("one")
        cache.set("one", 1)
        store.commit()
        assert backend.get("one") == 1
        store.write("two")
        cache.set("two", 2)
        store.rollback()
        assert cache.get("two") is None
    assert backend.get("two") is None


def test_t12_a_cache_that_fails_fails_no_task(
    arm: Sidearm, app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    """The rows are saved; the log tells of the cache."""

    class Down(SimpleCache):  # type: ignore[misc]
        def set(self, *_: Any, **__: Any) -> bool:
            raise ConnectionError("the cache is down")

    cache = arm.use(Down())
    with arm.task("work"):
        cache.set("key", 1)
    (error,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "cache.set" in error.getMessage()


def test_t2_outside_of_a_task(app: Flask, cache: Any) -> None:
    """As with every resource."""
    for use in (lambda: cache.get("key"), lambda: cache.set("key", 1)):
        with pytest.raises(OutsideTask, match=r"cache\.[gs]et"):
            use()


def test_t12_commit_has_no_meaning_for_a_cache(arm: Sidearm, backend: Any) -> None:
    """Said at the declaration."""
    with pytest.raises(ValueError, match="commit"):
        arm.use(backend, commit="explicit")
