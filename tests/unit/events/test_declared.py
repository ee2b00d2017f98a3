"""What a view's annotation says of streams, in all its spellings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Optional, Protocol, TypedDict, Union

import pytest
from flask import Flask, Response
from flask.typing import ResponseReturnValue
from flask.views import MethodView, View

import sidearm
from sidearm import EventStream
from sidearm.events.declared import Declared, declared

STREAMS, MAY, BLOCKS, NOTHING = (
    Declared.STREAMS,
    Declared.MAY_STREAM,
    Declared.BLOCKS,
    Declared.NOTHING,
)


class OwnStream(EventStream):
    """An application's subclass."""


class Receipt(TypedDict):
    """A dictionary, which no class is a subclass of."""

    total: int


class Sized(Protocol):
    """A protocol with data; whether a class has them nobody can tell."""

    size: int


SPELLINGS: list[tuple[Any, Declared]] = [
    (EventStream, STREAMS),
    ("EventStream", STREAMS),
    ("sidearm.EventStream", STREAMS),
    ('"EventStream"', STREAMS),
    (OwnStream, STREAMS),
    (Annotated[EventStream, "live"], STREAMS),
    (tuple[EventStream, int], STREAMS),
    ("tuple[EventStream, int, dict[str, str]]", STREAMS),
    (Optional[EventStream], MAY),  # noqa: UP045 (a spelling of its own),
    (Union[EventStream, str], MAY),  # noqa: UP007 (the same),
    (EventStream | tuple[str, int], MAY),
    ("EventStream | str", MAY),
    ("Optional[EventStream]", MAY),
    ('Union["EventStream", str]', MAY),
    ("EventStream | Page", MAY),  # which is imported for type checkers only
    ("Optional['Page'] | EventStream", MAY),
    (str, BLOCKS),
    ("str", BLOCKS),
    (None, BLOCKS),
    (dict[str, int], BLOCKS),
    (tuple[str, int], BLOCKS),
    (Iterator[str], BLOCKS),
    (Receipt, BLOCKS),
    ("Receipt | str", BLOCKS),
    (Sized, NOTHING),
    (Response, NOTHING),  # an EventStream is one
    ("Response", NOTHING),
    (ResponseReturnValue, NOTHING),
    (Any, NOTHING),
    (object, NOTHING),
    (tuple, NOTHING),
    ("Page", NOTHING),
    ("Page[EventStream]", NOTHING),  # whatever that is
    ("no annotation at all", NOTHING),
]


@pytest.mark.parametrize(("annotation", "said"), SPELLINGS, ids=lambda value: str(value)[:60])
def test_w2_annotations(annotation: Any, said: Declared) -> None:
    """A spelling says that a view streams, that it may, that it blocks, or nothing."""

    def view() -> Any: ...

    view.__annotations__["return"] = annotation
    assert declared(view) is said


def test_w2_no_annotation_says_nothing() -> None:
    """So the view may stream, and nobody guesses."""
    assert declared(lambda: "page") is NOTHING


def keeps_name(view: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(view)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return view(*args, **kwargs)

    return wrapper


def stream() -> EventStream:
    return sidearm.event_stream("news")


class CallableObject:
    def __call__(self) -> EventStream:
        return stream()

    def method(self) -> EventStream:
        return stream()


@pytest.mark.parametrize(
    "view",
    [
        keeps_name(stream),
        keeps_name(keeps_name(stream)),
        functools.partial(stream),
        keeps_name(functools.partial(stream)),
        CallableObject(),
        CallableObject().method,
    ],
)
def test_w2_looks_through_wrappers(view: Callable[..., Any]) -> None:
    """functools.wraps, partial functions, methods and callable objects hide nothing."""
    assert declared(view) is STREAMS


def test_w2_a_wrapper_without_wraps_says_nothing() -> None:
    """Its own function has no annotation, and what it returns is its own business."""
    assert declared(lambda: stream()) is NOTHING  # noqa: PLW0108 (that is the point)


def test_w2_class_based_views() -> None:
    """A View says it by dispatch_request, a MethodView by each of its methods."""

    class Live(View):
        decorators = (keeps_name,)

        def dispatch_request(self) -> EventStream:
            return stream()

    class Both(MethodView):
        def get(self) -> EventStream:
            return stream()

        def post(self) -> str:
            return "saved"

    class Page(MethodView):
        def get(self) -> str:
            return "page"

        def post(self):  # noqa: ANN202 (so that it says nothing)
            return "saved"

    assert declared(Live.as_view("live")) is STREAMS
    assert declared(Both.as_view("both")) is MAY
    assert declared(keeps_name(Both.as_view("both"))) is MAY
    assert declared(Page.as_view("page")) is NOTHING


def test_w2_a_view_that_flask_made() -> None:
    """The static endpoint has a view without annotation, and is judged elsewhere."""
    assert declared(Flask("testapp").view_functions["static"]) is NOTHING
