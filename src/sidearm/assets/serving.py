"""Answers for static files, before the application is asked.

WhiteNoise is the frame: its middleware, its table of types, its slices of files. What it does not
do is done here, with Werkzeug's parsers: ``Accept-Encoding`` with its weights, a tag of the content
for each coding, ranges of one byte, ``If-Range``, and names that carry a hash. A hash is a promise
of certain bytes, so whoever sends them makes sure first that they are what the file has now.

Everything else is the application's: a wrong hash and a missing file get its own page for 404.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any
from wsgiref.headers import Headers

from werkzeug.datastructures import Accept
from werkzeug.exceptions import HTTPException
from werkzeug.http import http_date, parse_accept_header, parse_range_header
from werkzeug.sansio.http import is_resource_modified
from whitenoise.base import WhiteNoise
from whitenoise.responders import Response, SlicedFile, StaticFile
from whitenoise.string_utils import decode_path_info

from .folders import Folder, Source
from .graph import Asset
from .manifest import Entry
from .names import split_hash

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from .installation import Assets

YEAR = 31_536_000  # seconds; as long as for ever, to every cache
_AT_ONCE = 1 << 18  # bytes; what is smaller is read at once, and no descriptor waits for a client
_NOT_MODIFIED = frozenset(
    {"cache-control", "etag", "last-modified", "vary", "access-control-allow-origin"}
)


class Changed(Exception):
    """A file is no longer what it was when its answer was prepared."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One representation of a file: as it is, or by one coding.

    Attributes:
        coding: ``br``, ``zstd``, ``gzip`` or nothing.
        size: In bytes.
        body: The bytes, or the path where they are.
        source: If the path is the application's own file, what it was when it was hashed.
    """

    coding: str | None
    size: int
    body: bytes | str
    source: Source | None = None

    def open(self) -> IO[bytes]:
        """Open it.

        Raises:
            Changed: It is gone, or has other content.
        """
        if isinstance(self.body, bytes):
            return BytesIO(self.body)
        if self.source is not None:
            file = self.source.open()
        else:  # put in place whole, and never written again
            try:
                file = open(self.body, "rb")  # noqa: SIM115 (the server closes it)
            except OSError:
                file = None
        if file is None:
            raise Changed
        if self.size > _AT_ONCE:
            return file
        with file:
            content = file.read()
        if len(content) != self.size:
            raise Changed
        return BytesIO(content)


class AssetFile(StaticFile):
    """A file with its headers, made once.

    Args:
        headers: Those of every answer.
        tag: What tells the content.
        modified: When it was changed, in seconds since 1970; 0 if that is not known.
        variants: Its representations; one is without a coding.
        guard: The application's own file, if it has to be looked at before each answer.
    """

    def __init__(
        self,
        headers: Headers,
        *,
        tag: str,
        modified: float,
        variants: Iterable[Variant],
        guard: Source | None = None,
    ) -> None:
        self._guard = guard
        if modified > 0:
            headers["Last-Modified"] = http_date(modified)
        self._modified: str | None = headers["Last-Modified"]
        self._variants: dict[str | None, tuple[Variant, list[tuple[str, str]], Response]] = {}
        # The smallest is first, for those who accept several alike.
        for variant in sorted(variants, key=lambda each: each.size):
            own = Headers(headers.items())
            own["ETag"] = f'"{tag}-{variant.coding}"' if variant.coding else f'"{tag}"'
            if variant.coding:
                own["Content-Encoding"] = variant.coding
            own["Content-Length"] = str(variant.size)
            kept = [item for item in own.items() if item[0].lower() in _NOT_MODIFIED]
            response = Response(HTTPStatus.NOT_MODIFIED, kept, None)
            self._variants[variant.coding] = variant, own.items(), response
        self._codings = tuple(coding for coding in self._variants if coding)

    def get_response(self, method: str, request_headers: WSGIEnvironment) -> Response:
        """Answer one request.

        Args:
            method: ``GET`` or ``HEAD``.
            request_headers: The environment.

        Raises:
            Changed: The file is not what it was.
        """
        if self._guard is not None and not self._guard.is_current():
            file = self._guard.open()
            if file is None:
                raise Changed
            file.close()
        coding = choose_coding(request_headers.get("HTTP_ACCEPT_ENCODING", ""), self._codings)
        variant, headers, not_modified = self._variants[coding]
        etag = dict(headers)["ETag"]
        if self._is_unmodified(request_headers, etag):
            return not_modified
        if method == "HEAD":
            return Response(HTTPStatus.OK, headers, None)
        file = variant.open()
        wanted = request_headers.get("HTTP_RANGE")
        if wanted and request_headers.get("HTTP_IF_RANGE", etag).strip() in {etag, self._modified}:
            return _slice(wanted, headers, variant.size, file)
        return Response(HTTPStatus.OK, headers, file)

    def _is_unmodified(self, environ: WSGIEnvironment, etag: str) -> bool:
        tags, since = environ.get("HTTP_IF_NONE_MATCH"), environ.get("HTTP_IF_MODIFIED_SINCE")
        if tags is None and since is None:
            return False
        return not is_resource_modified(
            # A tag that is given decides, also if it is none (RFC 9110, 13.1.3).
            http_if_modified_since=since if tags is None else None,
            http_if_none_match=tags,
            etag=etag,
            last_modified=self._modified,
        )


def _slice(wanted: str, headers: Sequence[tuple[str, str]], size: int, file: IO[bytes]) -> Response:
    """Answer a request for a range; one of several, or what is none, gets the whole."""
    ranges = parse_range_header(wanted)
    if ranges is None or ranges.units != "bytes" or len(ranges.ranges) != 1:
        return Response(HTTPStatus.OK, headers, file)
    start, stop = ranges.ranges[0]
    start = max(start + size, 0) if start < 0 else start
    stop = size if stop is None else min(stop, size)
    if start >= stop:
        file.close()
        kept = [item for item in headers if item[0].lower() in _NOT_MODIFIED - {"cache-control"}]
        kept += [("Content-Range", f"bytes */{size}"), ("Content-Length", "0")]
        return Response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, kept, None)
    kept = [item for item in headers if item[0] != "Content-Length"]
    kept += [
        ("Content-Range", f"bytes {start}-{stop - 1}/{size}"),
        ("Content-Length", str(stop - start)),
    ]
    return Response(HTTPStatus.PARTIAL_CONTENT, kept, SlicedFile(file, start, stop - 1))


@lru_cache(maxsize=256)
def choose_coding(accepted: str, codings: tuple[str, ...]) -> str | None:
    """The coding to send (RFC 9110, 12.5.3).

    Args:
        accepted: ``Accept-Encoding``.
        codings: Those that there are, the best first.

    Returns:
        The one that the client likes best; ``None`` to send the file as it is, also if the client
        says no more than ``*``.
    """
    if not codings or not accepted:
        return None
    weights = {
        name.lower().removeprefix("x-"): weight
        for name, weight in parse_accept_header(accepted, Accept)
    }
    best = max(codings, key=lambda coding: weights.get(coding, 0))
    weight = weights.get(best, 0)
    # As it is: for who says so. Without a word it is acceptable, and larger.
    return best if weight > 0 and weight >= weights.get("identity", 0) else None


class AssetServer(WhiteNoise):
    """The middleware: static files are answered here, everything else by the application.

    Args:
        application: The application.
        assets: Its static files.
    """

    def __init__(self, application: WSGIApplication, assets: Assets) -> None:
        super().__init__(application, mimetypes=assets.types)
        self.application: WSGIApplication = application
        self._assets = assets
        #: Answers by path alone, for files that do not change while the process runs.
        self._ready: dict[str, AssetFile] = {}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        self._assets.begin_request()
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return self.application(environ, start_response)
        path = decode_path_info(environ.get("PATH_INFO", "")).removeprefix("/")
        for _ in range(3):
            file = None if self._assets.is_debug else self._ready.get(path)
            file = file or self._find(path, environ)
            if file is None:
                break
            try:
                answer: Iterable[bytes] = self.serve(file, environ, start_response)
            except Changed:
                self._assets.forget()
                self._ready.clear()
            else:
                return answer
        if split_hash(path) is not None and self._assets.owns(path):
            start_response = _without_age(start_response)
        return self.application(environ, start_response)

    def _find(self, path: str, environ: WSGIEnvironment) -> AssetFile | None:
        """The file of a path; ``None`` if that is the application's."""
        file = self._find_hashed(path)
        if file is None:
            # Not kept: such paths are without number, and another host has another file there.
            file = self._find_by_rule(path, environ)
            if file is not None:
                return file
            file = self._find_plain(path, environ)
            if self._assets.matches_hosts:
                return file
        if file is not None and not self._assets.is_debug:
            self._ready[path] = file
        return file

    def _find_hashed(self, path: str) -> AssetFile | None:
        split = split_hash(path)
        if split is None:
            return None
        plain, digits = split
        for folder in self._assets.folders():
            if folder.is_literal and plain.startswith(folder.prefix):
                name = plain.removeprefix(folder.prefix)
                asset = self._assets.find(folder, name)
                if asset is not None and asset.hash == digits:
                    return self._current(folder, asset)
        return self._stored(path)

    def _find_by_rule(self, path: str, environ: WSGIEnvironment) -> AssetFile | None:
        """The same, where the host counts, or a part of the prefix differs between requests."""
        if split_hash(path) is None or not self._assets.has_variable_prefixes:
            return None
        endpoint, name = self._match(environ)
        folder = next((each for each in self._assets.folders() if each.endpoint == endpoint), None)
        split = split_hash(name)
        if folder is None or folder.is_literal or split is None:
            return None
        asset = self._assets.find(folder, split[0])
        if asset is not None and asset.hash == split[1]:
            return self._current(folder, asset)
        return self._stored(folder.store_path(name))

    def _find_plain(self, path: str, environ: WSGIEnvironment) -> AssetFile | None:
        for folder in self._assets.folders():
            if folder.is_literal and path.startswith(folder.prefix):
                name = path.removeprefix(folder.prefix)
                asset = self._assets.find(folder, name)
                # A view may have a rule for this very path.
                if asset is not None and self._match(environ) == (folder.endpoint, name):
                    return self._plain(folder, asset)
        return None

    def _match(self, environ: WSGIEnvironment) -> tuple[str, str]:
        """The endpoint and file's name that the application would find; empty if none."""
        app = self._assets.app
        try:
            adapter = app.create_url_adapter(app.request_class(environ))
            endpoint, values = adapter.match() if adapter is not None else ("", {})
        except HTTPException:  # none, another method, or a host that is not trusted
            return "", ""
        return endpoint, str(values.get("filename", ""))

    def _current(self, folder: Folder, asset: Asset) -> AssetFile:
        """A file under its hashed name, as it is now."""
        path = folder.store_path(asset.hashed_name)
        variants = self._stored_variants(path, asset.integrity)
        if None not in {each.coding for each in variants}:
            body = asset.source.path if asset.content is None else asset.content
            source = asset.source if asset.content is None else None
            variants.append(Variant(None, asset.size, body, source))
        return AssetFile(
            self._headers(asset.key[1], is_hashed=True),
            tag=asset.digest.hex()[:32],
            modified=asset.source.modified,
            variants=variants,
        )

    def _plain(self, folder: Folder, asset: Asset) -> AssetFile:
        """A file under its own name, with its own bytes."""
        source = asset.source
        path = folder.store_path(asset.plain_name)
        variants = [each for each in self._stored_variants(path, source.integrity) if each.coding]
        return AssetFile(
            self._headers(asset.key[1], is_hashed=False),
            tag=source.digest.hex()[:32],
            modified=source.modified,
            variants=[*variants, Variant(None, source.signature.size, source.path, source)],
            guard=source,
        )

    def _stored(self, path: str) -> AssetFile | None:
        """A file that only a build knows."""
        entry = self._assets.stored(path)
        variants = self._stored_variants(path, entry.integrity) if entry is not None else []
        if entry is None or None not in {each.coding for each in variants}:
            return None
        try:
            modified = os.stat(self._assets.store.path(path)).st_mtime
        except OSError:  # deleted by hand
            return None
        return AssetFile(
            self._headers(entry.filename, is_hashed=True),
            tag=tag_of(entry.integrity),
            modified=modified,
            variants=variants,
        )

    def _stored_variants(self, path: str, integrity: str) -> list[Variant]:
        """What a build has written of a file, if it is this very one."""
        entry: Entry | None = self._assets.stored(path)
        if entry is None or entry.integrity != integrity:
            return []
        sizes = entry.sizes
        found: list[Variant] = []
        for coding, size in sizes.items():
            where = self._assets.store.path(path, coding)
            try:
                if os.stat(where).st_size == size:
                    found.append(Variant(coding, size, where))
            except OSError:  # deleted by hand, or with its build
                continue
        return found

    def _headers(self, name: str, *, is_hashed: bool) -> Headers:
        headers = Headers([])
        type_ = self.media_types.get_type(name)
        headers["Content-Type"] = f"{type_}; charset=utf-8" if type_.startswith("text/") else type_
        for key, value in headers_of(None if is_hashed else self._assets.plain_age).items():
            headers[key] = value
        headers["Accept-Ranges"] = "bytes"
        return headers


def headers_of(plain_age: int | None) -> dict[str, str]:
    """What the answer for a file says of caching and of other hosts, whoever sends it.

    Args:
        plain_age: Seconds for which a cache may keep it; ``None``: for ever, since its name
            carries a hash.
    """
    if plain_age is None:
        caching = f"public, max-age={YEAR}, immutable"
    else:
        caching = f"public, max-age={plain_age}" if plain_age else "no-cache"
    return {
        "Cache-Control": caching,
        "Access-Control-Allow-Origin": "*",
        # Whether there are copies or not: a build may make them later.
        "Vary": "Accept-Encoding",
    }


def tag_of(integrity: str) -> str:
    """The tag that a file gets whose digest is written as in HTML."""
    import base64

    return base64.b64decode(integrity.partition("-")[2]).hex()[:32]


def _without_age(start_response: StartResponse) -> Callable[..., Any]:
    """Let no cache keep that there is no such file: after a deploy there may be."""

    def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        if status.startswith("404"):
            headers = [
                item for item in headers if item[0].lower() not in {"cache-control", "expires"}
            ]
            headers.append(("Cache-Control", "no-store"))
        return start_response(status, headers, *rest)

    return start
