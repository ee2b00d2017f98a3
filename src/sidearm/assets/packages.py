"""The packages of ``sidearm[assets]``: that one is missing is told at the start."""

from __future__ import annotations

from importlib.util import find_spec

from ..exceptions import SettingError

#: The modules that hash and serve, and those that only a build needs.
SERVING = ("whitenoise", "tinycss2", "tree_sitter", "tree_sitter_javascript")
BUILDING = ("brotli", "zstandard")


def require(value: object, modules: tuple[str, ...] = SERVING) -> None:
    """Make sure that packages are installed.

    Args:
        value: What ``SIDEARM_ASSETS`` is set to.
        modules: Their modules.

    Raises:
        SettingError: Some are not.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise SettingError(
            "SIDEARM_ASSETS",
            value,
            f"It needs packages that are not installed ({', '.join(missing)}). Install them:"
            " pip install 'sidearm[assets]'.",
        )
