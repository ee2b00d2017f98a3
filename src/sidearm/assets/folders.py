"""Static folders, and reading a file of one so that what was read can be told from what is there.

A name is looked up as Flask's own view would, and more strictly: what lies outside of the folder
after every link was followed is not of it, so no link can publish what nobody meant to.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import IO

from werkzeug.security import safe_join

from .references import Reference, can_refer, find_references

#: Two writes to a file this close together may leave the same times (ext4 notes them in steps of a
#: few milliseconds), so what was read so soon after a write has to be read again.
_STEP = 50_000_000  # nanoseconds
_WHOLE = 1 << 20  # bytes; what is smaller is read at once, which is quicker
_ATTEMPTS = 5  # to read a file that somebody is writing


@dataclass(frozen=True, slots=True)
class Folder:
    """The static folder of an application or blueprint, under one endpoint.

    Attributes:
        endpoint: Such as ``static`` or ``admin.static``.
        root: The folder's absolute path.
        prefix: The path of its URLs below the application's, such as ``static/``.
        is_literal: Whether ``prefix`` is the same on every request and host.
    """

    endpoint: str
    root: str
    prefix: str
    is_literal: bool = True

    def locate(self, name: str) -> str | None:
        """The path of a file.

        Args:
            name: Its name below the folder, with slashes.

        Returns:
            An absolute path; ``None`` if there is no such file, or if it is not inside of the
            folder. A link stays in it: that it leads elsewhere later shows in the signature.
        """
        if "\\" in name or "\0" in name or not all(_is_plain(part) for part in name.split("/")):
            return None
        path = safe_join(self.root, name)
        if path is None:
            return None
        try:
            return path if self._has_no_link(name) or self._stays_inside(path) else None
        except (OSError, ValueError):  # none, too long, or a drive of its own
            return None

    def _has_no_link(self, name: str) -> bool:
        """Whether a file is there, and below the folder nothing on the way to it is a link.

        Most are such, and for them nothing else has to be looked at.
        """
        path, mode = self.root, 0
        for part in name.split("/"):
            path = f"{path}{os.sep}{part}"
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                return False
        if not stat.S_ISREG(mode):
            raise FileNotFoundError(path)
        return True

    def _stays_inside(self, path: str) -> bool:
        """Whether a file is inside of the folder when every link was followed."""
        root, end = os.path.realpath(self.root), os.path.realpath(path, strict=True)
        return os.path.commonpath((root, end)) == root and stat.S_ISREG(os.stat(end).st_mode)

    def store_path(self, name: str) -> str:
        """Where a build writes a file: the path of its URL, if there is only one.

        Args:
            name: Its name below the folder, with its hash.
        """
        return f"{self.prefix if self.is_literal else f'_/{self.endpoint}/'}{name}"

    def names(self) -> Iterator[str]:
        """The names of all files, in a fixed order, without those that begin with a dot."""
        for folder, folders, files in os.walk(self.root):
            folders[:] = sorted(each for each in folders if not each.startswith("."))
            for file in sorted(files):
                name = os.path.relpath(os.path.join(folder, file), self.root)
                if not file.startswith(".") and _is_text(name):
                    yield name.replace(os.sep, "/")


def _is_plain(part: str) -> bool:
    return part not in {"", ".", ".."}


def _is_text(name: str) -> bool:
    """Whether a name can be in a URL: it is valid UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Signature:
    """What the file system tells of a file's content, at one moment."""

    times: tuple[int, int]
    size: int
    inode: tuple[int, int]
    is_settled: bool = True

    @classmethod
    def of(cls, found: os.stat_result) -> Signature:
        """The signature of what ``stat`` has told just now."""
        times = (found.st_mtime_ns, found.st_ctime_ns)
        # Whoever writes changes the later one, whatever time a program has given the file. Windows
        # has the time of its creation there.
        written = found.st_mtime_ns if sys.platform == "win32" else found.st_ctime_ns
        is_settled = written + _STEP < time.time_ns()
        return cls(times, found.st_size, (found.st_dev, found.st_ino), is_settled)

    def matches(self, found: os.stat_result) -> bool:
        """Whether ``stat`` tells of the same content still, for certain."""
        return self.is_settled and self.may_match(found)

    def may_match(self, found: os.stat_result) -> bool:
        """Whether ``stat`` tells of nothing else; a write in the same moment would not show."""
        return (
            self.size == found.st_size
            and self.times == (found.st_mtime_ns, found.st_ctime_ns)
            and self.inode == (found.st_dev, found.st_ino)
        )


@dataclass(frozen=True, slots=True)
class Source:
    """A file as it was read.

    Attributes:
        path: Where it is.
        signature: What tells whether it is the same still.
        modified: When it was changed, in seconds since 1970; 0 if that is not known.
        digest: SHA-384 of the content.
        references: What it refers to.
        content: The content, if it refers to something.
    """

    path: str
    signature: Signature
    modified: float
    digest: bytes
    references: tuple[Reference, ...]
    content: bytes | None

    def open(self) -> IO[bytes] | None:
        """Open the file.

        Returns:
            ``None`` if its content is not what was read, or it may be something else soon after a
            write; reading it again will tell.
        """
        try:
            file = open(self.path, "rb")  # noqa: SIM115 (whoever asked closes it)
        except OSError:
            return None
        found = os.fstat(file.fileno())
        if self.signature.matches(found):
            return file
        with file:
            # Just written: what is sent is what was compared.
            if self.signature.may_match(found) and not Signature.of(found).is_settled:
                content = file.read()
                if hashlib.sha384(content).digest() == self.digest:
                    return BytesIO(content)
        return None

    @property
    def integrity(self) -> str:
        """What the ``integrity`` attribute of HTML wants of the file as it is."""
        return integrity_of(self.digest)

    def is_current(self) -> bool:
        """Whether the file is as it was read."""
        try:
            return self.signature.matches(os.stat(self.path))
        except OSError:
            return False


def integrity_of(digest: bytes) -> str:
    """Write a SHA-384 as the ``integrity`` attribute of HTML wants it (SRI, 3.5)."""
    return f"sha384-{base64.b64encode(digest).decode()}"


def read_source(path: str) -> Source:
    """Read a file, whole and at one moment.

    Args:
        path: An absolute path.

    Raises:
        OSError: It cannot be read.
    """
    wanted = can_refer(path)
    attempt = 0
    while True:
        attempt += 1
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            content = file.read() if wanted or before.st_size < _WHOLE else None
            if content is None:
                digest = hashlib.file_digest(file, "sha384").digest()
            else:
                digest = hashlib.sha384(content).digest()
            signature = Signature.of(before)
            # Somebody may be writing it; what is read in the end is named by its content anyway.
            if attempt == _ATTEMPTS or before == os.fstat(file.fileno()):
                break
    references = tuple(find_references(path, content)) if wanted and content else ()
    return Source(
        path, signature, before.st_mtime, digest, references, content if references else None
    )
