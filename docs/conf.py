"""The documentation's configuration; ``make docs`` builds it without a network."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "Sidearm"
author = "The Sidearm authors"
copyright = f"2026, {author}"  # noqa: A001 (Sphinx's own word)
release = version = version_of("sidearm")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sidearm_docs"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
#: Other pages include them.
TABLES = ["explanation/performance-table.md", "explanation/fleet-table.md"]
exclude_patterns = ["_build", "_extensions", *TABLES]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

# Other projects' names are shown, but their documentation is not asked for over the network.
# Type variables, and classes that only appear in signatures, have no page.
nitpick_ignore_regex = [
    ("py:.*", r"(?!sidearm).*"),
    ("py:class", r"sidearm\..*\.[A-Z]"),
    (
        "py:class",
        r"sidearm\.(tasks\.context\.TaskBlock|tasks\.outcome\.Decision|tasks\.claims\..*|hub\..*|testing\.\w+\..*)",
    ),
]

html_theme = "furo"
html_title = f"Sidearm {release}"
html_static_path = ["_static"]
html_css_files = ["sidearm.css"]
