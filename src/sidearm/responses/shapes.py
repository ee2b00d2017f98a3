"""Shapes: what the class of a value tells about its form, without a word of the application.

A shape lays *one* level of a value open; what is inside is somebody else's to convert, for it may
have a representation. msgspec could write a Struct with all that is in it, mapped dataclasses and
their ``password_hash`` included; so its rules are followed here by hand, one level at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from operator import attrgetter
from types import NoneType
from typing import Any, TypeAlias

import msgspec

#: Takes a value one level closer to JSON.
Step: TypeAlias = Callable[[Any], Any]

#: What JSON has a notation for, and no value inside.
SCALARS = frozenset({str, int, float, bool, NoneType})


def is_mapped(kind: type) -> bool:
    """Tell whether a class is one of SQLAlchemy's, however it was mapped."""
    return hasattr(kind, "__mapper__")


def find_shape(kind: type) -> Step | None:
    """Find the step that lays values of a class open.

    Returns:
        None where JSON has the form itself, or where the class tells nothing.
    """
    for has_shape, step in _SHAPES:
        if has_shape(kind):
            return step
    return None


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
