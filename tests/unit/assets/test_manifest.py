"""The manifest of builds, as a process that serves reads it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sidearm.assets.exceptions import ManifestError
from sidearm.assets.manifest import Store

if TYPE_CHECKING:
    from pathlib import Path


def test_a1_without_a_build_the_manifest_is_empty(tmp_path: Path) -> None:
    """Also where a file is in the place of the folder."""
    (tmp_path / "file").touch()
    for name in ("nothing", "file/below"):
        assert Store(tmp_path / name).manifest().generations == []


def test_a1_a_manifest_that_may_not_be_looked_at_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not an empty one: old URLs and compressed copies would be gone without a word."""

    def refuse(path: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "stat", refuse)  # root may look everywhere
    with pytest.raises(ManifestError, match=r"cannot be read.*Permission denied"):
        Store(tmp_path).manifest()
