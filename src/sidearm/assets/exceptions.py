"""What goes wrong with static files."""

from __future__ import annotations

from collections.abc import Sequence

from ..exceptions import SidearmError


class ManifestError(SidearmError, ValueError):
    """The manifest of the builds is no manifest of this version.

    Attributes:
        path: Its path.
    """

    def __init__(self, path: object, reason: str) -> None:
        self.path = path
        super().__init__(
            f"The manifest {path} is of no use: {reason}. Delete it and run 'flask sidearm assets"
            " build'; pages that were made before then find no older files."
        )


class AssetBuildError(SidearmError, RuntimeError):
    """``flask sidearm assets build`` has not built; the former manifest stays as it was.

    Attributes:
        problems: What is wrong, a line for each.
    """

    def __init__(self, problems: Sequence[str], advice: str) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join([*problems, f"Nothing was published. {advice}"]))
