"""Static files under names that carry a hash of their content, without a build step.

A browser keeps for ever what never changes, so a name that tells the content needs no question
back. A file's hash covers what it refers to (``references``, found by tokenizers), so ``graph``
hashes children first; files that import one another share a hash. ``installation`` puts the hashed
names into ``url_for``, and ``serving`` answers for them, with WhiteNoise's parts, before the
application is asked. ``build`` writes compressed copies and the ``manifest``, by which the names of
earlier builds keep their bytes.
"""

from __future__ import annotations

from .templates import import_map as import_map
from .templates import integrity_for as integrity_for
