"""Reading a file so that what was read can be told from what is there."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from sidearm.assets.folders import Folder, Signature, read_source

if TYPE_CHECKING:
    from pathlib import Path


def found(path: Path, times: int) -> os.stat_result:
    """What ``stat`` would tell of a file that was written at a moment (nanoseconds)."""
    real = path.stat()
    fields = {"st_mtime_ns": times, "st_ctime_ns": times}
    return os.stat_result(tuple(real), fields)


def test_a1_what_was_written_just_now_is_read_again(tmp_path: Path) -> None:
    """Another write in the same step of the file system's clock would leave the same times."""
    path = tmp_path / "x"
    path.write_text("one")
    now, hour = time.time_ns(), 3600 * 10**9
    fresh, old = found(path, now), found(path, now - hour)
    assert not Signature.of(fresh).matches(fresh)
    assert Signature.of(fresh).may_match(fresh)
    assert Signature.of(old).matches(old)
    assert not Signature.of(old).matches(fresh)


def test_a1_a_file_dated_in_the_future_is_not_read_for_ever(tmp_path: Path) -> None:
    """Who unpacks an archive gives it any time; when it was written, nobody can give."""
    path = tmp_path / "x"
    path.write_text("one")
    hour = 3600 * 10**9
    times = {"st_mtime_ns": time.time_ns() + hour, "st_ctime_ns": time.time_ns() - hour}
    later = os.stat_result(tuple(path.stat()), times)
    assert Signature.of(later).matches(later)


def test_a1_what_is_sent_right_after_a_write_is_what_was_compared(tmp_path: Path) -> None:
    """Same size, same times as far as anybody can tell: the content decides."""
    path = tmp_path / "x"
    path.write_text("one")
    source = read_source(str(path))
    same = source.open()
    if same is not None:  # else this machine stalled for as long as a step
        with same:
            assert same.read() == b"one"
    path.write_text("two")
    assert source.open() is None


def test_a1_a_name_is_looked_up_strictly(tmp_path: Path) -> None:
    """Only one spelling leads to a file."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c.css").write_text("c")
    folder = Folder("static", str(tmp_path / "a"), "static/")
    assert folder.locate("b/c.css") == str(tmp_path / "a/b/c.css")
    for name in ("b", "b/", "/b/c.css", "b//c.css", "./b/c.css", "../a/b/c.css", "b/../b/c.css"):
        assert folder.locate(name) is None
    for name in ("b\\c.css", "b/c.css\0", "", "x" * 5000, "\udcff"):
        assert folder.locate(name) is None
    assert list(folder.names()) == ["b/c.css"]
