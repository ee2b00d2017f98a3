"""The documentation's configuration; ``make docs`` builds it without a network."""

from __future__ import annotations

from importlib.metadata import version as version_of

project = "Sidearm"
author = "The Sidearm authors"
copyright = f"2026, {author}"  # noqa: A001 (Sphinx's own word)
release = version = version_of("sidearm")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"

html_theme = "furo"
html_title = f"Sidearm {release}"
