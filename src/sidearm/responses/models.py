"""Pydantic models and dataclasses, by the attributes that their classes carry: nothing is imported.

A model is dumped by its own rules: aliases, exclusions, secrets, serializers, and the narrowing of
a value to the class that its field declares. But pydantic also writes what is inside a model by
shape, asking nobody. So a field that holds a value with a representation, or a mapped one, is
left out of the dump and converted by us; and where only pydantic can do it right, a value that
must not be laid open is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Any, get_args, get_origin

from ..exceptions import NoRepresentation
from .shapes import SCALARS, find_shape, is_mapped

#: Packages whose ``model_dump`` is pydantic's own; another is its author's word.
_PYDANTICS = ("pydantic", "sqlmodel")


def is_model(kind: type) -> bool:
    """Tell whether a class is a pydantic model or pydantic dataclass."""
    return hasattr(kind, "__pydantic_fields__")


def dump(model: Any, plain: Callable[[Any], Any], has_word: Callable[[type], bool]) -> Any:
    """Lay a model open, all levels at once.

    Args:
        model: A pydantic model or dataclass.
        plain: Converts a value that is not pydantic's to write.
        has_word: Whether values of a class leave by a form of their own, or not at all.

    Raises:
        NoRepresentation: A mapped value is where only the model itself can write it.
    """
    kind = type(model)
    ours: dict[str, Any] = {}
    for name, value in _iterate_fields(model):
        found = list(_iterate_inside(value))
        if not any(has_word(type(part)) for part in found):
            continue
        if _is_left_to_pydantic(kind, name, found):
            _refuse_mapped(found, holder=kind)
        else:
            ours[name] = plain(value)
    if ours and getattr(kind, "__pydantic_root_model__", False):
        return ours["root"]
    dumped = _dump_rest(model, set(ours), plain)
    if not ours:
        return dumped
    return dumped | {_get_alias(kind, name): value for name, value in ours.items()}


def _dump_rest(model: Any, exclude: set[str], plain: Callable[[Any], Any]) -> Any:
    def convert_unknown(value: Any) -> Any:
        converted = plain(value)
        if converted is value:
            raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
        return converted

    kind = type(model)
    if not hasattr(kind, "model_dump"):
        return kind.__pydantic_serializer__.to_python(
            model, mode="json", exclude=exclude, fallback=convert_unknown
        )
    if _has_own_dump(kind):  # which may know no other argument
        return model.model_dump(mode="json")
    return model.model_dump(mode="json", exclude=exclude, fallback=convert_unknown)


def _iterate_fields(model: Any) -> Iterator[tuple[str, Any]]:
    """Go through the fields that a dump would show, with computed ones that may hold objects."""
    kind: Any = type(model)
    for name, field in kind.__pydantic_fields__.items():
        value = getattr(model, name, None)
        if not field.exclude and not _is_excluded(field, value):
            yield name, value
    for name, computed in kind.__pydantic_decorators__.computed_fields.items():
        if computed.info.return_type not in SCALARS:
            value = getattr(model, name)
            if not _is_excluded(computed.info, value):
                yield name, value
    yield from (getattr(model, "__pydantic_extra__", None) or {}).items()


def _is_excluded(info: Any, value: Any) -> bool:
    exclude_if = getattr(info, "exclude_if", None)
    return exclude_if is not None and exclude_if(value)


def _iterate_inside(value: Any) -> Iterator[Any]:
    """Go through a value and all that pydantic would lay open of it, mapped objects unopened."""
    kind = type(value)
    if kind in SCALARS:
        return
    yield value
    for part in _get_parts(value, kind):
        yield from _iterate_inside(part)


def _get_parts(value: Any, kind: type) -> Iterable[Any]:
    if is_mapped(kind):
        return ()
    if is_model(kind):
        return (part for _, part in _iterate_fields(value))
    shape = find_shape(kind)
    opened = value if shape is None else shape(value)
    if isinstance(opened, dict):
        return opened.values()
    if isinstance(opened, (list, tuple, AbstractSet)):
        return opened
    return () if opened is value else (opened,)


def _is_left_to_pydantic(kind: Any, name: str, found: list[Any]) -> bool:
    """Whether only pydantic can write a field as its author meant it."""
    decorators = kind.__pydantic_decorators__
    if decorators.model_serializers or _has_own_dump(kind):
        return True
    serializers = decorators.field_serializers.values()
    if any(name in each.info.fields or "*" in each.info.fields for each in serializers):
        return True
    pieces = _get_declared_pieces(kind, name)
    return any(map(_has_own_form, pieces)) or any(_is_narrowed(part, pieces) for part in found)


def _has_own_dump(kind: Any) -> bool:
    dump = getattr(kind, "model_dump", None)
    return dump is not None and dump.__module__.partition(".")[0] not in _PYDANTICS


def _has_own_form(piece: Any) -> bool:
    """Whether a piece of an annotation, such as a serializer or ``SecretStr``, has its own form."""
    if is_model(piece) or type(piece).__module__ == "pydantic.functional_validators":
        return False
    return hasattr(piece, "__get_pydantic_core_schema__")


def _is_narrowed(part: Any, pieces: list[Any]) -> bool:
    """Whether a value may be of a subclass of what is declared, whose own fields pydantic hides.

    ``user: UserOut`` that holds a ``UserIn`` does not show the ``password`` which only that has.
    """
    kind = type(part)
    if kind not in pieces and any(base in pieces for base in _get_opened_bases(kind)):
        return True
    # Pydantic knows what a dataclass declares for its own fields; here every subclass counts.
    return (dataclasses.is_dataclass(kind) and not is_mapped(kind) and not is_model(kind)) and any(
        inside is not part and _get_opened_bases(type(inside)) for inside in _iterate_inside(part)
    )


def _get_opened_bases(kind: type) -> list[type]:
    return [
        base
        for base in kind.__mro__[1:]
        if getattr(base, "__pydantic_fields__", None) or dataclasses.is_dataclass(base)
    ]


def _get_declared_pieces(kind: Any, name: str) -> list[Any]:
    """Take the annotation of a field apart: classes, generic aliases and ``Annotated`` metadata."""
    field = kind.__pydantic_fields__.get(name)
    computed = kind.__pydantic_decorators__.computed_fields.get(name)
    if field is not None:
        waiting = [field.annotation, *field.metadata]
    else:
        waiting = [] if computed is None else [computed.info.return_type]
    pieces: list[Any] = []
    while waiting:
        piece = waiting.pop()
        if piece not in pieces:  # an alias may name itself
            pieces.append(piece)
            waiting += [get_origin(piece), getattr(piece, "__value__", None), *get_args(piece)]
    return pieces


def _refuse_mapped(found: Iterable[Any], holder: type) -> None:
    for part in found:
        kind = type(part)
        if is_mapped(kind) and (dataclasses.is_dataclass(kind) or is_model(kind)):
            raise NoRepresentation(kind, holder)


def _get_alias(kind: Any, name: str) -> str:
    config = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", None) or {}
    if not config.get("serialize_by_alias"):
        return name
    if name in kind.__pydantic_fields__:
        return kind.__pydantic_fields__[name].serialization_alias or name
    computed = kind.__pydantic_decorators__.computed_fields.get(name)
    return (computed and computed.info.alias) or name
