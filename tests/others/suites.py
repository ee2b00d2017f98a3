"""Running the tests of other projects, in an environment of their own, with Sidearm or without."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REQUIREMENTS = HERE / "requirements.txt"
INSTALL_TIMEOUT = 300  # seconds
RUN_TIMEOUT = 300  # seconds
SUITES = ("Flask", "Flask-SQLAlchemy", "Flask-Login", "Flask-WTF")

#: How a suite is run: without Sidearm, with it, and with it in use.
WITHOUT, IDLE, CLAIM = "without", "idle", "claim"


@dataclass
class Run:
    """One run of a suite.

    Attributes:
        outcomes: ``passed``, ``failed`` or ``skipped``, by the test's name.
        output: What pytest printed.
        counts: How often each thing was done, as ``install_sidearm`` counts it.
        leaks: The tests after which something was still claimed.
        said: What Sidearm wrote to its log.
    """

    outcomes: dict[str, str]
    output: str
    counts: dict[str, int] = field(default_factory=dict)
    leaks: dict[str, int] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    @property
    def failed(self) -> set[str]:
        return {name for name, outcome in self.outcomes.items() if outcome == "failed"}


@dataclass
class Suite:
    """The runs of one project's tests.

    Attributes:
        name: The project's name.
        without: The run that Sidearm has no part in.
        idle: The run with Sidearm on every application, where nothing is claimed.
        claim: The run in which every context claims.
    """

    name: str
    without: Run
    idle: Run
    claim: Run


def environment() -> Path:
    """A virtual environment of the pinned versions, with their source distributions beside it.

    It is made once, and kept until another version is pinned.
    """
    pins = pinned()
    key = hashlib.sha256(f"{sys.version} {sys.prefix} {pins}".encode()).hexdigest()[:12]
    made = ROOT / ".cache" / f"others-{key}"
    if made.is_dir():
        return made
    made.parent.mkdir(exist_ok=True)
    sources = [f"{name}=={pins[name]}" for name in SUITES]
    with tempfile.TemporaryDirectory(dir=made.parent) as building:
        folder = Path(building) / "environment"
        make(sys.executable, "-m", "venv", "--without-pip", str(folder))
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python")]
        make(*pip, "install", "--quiet", "--no-deps", *(f"{name}=={pins[name]}" for name in pins))
        # pip asks a source distribution for its name and version, by its own build back-end.
        download = ["download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        target = ["--no-build-isolation", "--dest", str(folder / "sources")]
        make(*pip, *download, *target, *sources)
        folder.rename(made)
    return made


def pinned() -> dict[str, str]:
    """The version of each distribution in the environment."""
    locked = dict(read_pins(ROOT / "requirements.lock"))
    return {name: version or locked[name] for name, version in read_pins(REQUIREMENTS)}


def read_pins(path: Path) -> Iterator[tuple[str, str]]:
    """The names and versions of a file; the version may be left out."""
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            yield name, version


def make(*command: str) -> None:
    """Run a step of making the environment."""
    result = run(list(command), timeout=INSTALL_TIMEOUT)
    if result.returncode != 0:
        reason = f"{' '.join(command[1:5])} failed; it needs a network once."
        if "CI" in os.environ:
            pytest.fail(f"{reason}\n{result.stdout}\n{result.stderr}")
        pytest.skip(reason)


def run_suite(name: str, how: str, environment: Path, folder: Path) -> Run:
    """Run the tests of a source distribution, unpacked for this run alone."""
    folder /= how
    sources = unpack(name, environment, folder)
    results, report = folder / "results.xml", folder / "report.json"
    command = [str(environment / "bin/python"), "-m", "pytest", "-p", "no:cacheprovider"]
    command += ["-q", "-rfE", "--tb=short", f"--basetemp={folder}/tmp", f"--junitxml={results}"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env.pop("PYTHONPATH", None)
    if how != WITHOUT:
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(installed(folder))])
        command += ["-p", "install_sidearm", f"--sidearm={how}", f"--sidearm-report={report}"]
    # Should it hang, it says where.
    command += ["-o", f"faulthandler_timeout={RUN_TIMEOUT / 2}"]
    try:
        result = run(command, timeout=RUN_TIMEOUT, cwd=sources, env=env)
    except subprocess.TimeoutExpired as error:
        said = b"\n".join(filter(None, [error.stdout, error.stderr])).decode()
        pytest.fail(f"The tests of {name} took more than {RUN_TIMEOUT} seconds:\n{said}")
    output = f"{result.stdout}\n{result.stderr}"
    if result.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        pytest.fail(f"The tests of {name} did not run:\n{output}")
    facts: dict[str, Any] = {} if how == WITHOUT else json.loads(report.read_text())
    return Run(outcomes_in(results), output, **facts)


def unpack(name: str, environment: Path, folder: Path) -> Path:
    """Unpack a source distribution; returns the folder that its tests are run in."""
    wanted = name.lower().replace("-", "_")
    (archive,) = (
        path
        for path in (environment / "sources").iterdir()
        if path.name.lower().replace("-", "_").rpartition("_")[0] == wanted
    )
    with tarfile.open(archive) as files:
        # Python 3.11 has had it since 3.11.4 only.
        files.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        files.extractall(folder)
    (sources,) = folder.iterdir()
    return sources


def installed(folder: Path) -> Path:
    """A folder for Python's path that makes Sidearm known as installed, and holds the plugin."""
    site = folder / "site"
    site.mkdir()
    shutil.copy(HERE / "install_sidearm.py", site)
    (entry_points,) = (
        path for path in distribution("sidearm").files or () if path.name == "entry_points.txt"
    )
    metadata = Path(str(entry_points.locate())).parent
    shutil.copytree(metadata, site / metadata.name)
    return site


def outcomes_in(results: Path) -> dict[str, str]:
    """What became of each test; of one that passed and then failed in a fixture, the failure."""
    outcomes: dict[str, str] = {}
    for case in ET.parse(results).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            outcomes[name] = "failed"
        elif outcomes.get(name) != "failed":
            outcomes[name] = "skipped" if "skipped" in kinds else "passed"
    return outcomes


def run(
    command: list[str],
    *,
    timeout: float,
    cwd: Path = ROOT,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command and keep what it prints."""
    return subprocess.run(
        command, cwd=cwd, env=env, timeout=timeout, check=False, capture_output=True, text=True
    )
