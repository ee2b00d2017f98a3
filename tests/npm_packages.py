"""Files of npm packages, which ``scripts/setup dev`` puts into ``.cache/npm``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / ".cache/npm/node_modules"


def npm_file(path: str) -> Path:
    """A file of a package; without it the test is skipped, but never on CI.

    Args:
        path: Begins with the package's name, as in ``tests/npm/package.json``.
    """
    found = FOLDER / path
    if not found.is_file():
        message = f"{path} of npm is not here: run scripts/setup dev where npm's registry answers"
        if "CI" in os.environ:
            pytest.fail(message)
        pytest.skip(message)
    return found
