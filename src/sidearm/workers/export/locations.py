"""URL rules as fronts match them: an exact path, or a regular expression for it.

nginx reads Perl's regular expressions and Caddy Go's, so only what means the same in Python and
both is kept; for the rest a converter is taken for "anything but a slash", or "anything". So a
front may match more paths than the rule, never fewer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from werkzeug.routing import Rule

#: What Python, PCRE and RE2 read alike: no look-around, no back reference, no \Z, no inline flag.
_ALIKE = re.compile(r"(?:[^()\\?]|\(\?:|\((?!\?)|\)|\\[dDwWsS.\-/+*?()\[\]{}|^$\\]|\?)*")
_SPECIAL = re.compile(r"([.\\+*?()\[\]{}|^$])")
_ONE_PART, _ANY_PARTS = "[^/]+", ".+"

#: Values that converters take, tried one after another, to make a path that a rule matches.
_VALUES = (
    "x",
    "7",
    "1.5",
    "xyzxyz",
    "00000000-0000-4000-8000-000000000000",
    "2026-01-31",
    "true",
    "a/b",
    "xx",
    "xyzxyzxyzxyzxyzx",
)


@dataclass(frozen=True, slots=True)
class Location:
    """What a front matches for one rule.

    Attributes:
        path: The exact path, or ``None``.
        pattern: A regular expression for the whole path, which also matches an exact one.
        example: A path that the rule matches, or ``None`` where no value for a converter is known.
    """

    path: str | None
    pattern: str
    example: str | None


def location_of(rule: Rule, prefix: str = "") -> Location:
    """What a front has to match for a rule.

    Args:
        rule: Werkzeug's, bound to a map.
        prefix: The path under which the application is, without a slash at the end.
    """
    pieces = list(_pieces(rule))
    static = all(converter is None for _, converter in pieces)
    path = prefix + "".join(text for text, _ in pieces) if static else None
    if path is not None and "$" in path:
        path = None  # nginx would take it for a variable
    pattern = _escape(prefix) + "".join(
        _escape(text) if converter is None else _expression(converter) for text, converter in pieces
    )
    values = [text if converter is None else _value(converter) for text, converter in pieces]
    example = None if None in values else prefix + "".join(filter(None, values))
    return Location(path=path, pattern=f"^{pattern}$", example=example)


def precedence_of(rule: Rule) -> tuple[Any, ...]:
    """What sorts rules as Werkzeug tries them: part by part, text before converters.

    Args:
        rule: Werkzeug's, bound to a map.
    """
    return tuple(
        (0, ()) if part.static else (1, tuple(part.weight))
        for part in rule._parts  # noqa: SLF001 (Werkzeug has no public parts of a rule)
    )


def alternatives(locations: Iterable[Location]) -> str:
    """One regular expression for all of some locations."""
    return f"^(?:{'|'.join(location.pattern[1:-1] for location in locations)})$"


def _pieces(rule: Rule) -> Iterator[tuple[str, Any]]:
    """Text, and the converters between it; without the host, which stands before the bar."""
    in_path = False
    for dynamic, text in rule._trace:  # noqa: SLF001 (Werkzeug has no public parts of a rule)
        if not in_path:
            in_path = not dynamic and text == "|"
        elif dynamic:
            yield text, rule._converters[text]  # noqa: SLF001
        else:
            yield text, None


def _expression(converter: Any) -> str:
    expression = getattr(converter, "regex", "")
    if isinstance(expression, str) and expression and _ALIKE.fullmatch(expression):
        try:
            re.compile(expression)
        except re.error:
            pass
        else:
            return f"(?:{expression})"
    return _ONE_PART if getattr(converter, "part_isolating", True) else _ANY_PARTS


def _value(converter: Any) -> str | None:
    expression = getattr(converter, "regex", None) or _ONE_PART
    choices = getattr(converter, "items", ())  # of AnyConverter
    for value in (*(choices if isinstance(choices, (list, tuple, set)) else ()), *_VALUES):
        try:
            if re.fullmatch(expression, str(value)):
                return str(value)
        except re.error:
            return None
    return None


def _escape(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
