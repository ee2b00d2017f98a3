"""What one process finds out about streams, another one knows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from sidearm import EventStream
from sidearm.events.sightings import SUFFIX, Sightings, read_sightings


@pytest.fixture
def socket_path(tmp_path: Path) -> str:
    return str(tmp_path / "hub.sock")


@pytest.fixture
def app() -> Flask:
    app = Flask("testapp")

    @app.get("/unsaid")
    def unsaid(): ...  # noqa: ANN202

    @app.get("/other")
    def other() -> Any: ...

    @app.get("/said")
    def said() -> EventStream: ...  # type: ignore[empty-body]

    return app


def test_w2_is_remembered_by_another_process(app: Flask, socket_path: str) -> None:
    """Each endpoint once, by however many processes it was seen."""
    for _ in range(2):
        sightings = Sightings(socket_path)
        for endpoint in ("unsaid", "other", "unsaid"):
            sightings.note(app, endpoint)
    assert read_sightings(socket_path) == {"unsaid", "other"}
    assert Path(socket_path + SUFFIX).read_text() == "unsaid\nother\n"
    assert Path(socket_path + SUFFIX).stat().st_mode & 0o777 == 0o600


def test_w2_what_is_annotated_needs_no_memory(app: Flask, socket_path: str) -> None:
    """Nothing is written for it, nor for a request that no rule matched."""
    sightings = Sightings(socket_path)
    sightings.note(app, "said")
    sightings.note(app, None)
    assert not Path(socket_path + SUFFIX).exists()


def test_w2_nothing_is_made_where_no_hub_was(app: Flask, tmp_path: Path) -> None:
    """A folder that is not there stays so, and the request does not notice."""
    Sightings(str(tmp_path / "none" / "hub.sock")).note(app, "unsaid")
    assert not list(tmp_path.iterdir())


def test_w2_no_link_is_followed(app: Flask, socket_path: str, tmp_path: Path) -> None:
    """What stands under the name may have been put there by somebody else."""
    (tmp_path / "victim").write_text("static\n")
    Path(socket_path + SUFFIX).symlink_to(tmp_path / "victim")
    Sightings(socket_path).note(app, "unsaid")
    assert (tmp_path / "victim").read_text() == "static\n"
    assert read_sightings(socket_path) == frozenset()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_w2_root_reads_what_its_services_wrote(socket_path: str) -> None:
    """Who runs the command as root sees what the workers, who are not, have found out."""
    path = Path(socket_path + SUFFIX)
    path.write_text("unsaid\n")
    os.chown(path, 12345, 12345)
    assert read_sightings(socket_path) == {"unsaid"}


def test_w2_a_pipe_in_the_place_of_the_file_holds_nobody_up(app: Flask, socket_path: str) -> None:
    """Neither who reads nor who writes waits for its other end."""
    os.mkfifo(socket_path + SUFFIX)
    assert read_sightings(socket_path) == frozenset()
    Sightings(socket_path).note(app, "unsaid")
