"""Static files that a front serves itself, by the rules that the application has for them.

Where ``SIDEARM_ASSETS`` is set these are the rules of ``sidearm.assets``, and after ``flask sidearm
assets build`` the front sends what was built. It never decides what is current: a name with a hash
that is in no build is the application's, and so is a compressed copy of a file that may have
changed since.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Flask

from ..topology import Topology, static_folder_of

if TYPE_CHECKING:
    from ...assets.installation import Assets

#: The front tells these types as Flask does; what else there is goes as application/octet-stream.
_EXTENSIONS = (
    "avif bmp css csv gif htm html ico jpeg jpg js json m4a map md mjs mp3 mp4 ogg otf pdf png svg"
    " ttf txt wasm wav webm webmanifest webp woff woff2 xml zip"
)
# What Python's own table lacks in some releases.
_TYPES = {
    "avif": "image/avif",
    "map": "application/json",
    "md": "text/markdown",
    "mjs": "text/javascript",
    "otf": "font/otf",
    "ttf": "font/ttf",
    "webm": "video/webm",
    "webmanifest": "application/manifest+json",
    "webp": "image/webp",
    "woff": "font/woff",
    "woff2": "font/woff2",
}

_TEXTUAL = frozenset(
    {
        "application/json",
        "application/manifest+json",
        "application/wasm",
        "application/xml",
        "image/svg+xml",
    }
)

_BROTLI = "ngx_http_brotli_static_module.so"
_MODULES = (  # Debian's, Fedora's, and those of nginx's own packages
    "/usr/lib/nginx/modules",
    "/usr/lib64/nginx/modules",
    "/usr/share/nginx/modules",
    "/etc/nginx/modules",
)


def brotli_module(wanted: bool | None) -> str | None:  # noqa: FBT001 (an option's value)
    """The module that lets nginx send Brotli copies.

    Args:
        wanted: Whether nginx has it; ``None``: if it is on this machine.

    Returns:
        Its path; if it is only said to be there, relative to where nginx looks for modules.
    """
    if wanted is False:
        return None
    found = (Path(folder, _BROTLI) for folder in _MODULES)
    path = next((str(path) for path in found if path.is_file()), None)
    return path or (f"modules/{_BROTLI}" if wanted else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticFiles:
    """The files of one endpoint.

    Attributes:
        url: The path of their URLs, with the prefix and a slash at the end.
        inner_url: The same as the application sees it.
        folder: Where they are, an absolute path with a slash at the end; ``None``: the front sends
            only what was built, because it cannot tell other files from pages.
        built: Where a build has written them, the same way; ``None``: nowhere.
    """

    url: str
    inner_url: str
    folder: str | None
    built: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How the application answers for static files.

    Attributes:
        types: Media types by extension, without a dot.
        named_types: File names, in small letters, that have a type of their own.
        headers: Of a file under its own name.
        hashed_headers: Of a file under a name with a hash.
        has_copies: Whether the application sends compressed copies; if not, the front compresses.
        lacks_build: Whether files would have hashes, and no build was found.
        store: The folder of the builds, with a slash at the end; ``None``: there is none.
        never_compressed: Endings, without a dot, of files that have no compressed copies.
    """

    types: Mapping[str, str]
    named_types: Sequence[str] = ()
    headers: Mapping[str, str]
    hashed_headers: Mapping[str, str]
    has_copies: bool = False
    lacks_build: bool = False
    store: str | None = None
    never_compressed: Sequence[str] = ()

    @property
    def text_types(self) -> list[str]:
        """The types that go with a charset; nginx has text/html among them always."""
        return sorted({kind for kind in self.types.values() if kind.startswith("text/")})

    @property
    def compressible_types(self) -> list[str]:
        """The types of text, whoever it is for."""
        return sorted(
            {kind for kind in self.types.values() if kind.startswith("text/") or kind in _TEXTUAL}
        )


def rules_of(app: Flask, assets: Assets | None) -> Rules:
    """Read off an application how it answers for static files.

    Args:
        app: The application.
        assets: Its static files, where ``SIDEARM_ASSETS`` is set.

    Raises:
        ManifestError: The builds cannot be read.
    """
    if assets is None:
        known = {each: mimetypes.guess_type(f"x.{each}")[0] for each in _EXTENSIONS.split()}
        return Rules(
            types={each: kind or _TYPES[each] for each, kind in known.items()},
            headers={"Cache-Control": _cache_control(app)},
            hashed_headers={},
        )
    from whitenoise.media_types import MediaTypes

    from ...assets.compression import NEVER_COMPRESSED
    from ...assets.serving import headers_of

    types = MediaTypes(extra_types=assets.types).types_map
    is_built = bool(assets.store.manifest().generations)
    return Rules(
        types={name[1:]: kind for name, kind in types.items() if name.startswith(".")},
        named_types=sorted(name for name in types if not name.startswith(".")),
        headers=headers_of(assets.plain_age),
        hashed_headers=headers_of(None),
        has_copies=True,
        lacks_build=not is_built,
        store=f"{assets.store.folder.absolute()}/" if is_built else None,
        never_compressed=sorted(NEVER_COMPRESSED),
    )


def static_files(
    app: Flask, topology: Topology, prefix: str, assets: Assets | None, rules: Rules
) -> Iterator[StaticFiles]:
    """The files that a front can serve.

    Args:
        app: The application.
        topology: Of the same application.
        prefix: The path under which the application is, without a slash at the end.
        assets: Its static files, where ``SIDEARM_ASSETS`` is set.
        rules: How it answers for them.
    """
    literal = {
        folder.endpoint: folder.prefix
        for folder in (assets.folders() if assets is not None else ())
        if folder.is_literal
    }
    urls: set[str] = set()
    for route in topology.routes:
        folder = static_folder_of(app, route.endpoint)
        inner = route.rule.removesuffix("<path:filename>")
        if folder is None or inner == route.rule or "<" in inner or inner in urls:
            continue
        if assets is not None and route.endpoint not in literal:
            continue  # the same path is another file on another host
        urls.add(inner)
        is_found = inner != "/" and Path(folder).is_dir()
        built = rules.store and f"{rules.store}{literal[route.endpoint]}"
        if is_found or built:
            yield StaticFiles(
                url=prefix + inner,
                inner_url=inner,
                folder=f"{Path(folder).absolute()}/" if is_found else None,
                built=built,
            )


def _cache_control(app: Flask) -> str:
    """As Flask's ``send_file`` answers (``SEND_FILE_MAX_AGE_DEFAULT``)."""
    age: Any = app.config.get("SEND_FILE_MAX_AGE_DEFAULT")
    seconds = int(age.total_seconds()) if isinstance(age, timedelta) else age
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        return "no-cache"
    return f"public, max-age={seconds}" if seconds > 0 else "no-cache, max-age=0"


def one_of(words: Sequence[str]) -> str:
    """A regular expression for one of some words, without a group of its own."""
    return "|".join(re.sub(r"([^A-Za-z0-9_-])", r"\\\1", word) for word in words)


def names_pattern(names: Sequence[str]) -> str:
    """A regular expression for file names, with a hash before their ending or without.

    Args:
        names: Such as ``crossdomain.xml``.
    """
    from ...assets.names import HASH_LENGTH

    parts = (name.rpartition(".") if "." in name else (name, "", "") for name in names)
    return "|".join(
        f"{one_of([stem])}(?:\\.[0-9a-f]{{{HASH_LENGTH}}})?{one_of([dot + ending])}"
        for stem, dot, ending in parts
    )
