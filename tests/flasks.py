"""What differs between versions of Flask, so that the same tests run on its next one, too.

The next one is tried by hand: ``PYTHONPATH=/path/to/flask/src make test PYTEST=tests/contracts``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import redirect

from sidearm.tasks.flask_contexts import MERGED, context_first

#: The status of ``redirect()``: 302, from 3.2 on 303.
REDIRECT_STATUS = redirect("/").status_code

before_3_2 = pytest.mark.skipif(
    MERGED, reason="From 3.2 on a request has one context, for the application too, and its own."
)


def call(method: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """Call a method of the application that takes the context first, from 3.2 on."""
    return method(*context_first(), *args, **named)


def own(error: BaseException | None) -> BaseException | None:
    """The error itself; 3.2 puts those of teardown into groups."""
    while MERGED and isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


@contextlib.contextmanager
def raises(kind: type[BaseException]) -> Iterator[None]:
    """``pytest.raises()`` for an error that leaves the teardown of a context."""
    with pytest.raises((kind, BaseExceptionGroup) if MERGED else kind) as caught:
        yield
    assert isinstance(own(caught.value), kind)
