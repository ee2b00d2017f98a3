"""Files that are written whole or not at all, and never over others unasked."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ...exceptions import ExportError


def write_files(files: Mapping[str, str], target: str, *, force: bool) -> tuple[Path, ...]:
    """Write exported files.

    Args:
        files: Their names and texts.
        target: A folder that exists, for any number of them; or the path of a single one.
        force: Whether files that exist are replaced.

    Returns:
        The files that were written; one that has the text already is left alone.

    Raises:
        ExportError: A file exists, or cannot be written. Then none was touched, unless the disk
            failed in between.
    """
    folder = Path(target)
    if folder.is_dir():
        paths = {folder / name: text for name, text in files.items()}
    elif len(files) == 1:
        paths = {folder: next(iter(files.values()))}
    else:
        raise ExportError(f"{', '.join(files)} need a folder, and {target} is none. Make it first.")
    changed = {path: text for path, text in paths.items() if not _has(path, text)}
    if not force:
        for path in changed:
            if os.path.lexists(path):
                raise ExportError(
                    f"{path} exists, and has another content. Nothing was written; --force"
                    " replaces it."
                )
    for path, text in changed.items():
        _write(path, text, force=force)
    return tuple(changed)


def _has(path: Path, text: str) -> bool:
    try:
        return path.read_text("utf-8") == text
    except (OSError, ValueError):
        return False


def _write(path: Path, text: str, *, force: bool) -> None:
    """Beside the file, then into its place in one step."""
    if path.is_symlink() and force:
        path = path.resolve()  # the link stays, as in a folder of enabled sites
    written = ""
    try:
        handle, written = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(written).chmod(_mode_of(path))
        if force:
            Path(written).replace(path)
        else:
            os.link(written, path)  # fails if somebody was faster
    except FileExistsError:
        raise ExportError(f"{path} exists. --force replaces it.") from None
    except OSError as error:
        raise ExportError(
            f"{path} cannot be written: {error.strerror}. Choose another place with --output."
        ) from error
    finally:
        if written:
            with contextlib.suppress(FileNotFoundError):  # it is in its place
                Path(written).unlink()


def _mode_of(path: Path) -> int:
    """As the file had it, or readable by all: there are no secrets in it."""
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        return 0o644
