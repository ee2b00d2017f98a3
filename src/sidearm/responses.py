"""Chapter 3: what a view returns becomes a response (R1).

A value becomes JSON in *steps*, each one level closer to it: a ``User`` becomes the dict that its
representation returns, a dataclass the dict of its fields, a set a list. What a step returns is
stepped on in turn, until only what ``app.json`` writes itself is left. The text is the
application's own: Sidearm settles shapes, ``app.json`` settles how a date looks.

Two rules stand above convenience. What Flask converts today passes through as the same object.
And a mapped class (SQLAlchemy) has no step of its own: its columns may hold a ``password_hash``,
so it leaves by a representation or ``to_json()``, or not at all. That is why every dict and list
is looked through: Flask's own JSON would lay a mapped dataclass inside one open.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from functools import singledispatch
from inspect import unwrap
from operator import attrgetter, is_, methodcaller
from types import MethodType, NoneType
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar
from weakref import ref

import msgspec
from flask import Flask, Response
from werkzeug.exceptions import HTTPException
from werkzeug.local import LocalProxy
from werkzeug.wrappers import Response as BaseResponse

from .exceptions import NoRepresentation

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue

T = TypeVar("T")
R = TypeVar("R")

#: Takes a value one level closer to JSON.
Step: TypeAlias = Callable[[Any], Any]

MakeResponse: TypeAlias = Callable[[Any], Response]

#: What JSON has a notation for, and no value inside.
_SCALARS = frozenset({str, int, float, bool, NoneType})

#: Types of a return value that are Flask's at the first glance, and cost nothing more.
_FLASKS_AT_A_GLANCE = frozenset({str, bytes, bytearray, NoneType, Response})

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

    def install(self, app: Flask) -> None:
        """Let ``app.make_response`` convert what Flask does not.

        A ``make_response`` of the application's own class, or of an extension that came before,
        goes on working and is asked before Sidearm, except about what has a representation.
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
            inner = earlier or MethodType(own, app)
            if type(rv) in _FLASKS_AT_A_GLANCE:
                return inner(rv)
            body, rest = self._split(rv)
            if earlier is None and own is Flask.make_response:
                return inner(_join(self._convert(app, body), rest))
            return self._ask_first(inner, app, body, rest)

        app.make_response = make_response  # type: ignore[method-assign]

    def plain(self, value: Any) -> Any:
        """Take a value to what ``app.json`` writes itself, all the way down.

        Returns:
            ``value`` itself if there was nothing to do, or if no step is known for it.

        Raises:
            NoRepresentation: There is a mapped class in it that has no representation.
        """
        kind = type(value)
        if kind in _SCALARS:
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
            refusal = error
        if rest and not isinstance(body, tuple):
            # The talk's slide looks into no tuple; its form of the body counts in one all the same.
            return inner((self._ask_first(inner, app, body, []), *rest))
        converted = self._convert(app, body)
        if converted is body:
            raise refusal
        return inner(_join(converted, rest))

    def _is_represented(self, kind: type) -> bool:
        return self._registry.dispatch(kind) is not _unrepresented

    def _has_word(self, kind: type) -> bool:
        """Whether somebody has said how values of a class leave, or has to."""
        return self._is_represented(kind) or _has_to_json(kind) or _is_mapped(kind)

    def _step(self, kind: type) -> Step | None:
        represent: Step = self._registry.dispatch(kind)
        if represent is not _unrepresented:
            return represent
        if _has_to_json(kind):
            return methodcaller("to_json")
        if _is_mapped(kind):
            return _refuse
        if _is_pydantic(kind):
            return self._dump_model
        return _find_shape(kind)

    def _dump_model(self, model: Any) -> Any:
        """Dump a pydantic model or dataclass by its own rules, except for what is not pydantic's.

        Pydantic writes the models and dataclasses inside a model by shape, asking nobody. So a
        field that holds a value with a representation, or a mapped one, is left out of the dump
        and converted here. Where the model has a serializer of its own its word stands, and what
        it could lay open is refused.
        """
        kind = type(model)
        ours: dict[str, Any] = {}
        for name, value in _iterate_model(model):
            found = [type(part) for part in _iterate_inside(value)]
            if _serializes_itself(kind, name):
                _refuse_shaped(found, holder=kind)
            elif any(self._has_word(part) or _is_foreign(part) for part in found):
                ours[name] = self.plain(value)
        if getattr(kind, "__pydantic_root_model__", False) and ours:
            return ours["root"]
        dumped = _dump(model, exclude=set(ours))
        if not ours:
            return dumped
        return dumped | {_get_dumped_name(kind, name): value for name, value in ours.items()}


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
    if cls in (object, dict, list, tuple, bytes, bytearray, *_SCALARS) or issubclass(
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
            if type(key) is not str or not (type(item) in _SCALARS or _is_plain(item)):
                return False
        return True
    if type(value) is list:
        for item in value:  # noqa: SIM110 (a generator expression takes half as long again)
            if not (type(item) in _SCALARS or _is_plain(item)):
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


# Shapes: what the class of a value tells, without a word of the application.


def _has_to_json(kind: type) -> bool:
    return callable(getattr(kind, "to_json", None))


def _is_mapped(kind: type) -> bool:
    return hasattr(kind, "__mapper__")


def _is_pydantic(kind: type) -> bool:
    return hasattr(kind, "__pydantic_fields__")


def _is_foreign(kind: type) -> bool:
    """Whether pydantic cannot write a value that Sidearm can."""
    return issubclass(kind, msgspec.Struct) or hasattr(kind, "__attrs_attrs__")


def _refuse(value: object) -> NoReturn:
    raise NoRepresentation(type(value))


def _open_dataclass(value: Any) -> dict[str, Any]:
    return _name((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))


def _open_attrs(value: Any) -> dict[str, Any]:
    return _name((field.name, getattr(value, field.name)) for field in value.__attrs_attrs__)


def _open_struct(struct: msgspec.Struct) -> dict[str, Any] | list[Any]:
    """Lay one level of a Struct open, as msgspec does it with all levels."""
    config = struct.__struct_config__
    values = [getattr(struct, field) for field in struct.__struct_fields__]
    if config.array_like:
        return values if config.tag is None else [config.tag, *values]
    pairs = list(zip(struct.__struct_encode_fields__, values, strict=True))
    if config.omit_defaults:
        defaults = struct.__struct_defaults__
        required = len(pairs) - len(defaults)
        pairs[required:] = [
            pair
            for pair, default in zip(pairs[required:], defaults, strict=True)
            if not _is_default(pair[1], default)
        ]
    if config.tag is not None:
        pairs.insert(0, (str(config.tag_field), config.tag))
    return _name(pairs)


def _is_default(value: object, default: Any) -> bool:
    """Whether msgspec omits a field: the same object, or an empty list, dict or set."""
    factory = getattr(default, "factory", None)
    return value is default or (
        factory in (list, dict, set) and type(value) is factory and not value
    )


def _name(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in pairs if value is not msgspec.UNSET}


#: The first test that a class passes tells how to lay its values open; no step is needed for
#: what JSON has itself.
_SHAPES: tuple[tuple[Callable[[type], bool], Step | None], ...] = (
    (lambda kind: issubclass(kind, Enum), attrgetter("value")),
    (lambda kind: issubclass(kind, (dict, list, tuple, str)), None),
    (lambda kind: issubclass(kind, msgspec.Struct), _open_struct),
    (lambda kind: hasattr(kind, "__dataclass_fields__"), _open_dataclass),
    (lambda kind: hasattr(kind, "__attrs_attrs__"), _open_attrs),
    (lambda kind: issubclass(kind, Mapping), dict),
)


def _find_shape(kind: type) -> Step | None:
    for has_shape, step in _SHAPES:
        if has_shape(kind):
            return step
    return None


def _iterate_inside(value: Any) -> Iterator[Any]:
    """Go through a value and all that its shape would lay open, mapped objects unopened."""
    kind = type(value)
    if kind in _SCALARS:
        return
    yield value
    for part in _get_parts(value, kind):
        yield from _iterate_inside(part)


def _get_parts(value: Any, kind: type) -> Iterable[Any]:
    if _is_mapped(kind):
        return ()
    if _is_pydantic(kind):
        return (part for _, part in _iterate_model(value))
    shape = _find_shape(kind)
    opened = value if shape is None else shape(value)
    if isinstance(opened, dict):
        return opened.values()
    if isinstance(opened, (list, tuple, AbstractSet)):
        return opened
    return () if opened is value else (opened,)


# Pydantic, by the attributes that its classes carry: it is not imported here.


def _iterate_model(model: Any) -> Iterator[tuple[str, Any]]:
    """Go through the fields that a dump would show, with computed ones that may hold objects."""
    kind: Any = type(model)
    for name, field in kind.__pydantic_fields__.items():
        if not field.exclude:
            yield name, getattr(model, name, None)
    for name, computed in kind.__pydantic_decorators__.computed_fields.items():
        if computed.info.return_type not in _SCALARS:
            yield name, getattr(model, name)
    yield from (getattr(model, "__pydantic_extra__", None) or {}).items()


def _serializes_itself(kind: Any, name: str) -> bool:
    """Whether a function of the model's author writes a field, or the whole model."""
    dump = getattr(kind, "model_dump", None)
    if dump is not None and dump.__module__.partition(".")[0] not in ("pydantic", "sqlmodel"):
        return True
    decorators = kind.__pydantic_decorators__
    if decorators.model_serializers:
        return True
    serializers = decorators.field_serializers.values()
    if any(name in each.info.fields or "*" in each.info.fields for each in serializers):
        return True
    field = kind.__pydantic_fields__.get(name)
    return field is not None and any(hasattr(each, "when_used") for each in field.metadata)


def _refuse_shaped(found: Iterable[type], holder: type) -> None:
    for kind in found:
        if _is_mapped(kind) and (hasattr(kind, "__dataclass_fields__") or _is_pydantic(kind)):
            raise NoRepresentation(kind, holder)


def _dump(model: Any, exclude: set[str]) -> Any:
    if hasattr(model, "model_dump"):
        return model.model_dump(mode="json", **({"exclude": exclude} if exclude else {}))
    return model.__pydantic_serializer__.to_python(model, mode="json", exclude=exclude or None)


def _get_dumped_name(kind: Any, name: str) -> str:
    config = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", None) or {}
    if not config.get("serialize_by_alias"):
        return name
    if name in kind.__pydantic_fields__:
        return kind.__pydantic_fields__[name].serialization_alias or name
    computed = kind.__pydantic_decorators__.computed_fields.get(name)
    return (computed and computed.info.alias) or name
