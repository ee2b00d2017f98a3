"""From a view's return value to what Flask accepts, and the registry of representations.

A value becomes JSON in *steps*, each one level closer to it: a ``User`` becomes the dict that its
representation returns, a dataclass the dict of its fields, an enum its value. What a step returns
is stepped on in turn, until only what ``app.json`` writes itself is left. The text is the
application's own: Sidearm settles shapes, ``app.json`` settles how a date looks.

Two rules stand above convenience. What Flask converts today passes through as the same object.
And a mapped class (SQLAlchemy) has no step of its own: its columns may hold a ``password_hash``,
so it leaves by a representation or ``to_json()``, or not at all. That is why every dict and list
is looked through: Flask's own JSON would lay a mapped dataclass inside one open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from enum import Enum
from functools import singledispatch
from inspect import unwrap
from operator import is_, methodcaller
from types import MethodType
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar
from weakref import ref

from flask import Flask, Response
from werkzeug.exceptions import HTTPException
from werkzeug.local import LocalProxy
from werkzeug.wrappers import Response as BaseResponse

from ..exceptions import NoRepresentation
from . import models
from .shapes import SCALARS, Step, find_shape, is_mapped

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue

T = TypeVar("T")
R = TypeVar("R")

MakeResponse: TypeAlias = Callable[[Any], Response]


#: Types of a return value that are Flask's at the first glance, and cost nothing more.
_FLASKS_AT_A_GLANCE = frozenset({str, bytes, bytearray, type(None), Response})

#: The frame in which Flask refuses a value; the function itself may have been wrapped meanwhile.
_FLASKS_CODE = unwrap(Flask.make_response).__code__


class Representations:
    """The forms in which an application's own values leave it, by class.

    One object may serve several applications; it refers to none of them.
    """

    def __init__(self) -> None:
        # singledispatch is a registry by MRO that knows abstract base classes too.
        self._registry = singledispatch(_unrepresented)

    def register(self, cls: type[T]) -> Callable[[Callable[[T], R]], Callable[[T], R]]:
        """Make the decorated function the representation of a class and its subclasses.

        It counts wherever such a value is met: returned from a view, or inside a list, a dict or
        another value. The nearest class in a value's MRO decides, then abstract base classes; a
        second function for the same class replaces the first.

        Args:
            cls: The class, which may be abstract. The function gets the value and returns one
                that JSON can hold or that can be converted in turn. Status and headers are the
                view's to give: ``return user, 201``. It may return a response instead, which is
                sent as it is when the value comes from a view, and fits inside no other value.

        Raises:
            TypeError: ``cls`` is no class, or JSON or Flask has a form for it already.
        """
        _check_representable(cls)

        def decorate(represent: Callable[[T], R]) -> Callable[[T], R]:
            self._registry.register(cls, represent)
            return represent

        return decorate

    def install(self, app: Flask, made: Callable[[Response], object] | None = None) -> None:
        """Let ``app.make_response`` convert what Flask does not.

        A ``make_response`` of the application's own class, or of an extension that came before,
        goes on working and is asked before Sidearm, except about what has a representation.

        Args:
            app: The application.
            made: Called with every response that was made.
        """
        # An instance attribute that held the application would be a cycle: an application out of
        # use would wait for the garbage collector (Flask's own tests forbid it).
        reference = ref(app)
        earlier: MakeResponse | None = vars(app).get("make_response")

        def make_response(rv: ResponseReturnValue) -> Response:
            app = reference()
            if app is None:
                raise ReferenceError(
                    "make_response() was called after its application had been freed. Keep a"
                    " reference to the application, not to its method."
                )
            own = type(app).make_response
            kind = type(rv)  # and not its __class__, which a proxy borrows
            if earlier is None and (kind in _FLASKS_AT_A_GLANCE or issubclass(kind, BaseResponse)):
                response = own(app, rv)
            else:
                inner = earlier or MethodType(own, app)
                body, rest = self._split(rv)
                if earlier is None and own is Flask.make_response:
                    response = inner(_join(self._convert(app, body), rest))
                else:
                    response = self._ask_first(inner, app, body, rest)
            if made is not None:
                made(response)
            return response

        app.make_response = make_response  # type: ignore[method-assign]

    def plain(self, value: Any) -> Any:
        """Take a value to what ``app.json`` writes itself, all the way down.

        Returns:
            ``value`` itself if there was nothing to do, or if no step is known for it.

        Raises:
            NoRepresentation: There is a mapped class in it that has no representation.
        """
        kind = type(value)
        if kind in SCALARS:
            return value
        if kind is LocalProxy:
            return self.plain(_unwrap_proxy(value))
        step = None if kind is dict or kind is list else self._step(kind)
        return self._plain_inside(value) if step is None else self.plain(step(value))

    def _plain_inside(self, value: Any) -> Any:
        if isinstance(value, dict):
            return self._plain_dict(value)
        if isinstance(value, (list, tuple)):
            return self._plain_list(value)
        if isinstance(value, AbstractSet):
            return _sort(self._plain_list(list(value)))
        return value

    def _plain_dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        keys = [key.value if isinstance(key, Enum) else key for key in value]
        values = [self.plain(item) for item in value.values()]
        if all(map(is_, keys, value)) and all(map(is_, values, value.values())):
            return value
        return dict(zip(keys, values, strict=True))

    def _plain_list(self, value: list[Any] | tuple[Any, ...]) -> list[Any] | tuple[Any, ...]:
        items = [self.plain(item) for item in value]
        return value if all(map(is_, items, value)) else items

    def _split(self, rv: Any) -> tuple[Any, list[Any]]:
        """Part a return value into the body and what Flask's tuple forms put behind it."""
        rest: list[Any] = []
        kind = type(rv)
        if kind is tuple or (isinstance(rv, tuple) and not self._has_word(kind)):
            rv, *rest = rv if len(rv) in (2, 3) else (rv,)
        # A proxy such as current_user can be called, so Flask would take it for a WSGI application.
        return _unwrap_proxy(rv), rest

    def _convert(self, app: Flask, body: Any) -> Any:
        """Turn a body into one that Flask accepts; itself, if it is Flask's to take or refuse."""
        kind = type(body)
        if kind in _FLASKS_AT_A_GLANCE or isinstance(body, (BaseResponse, HTTPException)):
            return body
        if _is_plain(body) or (not self._has_word(kind) and _is_flasks(body)):
            return body
        plain = self.plain(body)
        if plain is body or isinstance(plain, (dict, list, BaseResponse)):
            return plain
        return app.json.response(plain)

    def _ask_first(self, inner: MakeResponse, app: Flask, body: Any, rest: list[Any]) -> Response:
        """Make a response where somebody else's ``make_response`` has the first word.

        It sees what the view returned. Only when Flask, to which it passes on what it does not
        know, refuses that very body, the body is converted and it is asked again.
        """
        # Flask would write a dict or list at once, with the values in it laid open by shape.
        if self._is_represented(type(body)) or isinstance(body, (dict, list)):
            return inner(_join(self._convert(app, body), rest))
        try:
            return inner(_join(body, rest))
        except TypeError as error:
            if not _is_refusal(error, body):
                raise
        if rest and not isinstance(body, tuple):
            # The talk's slide looks into no tuple; its form of the body counts in one all the same.
            return inner((self._ask_first(inner, app, body, []), *rest))
        # What nobody can convert is refused once more, in Flask's words.
        return inner(_join(self._convert(app, body), rest))

    def _is_represented(self, kind: type) -> bool:
        return self._registry.dispatch(kind) is not _unrepresented

    def _has_word(self, kind: type) -> bool:
        """Whether somebody has said how values of a class leave, or has to."""
        return self._is_represented(kind) or _has_to_json(kind) or is_mapped(kind)

    def _step(self, kind: type) -> Step | None:
        represent: Step = self._registry.dispatch(kind)
        if represent is not _unrepresented:
            return represent
        if _has_to_json(kind):
            return methodcaller("to_json")
        if is_mapped(kind):
            return _refuse
        if models.is_model(kind):
            return self._dump_model
        return find_shape(kind)

    def _dump_model(self, model: Any) -> Any:
        return models.dump(model, self.plain, self._has_word)


def _unrepresented(value: object) -> Any:
    """Stand for "no representation" in the registry; never called."""
    raise NotImplementedError


def _check_representable(cls: Any) -> None:
    if not isinstance(cls, type):
        raise TypeError(f"represent() got {cls!r}. Give a class, such as represent(User).")
    if issubclass(cls, HTTPException):
        raise TypeError(
            f"represent() got {cls.__name__}, which is a response already, with its own status."
            f" Register '@app.errorhandler({cls.__name__})' instead."
        )
    if cls in (object, dict, list, tuple, bytes, bytearray, *SCALARS) or issubclass(
        cls, BaseResponse
    ):
        raise TypeError(
            f"represent() got {cls.__name__}, which Flask and JSON have a form for already."
            " Give a class of your own, such as a subclass of it."
        )


def _join(body: Any, rest: list[Any]) -> Any:
    return (body, *rest) if rest else body


def _unwrap_proxy(value: Any) -> Any:
    return value._get_current_object() if type(value) is LocalProxy else value  # noqa: SLF001 (its API)


def _is_plain(value: Any) -> bool:
    """Whether a value is a dict or list of what JSON can hold, seen with as little work as can be.

    Every dict and list that a view returns comes by here, and most are plain.
    """
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str or not (type(item) in SCALARS or _is_plain(item)):
                return False
        return True
    if type(value) is list:
        for item in value:  # noqa: SIM110 (a generator expression takes half as long again)
            if not (type(item) in SCALARS or _is_plain(item)):
                return False
        return True
    return False


def _is_flasks(body: object) -> bool:
    return isinstance(body, (str, bytes, bytearray, tuple, Iterator)) or callable(body)


def _is_refusal(error: TypeError, body: object) -> bool:
    """Whether Flask itself raised an error about this body, and not a function of the user's."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return False
    frame = traceback.tb_frame
    return frame.f_code is _FLASKS_CODE and frame.f_locals.get("rv") is body


def _sort(items: Any) -> Any:
    # A set's order differs between processes; equal sets should make equal responses.
    try:
        return sorted(items)
    except TypeError:
        return items


def _has_to_json(kind: type) -> bool:
    return callable(getattr(kind, "to_json", None))


def _refuse(value: object) -> NoReturn:
    raise NoRepresentation(type(value))
