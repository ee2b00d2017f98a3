"""Servers that tests need and that may not be installed here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def or_skip(make: Callable[[], T]) -> T:
    """Make a server; where its program is missing, skip with the line that says what to install.

    On CI nothing may be skipped, so there it fails.

    Args:
        make: Makes it, such as ``PostgresServer``.

    Raises:
        FileNotFoundError: Its program is missing, on CI.
    """
    try:
        return make()
    except FileNotFoundError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(str(error))
