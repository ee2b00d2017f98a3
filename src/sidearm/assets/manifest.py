"""What ``flask sidearm assets build`` has written: the files of each build, and where they are.

The folder holds every file under the path of its URL, so that another server can serve them, and
``manifest.json``. A build adds a generation and drops the oldest ones; what a kept generation names
is there, byte for byte, also when the application's own file has changed since. The manifest tells
no times and no machine: the same files give the same manifest.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from .exceptions import ManifestError
from .writing import write_atomically

MANIFEST = "manifest.json"
VERSION = 1
#: What compressed copies end with, by their coding (as nginx and others expect).
ENDINGS: dict[str | None, str] = {None: "", "br": ".br", "zstd": ".zst", "gzip": ".gz"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a build.

    Attributes:
        endpoint: Its endpoint.
        filename: Its name without the hash.
        integrity: As in HTML.
        size: In bytes.
        encodings: The size of each compressed copy, by its coding.
    """

    endpoint: str
    filename: str
    integrity: str
    size: int
    encodings: dict[str, int]

    @property
    def sizes(self) -> dict[str | None, int]:
        """The size of each file that was written: as it is, and by each coding."""
        sizes: dict[str | None, int] = {None: self.size}
        sizes.update(self.encodings.items())
        return sizes


Generation = dict[str, Entry]
"""The files of one build, by the path of their URL below the application's."""


@dataclass(slots=True)
class Manifest:
    """The builds that are kept, the newest first."""

    generations: list[Generation] = field(default_factory=list[Generation])

    def find(self, path: str) -> Entry | None:
        """The file of a path, of whichever build."""
        for generation in self.generations:
            entry = generation.get(path)
            if entry is not None:
                return entry
        return None

    def add(self, generation: Generation, keep: int) -> None:
        """Add a build; one that was built before becomes the newest again.

        Args:
            generation: Its files.
            keep: How many earlier ones stay.
        """
        earlier = [each for each in self.generations if each != generation]
        self.generations = [generation, *earlier[:keep]]

    def paths(self) -> set[str]:
        """The paths of all files."""
        return {path for generation in self.generations for path in generation}

    def dumps(self) -> str:
        """The manifest as it is written: the same text for the same builds."""
        generations = [
            {
                path: {
                    "endpoint": entry.endpoint,
                    "filename": entry.filename,
                    "integrity": entry.integrity,
                    "size": entry.size,
                    "encodings": dict(sorted(entry.encodings.items())),
                }
                for path, entry in sorted(generation.items())
            }
            for generation in self.generations
        ]
        written = {"version": VERSION, "generations": generations}
        return json.dumps(written, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def loads(cls, text: str | bytes, where: object = MANIFEST) -> Manifest:
        """Read a manifest.

        Args:
            text: As it was written.
            where: Its path, for the error.

        Raises:
            ManifestError: It is no manifest, or one of another version.
        """
        try:
            written = msgspec.json.decode(text, type=_Written)
            if written.version != VERSION:
                reason = f"it has version {written.version}, and this Sidearm reads {VERSION}"
                raise ManifestError(where, reason)
            generations = msgspec.json.decode(written.generations, type=list[Generation])
            codings = {
                coding
                for generation in generations
                for entry in generation.values()
                for coding in entry.encodings
            }
            if not codings <= ENDINGS.keys():
                raise ManifestError(where, f"it has the codings {', '.join(sorted(codings))}")
            return cls(generations)
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            if isinstance(error, ManifestError):
                raise
            raise ManifestError(where, f"it cannot be read ({error})") from error


class _Written(msgspec.Struct):
    """A manifest of any version."""

    version: int
    generations: msgspec.Raw = msgspec.Raw(b"[]")


class Store:
    """The folder of the builds, as a process that serves sees it.

    Args:
        folder: Its path; it need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: Manifest | None = None
        self._seen: tuple[int, int, int] | None = None

    def manifest(self) -> Manifest:
        """The manifest; an empty one where there is none.

        Raises:
            ManifestError: It cannot be read.
        """
        try:
            found = os.stat(self.folder / MANIFEST)
        except (FileNotFoundError, NotADirectoryError):
            self._read, self._seen = Manifest(), None
            return self._read
        except OSError as error:
            raise ManifestError(self.folder / MANIFEST, f"it cannot be read: {error}") from error
        # A build puts another file in its place, so the inode changes with it.
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._read is None or seen != self._seen:
            try:
                text = (self.folder / MANIFEST).read_bytes()
            except OSError as error:
                raise ManifestError(
                    self.folder / MANIFEST, f"it cannot be read: {error}"
                ) from error
            self._read = Manifest.loads(text, self.folder / MANIFEST)
            self._seen = seen
        return self._read

    def path(self, path: str, encoding: str | None = None) -> str:
        """Where a file is, or its compressed copy.

        Args:
            path: The path of its URL below the application's.
            encoding: The copy's coding.
        """
        return os.path.join(self.folder, *path.split("/")) + ENDINGS[encoding]

    def save(self, manifest: Manifest) -> None:
        """Write the manifest; whoever reads it meanwhile reads the old one, or the new one.

        Raises:
            OSError: It cannot be written; the old one is there still.
        """
        write_atomically(str(self.folder / MANIFEST), manifest.dumps().encode())
