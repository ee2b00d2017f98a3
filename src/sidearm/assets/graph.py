"""Hashes that cover what a file refers to.

A file's name carries the hash of the bytes that leave under it, in which its references carry the
hashes of their files; so children come before parents (Tarjan's algorithm, without recursion).
Files that refer to one another in a circle cannot contain their own hashes: they share one, made of
all of them with the references among themselves as they were written.
"""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .components import Components
from .folders import Folder, Source, integrity_of, read_source
from .names import add_hash
from .references import Reference, resolve, rewrite

Key = tuple[str, str]
"""An endpoint, and a file's name below its folder."""


@dataclass(frozen=True, slots=True, eq=False)
class Missing:
    """A reference to a file that is not there.

    Attributes:
        reference: The reference.
        paths: Where the file was looked for.
    """

    reference: Reference
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Asset:
    """A file under its hashed name.

    Attributes:
        key: Its endpoint and name.
        source: The file as it was read.
        hash: What its name carries.
        hashed_name: Its name with the hash.
        digest: SHA-384 of the bytes that leave.
        content: These bytes, if they are not the file's own.
        children: What it refers to.
        missing: What it refers to and is not there.
    """

    key: Key
    source: Source
    hash: str
    hashed_name: str
    digest: bytes
    content: bytes | None
    children: tuple[Key, ...]
    missing: tuple[Missing, ...]

    @property
    def size(self) -> int:
        """The number of bytes that leave."""
        return self.source.signature.size if self.content is None else len(self.content)

    @property
    def integrity(self) -> str:
        """What the ``integrity`` attribute of HTML wants."""
        return integrity_of(self.digest)

    @property
    def plain_name(self) -> str:
        """What tells the file's own bytes apart, whatever its references are hashed to."""
        return add_hash(self.key[1], self.source.digest.hex())


class Graph:
    """The hashes of an application's static files, each computed when it is first asked for.

    Args:
        folders: Gives the application's folders, by endpoint.
        report: Called once for each reference that leads nowhere, with the file and the reference.
    """

    def __init__(
        self,
        folders: Callable[[], Sequence[Folder]],
        report: Callable[[Key, Reference], None],
    ) -> None:
        self._folders = folders
        self._report = report
        self._assets: dict[Key, Asset] = {}
        self._sources: dict[Key, Source] = {}
        self._reported: set[tuple[Key, str]] = set()
        self._lock = threading.RLock()  # what is logged inside may ask for a URL
        _graphs.add(self)

    def asset(self, key: Key) -> Asset | None:
        """A file with its hash, as it was when it was first asked for.

        Args:
            key: Its endpoint and name.

        Returns:
            ``None`` if there is no such file, or it cannot be read.
        """
        asset = self._assets.get(key)
        if asset is None:
            with self._lock:
                asset = self._assets.get(key) or self._compute(key)
        return asset

    def current(self, key: Key) -> Asset | None:
        """A file with its hash, as it is now, looking at everything that it refers to.

        Args:
            key: Its endpoint and name.
        """
        asset = self.asset(key)
        # Also if it was computed just now: what it refers to may have been known since long.
        if asset is not None and not all(map(_is_current, self.closure(asset))):
            self.forget()
            asset = self.asset(key)
        return asset

    def forget(self) -> None:
        """Have every hash computed anew; what has not changed is not read again."""
        with self._lock:
            self._assets = {}

    def closure(self, asset: Asset) -> Iterator[Asset]:
        """An asset, and all that it refers to, directly or not."""
        seen, waiting = {asset.key}, [asset]
        while waiting:
            each = waiting.pop()
            yield each
            for key in each.children:
                child = self.asset(key) if key not in seen else None
                seen.add(key)
                if child is not None:
                    waiting.append(child)

    def _source(self, key: Key) -> Source | None:
        source = self._sources.get(key)
        if source is not None and source.is_current():
            return source
        endpoint, name = key
        folder = next((each for each in self._folders() if each.endpoint == endpoint), None)
        path = folder and folder.locate(name)
        try:
            source = read_source(path) if path else None
        except OSError:  # not for us to read, or gone since
            source = None
        if source is None:
            self._sources.pop(key, None)
        else:
            self._sources[key] = source
        return source

    def _base(self, key: Key) -> str:
        endpoint, name = key
        return next(
            f"/{each.prefix}{name}" for each in self._folders() if each.endpoint == endpoint
        )

    def _targets(self, key: Key, reference: Reference) -> Iterator[tuple[Key, str]]:
        """The files that a reference may mean, with their paths; its own folder's first."""
        path = resolve(self._base(key), reference.target)
        folders = sorted(self._folders(), key=lambda each: each.endpoint != key[0])
        for folder in folders:
            if path is not None and path.startswith(f"/{folder.prefix}"):
                name = path.removeprefix(f"/{folder.prefix}")
                yield (folder.endpoint, name), os.path.join(folder.root, name)

    def _compute(self, start: Key) -> Asset | None:
        """Compute an asset, and first what it refers to."""
        nodes: dict[Key, _Node] = {}

        source = self._source(start)
        if source is None:
            return None
        nodes[start] = self._node(start, source)
        for together in Components(lambda key: self._unknown(nodes[key], nodes)).find(start):
            self._settle([nodes[key] for key in together])
        return self._assets[start]

    def _unknown(self, node: _Node, nodes: dict[Key, _Node]) -> Iterator[Key]:
        """The children whose assets are not known yet; their nodes are made."""
        for key in node.children:
            if key in self._assets:
                continue
            if key not in nodes:
                source = self._source(key)
                if source is None:  # gone since
                    continue
                nodes[key] = self._node(key, source)
            yield key

    def _node(self, key: Key, source: Source) -> _Node:
        links: list[tuple[Reference, Key]] = []
        missing: list[Missing] = []
        for reference in source.references:
            targets = list(self._targets(key, reference))
            found = next((each for each, _ in targets if self._source(each) is not None), None)
            if found is not None:
                links.append((reference, found))
            elif targets:
                missing.append(Missing(reference, tuple(path for _, path in targets)))
                self._report_once(key, reference)
        return _Node(key, source, tuple(links), tuple(missing))

    def _report_once(self, key: Key, reference: Reference) -> None:
        if (key, reference.target) not in self._reported:
            self._reported.add((key, reference.target))
            self._report(key, reference)

    def _settle(self, nodes: list[_Node]) -> None:
        """Compute the assets of files that refer to one another, or of a single file."""
        names = {node.key: node.key[1] for node in nodes}
        if len(nodes) == 1 and nodes[0].key not in nodes[0].children:
            content, digest = self._content(nodes[0], {})
            self._keep(nodes[0], digest.hex(), content, digest)
            return
        together = hashlib.sha384()
        for node in sorted(nodes, key=lambda each: each.key):
            _, digest = self._content(node, names)
            together.update(digest + hashlib.sha384(self._base(node.key).encode()).digest())
        hashes = {
            node.key: hashlib.sha384(together.digest() + self._base(node.key).encode()).hexdigest()
            for node in nodes
        }
        hashed = {key: add_hash(key[1], digest) for key, digest in hashes.items()}
        for node in nodes:
            self._keep(node, hashes[node.key], *self._content(node, hashed))

    def _content(self, node: _Node, names: dict[Key, str]) -> tuple[bytes | None, bytes]:
        """The bytes that leave, if they are not the file's own, and their SHA-384.

        Args:
            node: A file.
            names: The names of those whose assets are not known yet.
        """
        own = node.source.content
        if own is None or not node.links:
            return None, node.source.digest
        base, parts, last = self._base(node.key), list[bytes](), 0
        for reference, key in node.links:
            child = self._assets.get(key)
            name = child.hashed_name if child is not None else names.get(key)
            if name is None:  # gone since
                continue
            path = self._base(key).removesuffix(key[1]) + name
            written = own[reference.start : reference.end].decode(errors="replace")
            text = rewrite(reference, written, base, path)
            parts += own[last : reference.start], text.encode()
            last = reference.end
        content = b"".join([*parts, own[last:]])
        return content, hashlib.sha384(content).digest()

    def _keep(self, node: _Node, digits: str, content: bytes | None, digest: bytes) -> None:
        hashed_name = add_hash(node.key[1], digits)
        self._assets[node.key] = Asset(
            key=node.key,
            source=node.source,
            hash=digits[: len(hashed_name) - len(node.key[1]) - 1],
            hashed_name=hashed_name,
            digest=digest,
            content=content,
            children=node.children,
            missing=node.missing,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Node:
    """A file whose references are known, and whose hash is not."""

    key: Key
    source: Source
    links: tuple[tuple[Reference, Key], ...]
    missing: tuple[Missing, ...]

    @property
    def children(self) -> tuple[Key, ...]:
        return tuple(dict.fromkeys(key for _, key in self.links))


def _is_current(asset: Asset) -> bool:
    return asset.source.is_current() and not any(
        os.path.exists(path) for missing in asset.missing for path in missing.paths
    )


_graphs: weakref.WeakSet[Graph] = weakref.WeakSet()


def _renew_locks() -> None:
    """After a fork: another thread may have held a lock, and here nobody would ever release it."""
    for graph in list(_graphs):
        graph._lock = threading.RLock()  # noqa: SLF001 (its own)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
