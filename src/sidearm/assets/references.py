"""What a file refers to: ``url()`` and ``@import`` in CSS, imports in JavaScript, source maps.

Only references that a browser would fetch are found, by the tokenizers of ``css`` and
``javascript``. Where they lead is decided here, as a browser resolves them (URL, 4.4), on paths.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

CSS_ENDINGS = (".css",)
JAVASCRIPT_ENDINGS = (".js", ".mjs")

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_TAIL = re.compile(r"[?#].*", re.DOTALL)
#: What needs no quoting in a path, and means nothing in CSS and JavaScript.
_SAFE = "/!$&*+,;=:@~"
SOURCE_MAP = re.compile(r"[#@]\s*sourceMappingURL=(?P<url>[^\s'\"]+)\s*")


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference in a file.

    Attributes:
        start: The index of the first byte of its text, without quotes.
        end: The index after the last.
        target: What it says, with the language's escapes undone.
        is_source_map: Whether it leads to a source map, which only developers' tools fetch.
    """

    start: int
    end: int
    target: str
    is_source_map: bool = False


def find_references(name: str, content: bytes) -> list[Reference]:
    """Find the references of a file, in their order.

    Args:
        name: Its name; the ending tells the language.
        content: The whole file.

    Returns:
        References by path; none for other languages, and none that lead to another origin, to
        ``data:`` or inside of the file itself.
    """
    ending = posixpath.splitext(name)[1].lower()
    # The tokenizers are imported where there is something for them to read.
    if ending in CSS_ENDINGS:
        from . import css

        found = css.find(content)
    elif ending in JAVASCRIPT_ENDINGS:
        from . import javascript

        found = javascript.find(content)
    else:
        return []
    return sorted((each for each in found if _is_path(each.target)), key=lambda each: each.start)


def can_refer(name: str) -> bool:
    """Whether files of such a name are looked at for references."""
    return posixpath.splitext(name)[1].lower() in (*CSS_ENDINGS, *JAVASCRIPT_ENDINGS)


def _is_path(target: str) -> bool:
    return not (
        not target
        or target[0] in "#?"
        or target.startswith("//")
        or "\\" in target
        or _SCHEME.match(target)
    )


def resolve(base: str, target: str) -> str | None:
    """Where a reference leads.

    Args:
        base: The path of the file that refers, such as ``/static/css/shop.css``.
        target: What the reference says.

    Returns:
        A path, with percent-encoding undone; ``None`` if it leads above the root, or is no path of
        a file.
    """
    path = _TAIL.sub("", target)
    segments = [] if path.startswith("/") else base.split("/")[1:-1]
    for segment in path.removeprefix("/").split("/"):
        if segment == "..":
            if not segments:
                return None
            segments.pop()
        elif segment != ".":
            segments.append(unquote(segment, errors="replace"))
    if not segments or any(part in {"", "..", "."} or "/" in part for part in segments):
        return None
    return "/" + "/".join(segments)


def rewrite(reference: Reference, written: str, base: str, path: str) -> str:
    """What a reference says when it leads to another path.

    The author's own folders stay as they are written, so that they hold wherever they did; a path
    from the root becomes a relative one, which holds under every prefix and on every host.

    Args:
        reference: The reference.
        written: Its text in the file.
        base: The path of the file that refers.
        path: Where it has to lead, with nothing encoded.

    Returns:
        Text that needs no escapes in CSS and JavaScript.
    """
    tail = _TAIL.search(reference.target)
    plain = _TAIL.sub("", reference.target)
    # What had escapes is written anew as a whole.
    if written != reference.target or plain.startswith("/"):
        link = quote(posixpath.relpath(path, posixpath.dirname(base)), safe=_SAFE)
        link = link if link.startswith(".") else f"./{link}"
    else:
        folder, slash, _ = plain.rpartition("/")
        link = f"{folder}{slash}{quote(path.rpartition('/')[2], safe=_SAFE)}"
    if tail is None:
        return link
    return link + (tail[0] if written == reference.target else quote(tail[0], safe=f"{_SAFE}?#%"))
