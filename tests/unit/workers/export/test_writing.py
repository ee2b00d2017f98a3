"""Exported files are whole or not there, and nobody's file is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidearm.exceptions import ExportError
from sidearm.workers.export.writing import write_files


def test_w3_a_file_in_a_folder_or_by_its_path(tmp_path: Path) -> None:
    """Both say what was written; the same content again is no change."""
    assert write_files({"a.conf": "a"}, str(tmp_path), force=False) == (tmp_path / "a.conf",)
    assert write_files({"a.conf": "b"}, str(tmp_path / "b"), force=False) == (tmp_path / "b",)
    assert (tmp_path / "b").read_text() == "b"
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o644
    assert write_files({"a.conf": "a"}, str(tmp_path), force=False) == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.conf", "b"]


def test_w3_existing_files_stay_unless_forced(tmp_path: Path) -> None:
    """The error names the file and the way; of several files none is written."""
    (tmp_path / "b").write_text("mine")
    with pytest.raises(ExportError, match=r"/b exists.*--force"):
        write_files({"a": "new", "b": "new"}, str(tmp_path), force=False)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (tmp_path / "b").read_text() == "mine"
    (tmp_path / "b").chmod(0o600)
    write_files({"a": "new", "b": "new"}, str(tmp_path), force=True)
    assert (tmp_path / "b").read_text() == "new"
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o600


def test_w3_a_dangling_link_is_something_too(tmp_path: Path) -> None:
    """A link to a file that is not there is not replaced unasked, and stays a link when it is."""
    link = tmp_path / "site"
    link.symlink_to(tmp_path / "available")
    with pytest.raises(ExportError, match="exists"):
        write_files({"a": "new"}, str(link), force=False)
    write_files({"a": "new"}, str(link), force=True)
    assert link.is_symlink()
    assert (tmp_path / "available").read_text() == "new"


def test_w3_several_files_need_a_folder(tmp_path: Path) -> None:
    """The error says so."""
    with pytest.raises(ExportError, match="need a folder"):
        write_files({"a": "", "b": ""}, str(tmp_path / "x"), force=False)


def test_w3_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """One line that names the path and the cure."""
    with pytest.raises(ExportError, match=r"none/a cannot be written: No such file.*--output"):
        write_files({"a": "new"}, str(tmp_path / "none" / "a"), force=False)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")  # noqa: PTH110
def test_w3_a_disk_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be written whole is not there at all, and the old file is."""
    (tmp_path / "a").write_text("old")

    def refuse(descriptor: int) -> None:
        with open("/dev/full", "wb", buffering=0) as full:  # noqa: PTH123 (a real ENOSPC)
            full.write(b"x")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ExportError, match="No space left"):
        write_files({"a": "new"}, str(tmp_path), force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"
