"""``flask sidearm assets build``: every file under its hashed name, with compressed copies.

Files come first, the manifest last, and what no build that is kept names any more is deleted after
that: who stops the build at any point, or fills the disk, leaves the former builds as they were.
What an earlier build has written is not compressed again. Files that a stopped build had put in
place stay until a build names them, and are deleted with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .compression import compress
from .exceptions import AssetBuildError
from .folders import Folder
from .graph import Asset, Graph
from .manifest import ENDINGS, Entry, Generation, Manifest, Store
from .writing import delete_leftovers, write_atomically

if TYPE_CHECKING:
    from .installation import Assets

try:
    import fcntl
except ImportError:  # Windows, where two builds at once are the user's own business
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Report:
    """What a build did.

    Attributes:
        files: How many files there are.
        written: How many of them no earlier build had.
        copies: How many compressed copies were written.
        deleted: How many files of earlier builds were deleted.
        warnings: What is worth a look, a line for each.
        folder: Where they are.
    """

    files: int
    written: int
    copies: int
    deleted: int
    warnings: tuple[str, ...]
    folder: Path

    def sentence(self, *, dry_run: bool = False) -> str:
        """What was done, or would be, in one line."""
        verbs = ("would be written", "would be deleted") if dry_run else ("written", "deleted")
        return (
            f"{self.files:,} files in {self.folder}: {self.written:,} {verbs[0]} with"
            f" {self.copies:,} compressed copies, {self.deleted:,} of earlier builds {verbs[1]}."
        )


@dataclass(frozen=True, slots=True)
class _Job:
    """One file to be written: under its hashed name, or as it is without hashed references."""

    path: str
    asset: Asset
    content: bytes | None  # if not the file's own
    integrity: str
    size: int


class Builder:
    """Builds the static files of one application.

    Args:
        graph: The hashes.
        folders: The folders.
        store: Where to.
        keep: How many earlier builds stay.
    """

    def __init__(self, graph: Graph, folders: Iterable[Folder], store: Store, keep: int) -> None:
        self._graph = graph
        self._folders = list(folders)
        self._store = store
        self._keep = keep
        self._warnings: list[str] = []

    @classmethod
    def of(cls, assets: Assets) -> Builder:
        """The builder of an application's static files."""
        graph = Graph(assets.folders, lambda *_: None)  # the build itself tells
        return cls(graph, assets.folders(), assets.store, assets.keep)

    def build(
        self,
        *,
        dry_run: bool = False,
        keep_going: bool = False,
        progress: Callable[[int, int], None] = lambda *_: None,
    ) -> Report:
        """Build.

        Args:
            dry_run: Look at everything, and write nothing.
            keep_going: Build also if a file refers to one that is not there.
            progress: Told how many files are done, and of how many.

        Returns:
            What was done, or would be.

        Raises:
            AssetBuildError: A file cannot be read or written, or refers to one that is not there.
            ManifestError: The former manifest cannot be read.
        """
        jobs = self._jobs(keep_going=keep_going)
        if dry_run:
            return self._write(jobs, self._store.manifest(), None, progress)
        try:
            self._store.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self._store.folder / LOCK) as lock:
                delete_leftovers(str(self._store.folder))
                return self._write(jobs, self._store.manifest(), lock, progress)
        except OSError as error:
            raise AssetBuildError(
                [f"{error.filename or self._store.folder}: {error.strerror or error}"],
                f"The former build in {self._store.folder} is as it was. Make room there, or let"
                " this user write there, and build again.",
            ) from error

    def _jobs(self, *, keep_going: bool) -> list[_Job]:
        """Every file that is to be there, each once."""
        jobs: dict[str, _Job] = {}
        problems: list[str] = []
        for folder in self._folders:
            for name in folder.names():
                asset = self._graph.asset((folder.endpoint, name))
                if asset is None:
                    if folder.locate(name) is not None:
                        problems.append(f"{os.path.join(folder.root, name)}: cannot be read.")
                    else:
                        self._warnings.append(
                            f"{os.path.join(folder.root, name)}: left out, because it is no file"
                            " inside of its folder."
                        )
                    continue
                for missing in asset.missing:
                    text = (
                        f"{asset.source.path}: refers to {missing.reference.target!r}, and there is"
                        f" no {missing.paths[0]}."
                    )
                    # Packages are often published without them, and only developers ask for them.
                    may_lack = missing.reference.is_source_map or keep_going
                    (self._warnings if may_lack else problems).append(text)
                for job in _jobs_of(folder, asset):
                    jobs.setdefault(job.path, job)
        if problems:
            raise AssetBuildError(
                problems, "Mend it, or build with --keep-going if no page needs these files."
            )
        return [jobs[path] for path in sorted(jobs)]

    def _write(
        self,
        jobs: list[_Job],
        former: Manifest,
        lock: IO[bytes] | None,
        progress: Callable[[int, int], None],
    ) -> Report:
        generation: Generation = {}
        written = copies = done = 0
        is_dry = lock is None
        waiting: dict[Future[Entry], _Job] = {}
        # The compressors work without the interpreter's lock.
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            try:
                for job in jobs:
                    entry = former.find(job.path)
                    if entry is not None and self._is_there(job, entry):
                        generation[job.path] = entry
                        done += 1
                        progress(done, len(jobs))
                    else:
                        waiting[pool.submit(self._make, job, is_dry)] = job
                for future in as_completed(waiting):
                    entry = future.result()
                    generation[waiting[future].path] = entry
                    written, copies, done = written + 1, copies + len(entry.encodings), done + 1
                    progress(done, len(jobs))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        before = former.paths()
        manifest = Manifest(list(former.generations))
        manifest.add(generation, self._keep)
        expired = before - manifest.paths()
        if not is_dry:
            if manifest.generations != former.generations or not former.generations:
                self._store.save(manifest)
            for path in expired:
                self._delete(path)
        return Report(
            files=len(jobs),
            written=written,
            copies=copies,
            deleted=len(expired),
            warnings=tuple(self._warnings),
            folder=self._store.folder,
        )

    def _is_there(self, job: _Job, entry: Entry) -> bool:
        """Whether an earlier build wrote this very file, and nobody has touched it since."""
        if entry.integrity != job.integrity:
            return False
        sizes = entry.sizes
        try:
            return all(
                os.stat(self._store.path(job.path, encoding)).st_size == size
                for encoding, size in sizes.items()
            )
        except OSError:
            return False

    def _make(self, job: _Job, is_dry: bool) -> Entry:  # noqa: FBT001 (private)
        content = job.content
        if content is None:
            content = Path(job.asset.source.path).read_bytes()
            if hashlib.sha384(content).digest() != job.asset.digest:
                raise AssetBuildError(
                    [f"{job.asset.source.path}: has changed while it was read."], "Build again."
                )
        made = compress(job.asset.key[1], content)
        sizes = {encoding: len(copy) for encoding, copy in made.items()}
        if not is_dry:
            files: dict[str | None, bytes] = {None: content}
            files.update(made)
            for encoding in ENDINGS:
                path = self._store.path(job.path, encoding)
                if encoding in files:
                    write_atomically(path, files[encoding], job.asset.source.modified)
                else:  # what another version of a compressor has left
                    Path(path).unlink(missing_ok=True)
        return Entry(*job.asset.key, job.integrity, len(content), sizes)

    def _delete(self, path: str) -> None:
        """Delete a file with its copies, and folders that it leaves empty."""
        for encoding in ENDINGS:
            with contextlib.suppress(OSError):  # who deleted it already, or keeps it open, may
                os.unlink(self._store.path(path, encoding))
        folder = Path(self._store.path(path)).parent
        while folder != self._store.folder:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent


def _jobs_of(folder: Folder, asset: Asset) -> Generator[_Job]:
    yield _Job(
        folder.store_path(asset.hashed_name),
        asset,
        asset.content,
        asset.integrity,
        asset.size,
    )
    if asset.content is not None and asset.source.content is not None:
        # Without the hash the file leaves as it is, and compressed too.
        yield _Job(
            folder.store_path(asset.plain_name),
            asset,
            asset.source.content,
            asset.source.integrity,
            len(asset.source.content),
        )


@contextlib.contextmanager
def _locked(path: Path) -> Generator[IO[bytes]]:
    """Let one build at a time write; the kernel gives the lock back, whatever happens."""
    with open(path, "ab") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file
