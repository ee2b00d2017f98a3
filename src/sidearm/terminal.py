"""Text from elsewhere, shown to a person."""

from __future__ import annotations


def make_harmless(text: str) -> str:
    """The text with what a terminal would obey, or XML cannot hold, made visible."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
