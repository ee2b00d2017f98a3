"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import tempfile

_PREFIX = ".writing-"


def write_atomically(path: str, content: bytes, modified: float | None = None) -> None:
    """Write a file so that it is seen whole, or not at all, also after a loss of power.

    Args:
        path: Where to; folders are made.
        content: What to write.
        modified: The modification time that it gets, in seconds since 1970.

    Raises:
        OSError: It cannot be written. What was there before is there still, and nothing else.
    """
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=_PREFIX)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # other servers read it, under other users
        if modified is not None:
            os.utime(temporary, (modified, modified))
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError):
            error.filename, error.filename2 = path, None  # the name that means something
        raise


def delete_leftovers(folder: str) -> None:
    """Delete what writers have left that were killed; nobody may be writing there now.

    Args:
        folder: The folder, with all that are in it.
    """
    for inside, _, files in os.walk(folder):
        for file in files:
            if file.startswith(_PREFIX):
                os.unlink(os.path.join(inside, file))
