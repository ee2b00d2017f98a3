"""What a view's return annotation says about streams, without calling it.

Three answers are honest: it streams, it does not, or nobody can know (no annotation, or one such as
``Response`` or ``Any``, which an :class:`~sidearm.events.stream.EventStream` would satisfy too).
"""

from __future__ import annotations

import ast
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

from .stream import EventStream


class Declared(Enum):
    """What is said of a view."""

    STREAMS = "streams"
    MAY_STREAM = "may stream"  # EventStream among others
    BLOCKS = "blocks"
    NOTHING = "nothing"


def declared(view: Callable[..., Any]) -> Declared:
    """What the return annotation of a view function says.

    Wrappers made with :func:`functools.wraps`, partial functions, callable objects and class-based
    views are looked through; of a ``MethodView`` each method counts.

    Args:
        view: As it stands in ``app.view_functions``.
    """
    said = {_said_by(function) for _, function in _functions_of(view)}
    return _joined(said) if said else Declared.NOTHING


def streaming_methods(view: Callable[..., Any]) -> frozenset[str | None]:
    """The methods of HTTP to which a view says that it answers with a stream, and nothing else.

    Args:
        view: As it stands in ``app.view_functions``.

    Returns:
        Their names; ``None`` stands for every one.
    """
    functions = list(_functions_of(view))
    found = {each for each, function in functions if _said_by(function) is Declared.STREAMS}
    if "GET" in found and "HEAD" not in dict(functions):
        found.add("HEAD")  # a MethodView answers it by get()
    return frozenset(found)


def _joined(said: set[Declared]) -> Declared:
    if said == {Declared.STREAMS}:
        return Declared.STREAMS
    if said & {Declared.STREAMS, Declared.MAY_STREAM}:
        return Declared.MAY_STREAM
    return Declared.NOTHING if Declared.NOTHING in said else Declared.BLOCKS


def _functions_of(view: Any) -> Iterator[tuple[str | None, Any]]:
    """The functions that a request may reach by a view, with the methods of HTTP (None: any)."""
    while isinstance(view, functools.partial):
        view = view.func
    view_class = getattr(view, "view_class", None)  # set by Flask's View.as_view()
    if view_class is not None:
        names = [str(method) for method in getattr(view_class, "methods", None) or ()]
        # Only a MethodView has functions named after methods.
        named = [each for each in names if hasattr(view_class, each.lower())]
        for method in named:
            yield method, inspect.unwrap(getattr(view_class, method.lower()))
        if not named:
            yield None, inspect.unwrap(view_class.dispatch_request)
        return
    if not hasattr(view, "__code__") and not inspect.ismethod(view):
        view = view if hasattr(view, "__wrapped__") else type(view).__call__
    unwrapped = inspect.unwrap(view)
    if isinstance(unwrapped, functools.partial):
        unwrapped = unwrapped.func
    elif not hasattr(unwrapped, "__code__") and not inspect.ismethod(unwrapped):
        unwrapped = type(unwrapped).__call__
    yield None, unwrapped


def _said_by(function: Any) -> Declared:
    try:
        annotation = getattr(function, "__annotations__", {}).get("return", inspect.Parameter.empty)
    except NameError:  # Python 3.14 evaluates annotations when they are asked for
        return Declared.NOTHING
    if isinstance(annotation, str):
        return _said_in_words(annotation, getattr(function, "__globals__", {}))
    return _joined({_said_by_type(each) for each in _members(annotation)})


def _said_in_words(annotation: str, names: dict[str, Any]) -> Declared:
    try:
        # As typing.get_type_hints() does it, for this one annotation: the others may name what is
        # imported for type checkers only.
        evaluated = eval(annotation, dict(names))  # noqa: S307 (the application's own source)
    except Exception:  # noqa: BLE001 (whatever a name stands for)
        return _said_by_names(annotation)
    if isinstance(evaluated, str):
        return _said_in_words(evaluated, names)
    return _joined({_said_by_type(each) for each in _members(evaluated)})


def _said_by_names(annotation: str) -> Declared:
    """For an annotation with names that are imported for type checkers only."""
    try:
        tree = ast.parse(annotation, mode="eval").body
    except SyntaxError:
        return Declared.NOTHING
    if _name_of(tree) == EventStream.__name__:
        return Declared.STREAMS
    found = {name for node in ast.walk(tree) if (name := _name_of(node))}
    if EventStream.__name__ in found and _is_union(tree):
        return Declared.MAY_STREAM
    return Declared.NOTHING


def _is_union(tree: ast.expr) -> bool:
    if isinstance(tree, ast.BinOp):
        return isinstance(tree.op, ast.BitOr)
    return isinstance(tree, ast.Subscript) and _name_of(tree.value) in {"Optional", "Union"}


def _name_of(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None


def _members(annotation: Any) -> Iterator[Any]:
    """The types of a union, and of what stands around one."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from _members(argument)
    # Of a tuple that a view returns, ``(value, status, headers)``, the value.
    elif origin in (typing.Annotated, tuple) and arguments:
        yield from _members(arguments[0])
    elif hasattr(annotation, "__value__"):  # ``type Answer = ...``
        yield from _members(annotation.__value__)
    else:
        yield annotation


def _said_by_type(member: Any) -> Declared:
    if isinstance(member, typing.ForwardRef):
        member = member.__forward_arg__
    if isinstance(member, str):
        return Declared.STREAMS if member == EventStream.__name__ else Declared.NOTHING
    if member is None:
        return Declared.BLOCKS
    kind = typing.get_origin(member) or member
    if not isinstance(kind, type) or kind in {Any, inspect.Parameter.empty}:
        return Declared.NOTHING  # a type variable, a callable; Any is a class in some Pythons
    if issubclass(kind, EventStream):
        return Declared.STREAMS
    if typing.is_typeddict(kind):
        return Declared.BLOCKS  # a dictionary; it refuses to be asked about subclasses
    return Declared.NOTHING if _allows_a_stream(kind) else Declared.BLOCKS


def _allows_a_stream(kind: type) -> bool:
    """Whether what is said to be of a type may be a stream, which is a Response, too."""
    try:
        return kind is tuple or issubclass(EventStream, kind)
    except TypeError:  # a protocol with data, which only an object can be asked about
        return True
