"""References in CSS, found by the tokenizer of tinycss2 (CSS Syntax, 4).

It is given the bytes as Latin-1: each byte is a character then, so places in the text are places in
the file, and everything that CSS gives a meaning to is ASCII.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import tinycss2

from .references import SOURCE_MAP, Reference

#: Without one of these there is nothing to find; a backslash may spell any of them.
_MAY_REFER = re.compile(rb"url|src\(|@import|image-set|\\", re.IGNORECASE)
_NEWLINE = re.compile(r"\r\n|[\r\n\f]")  # CSS Syntax, 3.3
_STRINGS_REFER = frozenset({"url", "src"})  # their first argument
_STRINGS_REFER_EACH = frozenset({"image-set", "-webkit-image-set"})


def find(content: bytes) -> Iterator[Reference]:
    """Find the references of a stylesheet.

    Args:
        content: The whole file.

    Yields:
        ``url()``, ``src()``, the strings of ``@import`` and ``image-set()``, and the source map.
    """
    if not _MAY_REFER.search(content):
        return
    text = content.decode("latin-1")
    lines = [0, *(match.end() for match in _NEWLINE.finditer(text))]
    tokens: list[Any] = tinycss2.parse_component_value_list(text)
    source_map: Reference | None = None
    for token in _references(tokens):
        place = lines[token.source_line - 1] + token.source_column - 1
        if token.type == "comment":
            match = SOURCE_MAP.fullmatch(token.value)
            if match:
                start, end = (place + 2 + index for index in match.span("url"))
                source_map = Reference(start, end, match["url"], is_source_map=True)
            continue
        reference = _read(text, place, token)
        if reference is not None:
            yield reference
    if source_map is not None:  # the last one counts
        yield source_map


def _references(tokens: list[Any]) -> Iterator[Any]:
    """The URLs, strings and comments that may refer, with what stands in blocks."""
    stack: list[tuple[list[Any], str]] = [(tokens, "")]
    while stack:
        inside, function = stack.pop()
        rule = ""  # the at-rule whose prelude this is
        is_first = True
        for token in inside:
            kind = token.type
            if kind in {"comment", "whitespace"}:
                if kind == "comment":
                    yield token
                continue
            if kind == "function":
                stack.append((token.arguments, token.lower_name))
            elif kind.endswith(" block"):
                stack.append((token.content, ""))
            elif kind in {"url", "string"} and _is_url(token, function, rule, is_first):
                yield token
            rule = _rule_after(token, rule)
            is_first = False


def _rule_after(token: Any, rule: str) -> str:
    """The at-rule whose prelude goes on after a token."""
    if token.type == "at-keyword":
        return str(token.lower_value)
    if token.type == "{} block" or (token.type == "literal" and token.value == ";"):
        return ""
    return "import's conditions" if rule == "import" else rule


def _is_url(token: Any, function: str, rule: str, is_first: bool) -> bool:  # noqa: FBT001 (a fact)
    if token.type == "url":
        return rule != "namespace"  # a name that nobody fetches
    return (
        rule == "import"
        or (function in _STRINGS_REFER and is_first)
        or function in _STRINGS_REFER_EACH
    )


def _read(text: str, place: int, token: Any) -> Reference | None:
    """The reference of a token that begins at a place."""
    if token.type == "string":
        start, closing = place + 1, text[place]
    else:
        start, closing = text.index("(", place) + 1, ")"
        while text[start : start + 1] in {" ", "\t", "\n", "\r", "\f"}:
            start += 1
    end, has_escapes = start, False
    while end < len(text) and text[end] != closing:
        if text[end] == "\\":
            has_escapes, end = True, end + 1
        end += 1
    end = min(end, len(text))
    if token.type == "url":
        end = start + len(text[start:end].rstrip(" \t\r\n\f")) if not has_escapes else end
    try:
        written = text[start:end].encode("latin-1").decode()
    except UnicodeDecodeError:  # in another encoding than every browser would expect
        return None
    target = written
    if has_escapes:
        again: Any = tinycss2.parse_one_component_value(
            f'"{written}"' if closing == ")" else f"{closing}{written}{closing}"
        )
        if again.type != "string":
            return None
        target = again.value.strip(" \t\n")
    return Reference(start, end, target)
