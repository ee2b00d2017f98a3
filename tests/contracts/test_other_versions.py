"""The contracts and the talk hold on every version that is supported, in one run of the tests.

This run has the newest Flask, and the newest SQLAlchemy that Flask-SQLAlchemy takes; the others are
put in front of it in runs of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What meets Flask's contexts and hooks; what a response or an event holds is the same on all.
FLOORS = (
    "tests/contracts/test_after_response.py",
    "tests/contracts/test_bodies.py",
    "tests/contracts/test_callbacks.py",
    "tests/contracts/test_commands.py",
    "tests/contracts/test_extensions.py",
    "tests/contracts/test_footguns.py",
    "tests/contracts/test_losses.py",
    "tests/contracts/test_outcomes.py",
    "tests/contracts/test_raw_bodies.py",
    "tests/contracts/test_records.py",
    "tests/contracts/test_rounds.py",
    "tests/contracts/test_redirects.py",
    "tests/contracts/test_settling.py",
    "tests/contracts/test_tasks.py",
    "tests/contracts/test_who_commits.py",
    "tests/talk",
)
INSTALL_TIMEOUT = 180  # seconds
RUN_TIMEOUT = 900  # seconds

#: What meets SQLAlchemy.
SQLALCHEMY_FLOORS = (
    "tests/contracts/test_bodies.py",
    "tests/contracts/test_programs.py",
    "tests/contracts/test_savepoints.py",
    "tests/contracts/test_who_commits.py",
    "tests/integration/test_postgres.py",
    "tests/integration/testing/test_faults.py",
)
SHOW_VERSIONS = (
    "import flask, click, importlib.metadata as m;"
    "print(flask.__file__, m.version('flask'), click.__file__, m.version('click'))"
)


@pytest.mark.timeout(INSTALL_TIMEOUT + RUN_TIMEOUT + 60)
@pytest.mark.parametrize(("flask", "click"), [("3.1.1", "8.1.8"), ("3.1.2", "8.2.1")])
def test_the_floors_without_a_server_hold_on_flask(flask: str, click: str) -> None:
    """Tasks, resources and the talk's slides behave alike on an older Flask with its click."""
    folder = folder_with(f"flask=={flask}", f"click=={click}")
    shown = run_before(folder, "-c", SHOW_VERSIONS)
    files = [str(folder / name / "__init__.py") for name in ("flask", "click")]
    assert shown.stdout.split() == [files[0], flask, files[1], click]
    result = run_before(folder, *PYTEST, *FLOORS)
    assert result.returncode == 0, f"On Flask {flask}:\n{result.stdout}\n{result.stderr}"


@pytest.mark.timeout(INSTALL_TIMEOUT + RUN_TIMEOUT + 60)
def test_what_meets_sqlalchemy_holds_on_2_1() -> None:
    """Sessions and engines behave alike on SQLAlchemy 2.1, which Flask-SQLAlchemy does not take."""
    version = "2.1.9"
    folder = folder_with(f"sqlalchemy=={version}")
    shown = run_before(folder, "-c", "import sqlalchemy; print(sqlalchemy.__version__)")
    assert shown.stdout.split() == [version]
    result = run_before(folder, *PYTEST, *SQLALCHEMY_FLOORS, "-k", "not flask-sqlalchemy")
    assert result.returncode == 0, f"On SQLAlchemy {version}:\n{result.stdout}\n{result.stderr}"


PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]


def run_before(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a folder in front of what is installed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), env.get("PYTHONPATH")]))
    return run([sys.executable, *arguments], env=env, timeout=RUN_TIMEOUT)


def folder_with(*requirements: str) -> Path:
    """A folder that holds these distributions and nothing else, installed once and kept."""
    folder = ROOT / ".cache" / "-".join(requirements).replace("==", "-")
    if folder.is_dir():
        return folder
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as building:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        target = Path(building) / "packages"
        installed = run([*pip, "--target", str(target), *requirements], timeout=INSTALL_TIMEOUT)
        if installed.returncode != 0:
            reason = f"pip could not install {requirements}, which needs a network once."
            if "CI" in os.environ:
                pytest.fail(f"{reason}\n{installed.stderr}")
            pytest.skip(reason)
        target.rename(folder)
    return folder


def run(
    command: list[str], *, timeout: float, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command at the repository's root and keep what it prints."""
    return subprocess.run(
        command, cwd=ROOT, env=env, timeout=timeout, check=False, capture_output=True, text=True
    )
