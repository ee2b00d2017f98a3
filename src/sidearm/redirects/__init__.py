"""Chapter 8: redirects that stay on the application's own origin (D1, D2)."""

from __future__ import annotations

from .back import is_different_url as is_different_url
from .back import redirect_back as redirect_back
from .back import redirect_target as redirect_target
from .verdict import is_safe_url as is_safe_url
