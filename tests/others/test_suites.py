"""The test suites of other projects pass as before with Sidearm on every application they make.

That it does no harm, not that it does any good: what tasks do is in ``tests/contracts``.
"""

from __future__ import annotations

import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from others import suites

if TYPE_CHECKING:
    from collections.abc import Iterator

    from others.suites import Run, Suite

#: Tests that fail with the pinned versions by themselves, and why.
KNOWN_FAILURES = {
    "Flask": {
        "tests.test_reqctx::test_bad_environ_raises_bad_request": "Werkzeug from 3.1.7 on takes an"
        " impossible Host for none, so that the answer is 404 and not 400.",
    },
    "Flask-SQLAlchemy": dict.fromkeys(
        (
            "tests.test_model_bind::test_explicit_table[db2]",
            "tests.test_model_bind::test_explicit_table[db4]",
        ),
        "SQLAlchemy 2.0.58 refuses a model that is a dataclass and is given its table.",
    ),
}

#: What Sidearm says of a suite's own applications, in so many lines, and why it is right.
SAID = {
    "Flask-Login": {
        " to '//good.com/login'": "One test has its log-in page on another host, which a real"
        " application would name in SIDEARM_REDIRECT_HOSTS."
    },
}

#: Seconds; should it be, one step after another.
pytestmark = pytest.mark.timeout(3 * suites.INSTALL_TIMEOUT + 3 * suites.RUN_TIMEOUT + 60)


@pytest.fixture(scope="module")
def environment() -> Path:
    """Where the suites are run."""
    return suites.environment()


@pytest.fixture(scope="module", params=suites.SUITES)
def suite(
    request: pytest.FixtureRequest, environment: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Suite]:
    """Each suite in turn, run in all three ways, as many at a time as there are processors."""
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    with ThreadPoolExecutor(os.cpu_count()) as executor:
        runs = [
            executor.submit(suites.run_suite, name, how, environment, folder)
            for how in (suites.WITHOUT, suites.IDLE, suites.CLAIM)
        ]
    yield suites.Suite(name, *(each.result() for each in runs))
    shutil.rmtree(folder)


def test_without_sidearm_nothing_fails_but_what_is_known(suite: Suite) -> None:
    """The measure for the others: so many tests, and every failure with its reason."""
    assert len(suite.without.outcomes) > 80
    assert suite.without.failed == set(KNOWN_FAILURES.get(suite.name, {})), suite.without.output


def test_t2_the_suite_is_as_before_where_nothing_is_claimed(suite: Suite) -> None:
    """Being installed changes nothing that its tests can see."""
    same_outcomes(suite.idle, suite.without)
    assert suite.idle.counts.keys() == {"applications"}
    assert unexpected(suite.name, suite.idle) == []


def test_t9_the_suite_is_as_before_where_every_context_claims(suite: Suite) -> None:
    """Each claim was settled once and given back, by the end of the test that made it."""
    same_outcomes(suite.claim, suite.without)
    counts = suite.claim.counts
    assert counts["claims"] > len(suite.claim.outcomes)
    assert counts["releases"] == counts["claims"]
    assert counts["commits"] + counts["rollbacks"] == counts["claims"]
    assert counts["after_commit"] == counts["commits"]
    assert counts["after_rollback"] == counts["rollbacks"]
    if suite.name == "Flask-SQLAlchemy":
        assert counts["databases"] > 100
    assert suite.claim.leaks == {}
    assert unexpected(suite.name, suite.claim) == []


def test_the_documentation_tells_what_is_run(suite: Suite) -> None:
    """The version, the number of tests, and what fails by itself."""
    page = (suites.ROOT / "docs/howto/extensions.md").read_text()
    version = suites.pinned()[suite.name]
    start = f"| {suite.name} {version} | {len(suite.without.outcomes)} | "
    (row,) = (line for line in page.splitlines() if line.startswith(start))
    known = KNOWN_FAILURES.get(suite.name, {})
    assert {re.split(r"::|\[", name)[1] for name in known} == set(re.findall(r"test_\w+", row))


def unexpected(name: str, run: Run) -> list[str]:
    """What Sidearm has written to its log beside what it has to say of a suite."""
    known = SAID.get(name, {})
    return [line for line in run.said if not any(text in line for text in known)]


def same_outcomes(with_it: Run, without: Run) -> None:
    """The same tests ran, and what became of each is the same."""
    changed = {
        name: (without.outcomes.get(name, "not run"), with_it.outcomes.get(name, "not run"))
        for name in without.outcomes.keys() | with_it.outcomes.keys()
        if without.outcomes.get(name) != with_it.outcomes.get(name)
    }
    assert not changed, with_it.output
