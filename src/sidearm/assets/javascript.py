"""References in JavaScript, found by the parser of tree-sitter (ECMA-262, 16.2 and 13.3.10).

What it cannot parse it skips, as little of it as it can, so one piece of a newer syntax does not
hide the imports around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import tree_sitter_javascript
from tree_sitter import Language, Parser, Query, QueryCursor

from .references import SOURCE_MAP, Reference

if TYPE_CHECKING:
    from tree_sitter import Node

_MAY_REFER = re.compile(rb"import|export|sourceMappingURL")
_LANGUAGE = Language(tree_sitter_javascript.language())
_QUERY = Query(
    _LANGUAGE,
    """
    (import_statement source: (string) @string)
    (export_statement source: (string) @string)
    (call_expression function: (import) arguments: (arguments) @arguments)
    (comment) @comment
    """,
)


def find(content: bytes) -> Iterator[Reference]:
    """Find the references of a script or module.

    Args:
        content: The whole file.

    Yields:
        What ``import`` and ``export ... from`` name, also in ``import()`` if that is a plain
        string, and the source map. Bare names (``"vue"``) are no references: an import map says
        what they mean.
    """
    if not _MAY_REFER.search(content):
        return
    captures = QueryCursor(_QUERY).captures(Parser(_LANGUAGE).parse(content).root_node)
    strings = list(captures.get("string", ()))
    for arguments in captures.get("arguments", ()):
        given = [node for node in arguments.named_children if node.type != "comment"]
        strings += [node for node in given[:1] if node.type == "string"]
    for node in strings:
        reference = _read(node)
        if reference is not None and reference.target.startswith(("/", "./", "../")):
            yield reference
    comments = sorted(captures.get("comment", ()), key=lambda node: -node.start_byte)
    yield from _source_map(comments)


def _read(string: Node) -> Reference | None:
    """The reference of a string; ``None`` if it has escapes, and is left as it is."""
    parts = string.named_children
    if len(parts) != 1 or parts[0].type != "string_fragment" or parts[0].text is None:
        return None
    try:
        target = parts[0].text.decode()
    except UnicodeDecodeError:
        return None
    return Reference(parts[0].start_byte, parts[0].end_byte, target)


def _source_map(comments: list[Node]) -> Iterator[Reference]:
    """The source map of the last comment that names one (ECMA-426, 11.1)."""
    for comment in comments:
        text = (comment.text or b"").decode("latin-1")
        inner = text[2:].removesuffix("*/") if text.startswith("/*") else text[2:]
        match = SOURCE_MAP.fullmatch(inner)
        if match:
            start, end = (comment.start_byte + 2 + index for index in match.span("url"))
            target = match["url"].encode("latin-1").decode(errors="replace")
            yield Reference(start, end, target, is_source_map=True)
            return
