"""Chapter 3: what a view returns becomes a response (R1)."""

from __future__ import annotations

from .representations import Representations as Representations
