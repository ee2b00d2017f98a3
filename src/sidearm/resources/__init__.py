"""Chapter 2: what tasks claim. Each adapter imports its library only when it is used."""

from __future__ import annotations

from .generator import GeneratorResource as GeneratorResource
