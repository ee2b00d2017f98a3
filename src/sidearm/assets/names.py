"""Names that carry a hash: ``css/shop.css`` and ``css/shop.3f2a9c0d1e5b7a84.css``."""

from __future__ import annotations

import re

HASH_LENGTH = 16  # hexadecimal digits: 64 bits, of one name's contents

_HASHED = re.compile(
    rf"(?P<stem>.+)\.(?P<hash>[0-9a-f]{{{HASH_LENGTH}}})(?P<ending>\.[^./]*)?", re.DOTALL
)


def add_hash(name: str, digest: str) -> str:
    """Put a hash into a name, before its ending.

    Args:
        name: A file's name, with folders or without.
        digest: Hexadecimal digits; as many as are wanted are taken.

    Returns:
        The name with the hash; at its end, if the name has no ending.
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, ending = base.rpartition(".")
    if not stem:  # no ending, or a dot file
        stem, dot, ending = base, "", ""
    return f"{folder}{slash}{stem}.{digest[:HASH_LENGTH]}{dot}{ending}"


def split_hash(name: str) -> tuple[str, str] | None:
    """Take a hash out of a name.

    Args:
        name: A file's name, with folders or without.

    Returns:
        The name without the hash, and the hash; ``None`` if the name carries none.
    """
    match = _HASHED.fullmatch(name)
    if match is None or match["stem"].endswith("/"):
        return None
    return match["stem"] + (match["ending"] or ""), match["hash"]
