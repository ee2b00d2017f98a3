"""The static files of one application: which there are, and what their URLs are.

A function of ``url_defaults`` puts the hashed name in the place of the plain one, so that Flask
builds the URL as ever, with its prefix, host and query. With ``SIDEARM_ASSETS_URL`` it takes the
name away, and the handler for URLs that cannot be built builds this one. Both hooks are Flask's.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from flask import Flask

from ..exceptions import SettingError
from .exceptions import ManifestError
from .folders import Folder
from .graph import Asset, Graph, Key
from .manifest import Entry, Store
from .references import Reference
from .serving import AssetServer

if TYPE_CHECKING:
    from werkzeug.routing import BuildError

    from ..settings import Settings

PLAIN_AGE = 60  # seconds for which a cache may keep a file under its own name
WARNINGS = 1000  # about as many different missing names; who asks for more has read these

_FILENAME = "<path:filename>"
#: Where the hook leaves the hashed name for the handler.
_ELSEWHERE = "_sidearm_filename"


class Assets:
    """The static files of one application.

    Args:
        app: The application.
        settings: Its settings; ``assets`` is set.

    Attributes:
        store: What was built.
        types: Content types of the application's own, by ending or file name.
    """

    def __init__(self, app: Flask, settings: Settings) -> None:
        self._app = weakref.ref(app)
        self._config = app.config
        self._folders: Sequence[Folder] = ()
        self._folders_of = -1  # so many blueprints
        #: Hashed names by endpoint and name; empty where files may change at any time.
        self._names: dict[str, dict[str, str]] = {}
        self._warned: set[object] = set()
        self._url = settings.assets_url
        self.keep = settings.assets_keep
        self.types = dict(settings.assets_types)
        chosen = settings.assets
        where = chosen if isinstance(chosen, str) else "assets"
        self.store = Store(Path(app.instance_path, where))
        self.graph = Graph(self.folders, self._report)

    @property
    def app(self) -> Flask:
        """The application."""
        app = self._app()
        if app is None:
            raise RuntimeError("The application of these static files is gone. Keep it somewhere.")
        return app

    @property
    def is_debug(self) -> bool:
        """Whether files may change at any time."""
        return bool(self._config["DEBUG"])

    def begin_request(self) -> None:
        """Forget the names where files may change: ``app.run(debug=True)`` says so late."""
        if self._names and self.is_debug:
            self._names.clear()

    @property
    def plain_age(self) -> int:
        """For how many seconds a cache may keep a file under its own name."""
        if self.is_debug:
            return 0
        chosen = self._config["SEND_FILE_MAX_AGE_DEFAULT"]
        if chosen is None:
            return PLAIN_AGE
        return int(getattr(chosen, "total_seconds", lambda: chosen)())

    @property
    def matches_hosts(self) -> bool:
        """Whether one path may be another thing on another host."""
        return self.app.subdomain_matching or self.app.url_map.host_matching

    @property
    def has_variable_prefixes(self) -> bool:
        """Whether some static files are not known by their path alone."""
        return not all(folder.is_literal for folder in self.folders())

    def folders(self) -> Sequence[Folder]:
        """The static folders of the application and of its blueprints."""
        app = self.app
        if len(app.blueprints) != self._folders_of:
            self._folders = tuple(self._find_folders(app))
            self._folders_of = len(app.blueprints)
        return self._folders

    def _find_folders(self, app: Flask) -> Sequence[Folder]:
        found: list[Folder] = []
        for name, owner in (("", app), *app.blueprints.items()):
            if owner.static_folder is None:
                continue
            endpoint = f"{name}.static".removeprefix(".")
            for rule in app.url_map.iter_rules():
                if rule.endpoint == endpoint and rule.rule.endswith(_FILENAME):
                    prefix = rule.rule.removesuffix(_FILENAME).removeprefix("/")
                    is_literal = not ("<" in prefix or rule.subdomain or rule.host)
                    root = os.path.abspath(owner.static_folder)
                    found.append(Folder(endpoint, root, prefix, is_literal))
                    self._look_for(root, endpoint)
                    break
        return found

    def _look_for(self, root: str, endpoint: str) -> None:
        if not self.is_debug and not os.path.isdir(root):
            self._warn(
                root, "There is no folder %s for the files of the endpoint %r.", root, endpoint
            )

    def _warn(self, about: object, text: str, *arguments: object) -> None:
        """Log a warning, once in each process."""
        if about not in self._warned and len(self._warned) < WARNINGS:
            self._warned.add(about)
            self.app.logger.warning(text, *arguments)

    def _report(self, key: Key, reference: Reference) -> None:
        # Packages are often published without their source maps, and no page needs them.
        if not reference.is_source_map:
            self._warn(
                (key, reference),
                "The file %r of the endpoint %r refers to %r, and there is no such file. The"
                " reference is left as it is.",
                key[1],
                key[0],
                reference.target,
            )

    def find(self, folder: Folder, name: str) -> Asset | None:
        """A file with its hash; nothing that goes wrong with it reaches the page.

        Args:
            folder: Its folder.
            name: Its name below the folder.
        """
        key = (folder.endpoint, name)
        try:
            return self.graph.current(key) if self.is_debug else self.graph.asset(key)
        except Exception:
            if key not in self._warned:
                self._warned.add(key)
                self.app.logger.exception("The file %r of %r cannot be hashed.", name, key[0])
            return None

    def asset(self, endpoint: str, filename: Any) -> Asset | None:
        """The file that ``url_for`` is asked for.

        Args:
            endpoint: The endpoint.
            filename: The file's name.

        Returns:
            ``None`` if it is none of a static folder, or not there; that is logged.
        """
        folder = next((each for each in self.folders() if each.endpoint == endpoint), None)
        if folder is None:
            return None
        found = self.find(folder, str(filename))
        if found is None:
            self._warn(
                (endpoint, str(filename)),
                "There is no file %r inside of %s, for which url_for(%r) was called. The URL has no"
                " hash.",
                str(filename),
                folder.root,
                endpoint,
            )
        return found

    def forget(self) -> None:
        """A file has changed: look at all of them again."""
        self.graph.forget()
        self._names.clear()

    def owns(self, path: str) -> bool:
        """Whether a path is one of a static folder."""
        return any(
            not folder.is_literal or path.startswith(folder.prefix) for folder in self.folders()
        )

    def stored(self, path: str) -> Entry | None:
        """The file of a path that some build has written.

        Args:
            path: The path of its URL below the application's.
        """
        try:
            return self.store.manifest().find(path)
        except ManifestError as error:
            self._warn("manifest", "%s", error)
            return None

    def url_defaults(self) -> Callable[[str, dict[str, Any]], None]:
        """The function of ``url_defaults`` that puts the hashed name into the values of a URL."""
        # Flask calls it for every URL of the application, so it looks up as little as it can.
        names, find_name = self._names.get, self._hashed_name

        def add_hash(endpoint: str, values: dict[str, Any]) -> None:
            known = names(endpoint)
            if known is not None:
                try:
                    name = known.get(values["filename"])
                except (KeyError, TypeError):  # no name, or one that is no text
                    name = None
                if name is not None:
                    values["filename"] = name
                    return
            if endpoint[-6:] == "static" and "filename" in values:
                name = find_name(endpoint, values["filename"])
                if name is not None:
                    values["filename"] = name

        def add_hash_elsewhere(endpoint: str, values: dict[str, Any]) -> None:
            name = values.get("filename")
            add_hash(endpoint, values)
            if values.get("filename") is not name:
                values[_ELSEWHERE] = values.pop("filename")

        return add_hash if self._url is None else add_hash_elsewhere

    def _hashed_name(self, endpoint: str, filename: Any) -> str | None:
        asset = self.asset(endpoint, filename)
        if asset is None:
            return None
        if not self.is_debug:
            self._names.setdefault(endpoint, {})[str(filename)] = asset.hashed_name
        return asset.hashed_name

    def build_elsewhere(self, _: BuildError, endpoint: str, values: dict[str, Any]) -> str | None:
        """Build the URL of a hashed file under ``SIDEARM_ASSETS_URL``.

        Args:
            endpoint: The endpoint.
            values: The values, and those with an underscore that ``url_for`` was given.
        """
        hashed = values.pop(_ELSEWHERE, None)
        if hashed is None:
            return None
        anchor = values.get("_anchor")
        own = {key: value for key, value in values.items() if key not in _URL_FOR}
        adapter = self.app.url_map.bind("localhost")
        url = urlsplit(adapter.build(endpoint, {**own, "filename": hashed}))
        query = f"?{url.query}" if url.query else ""
        fragment = f"#{quote(anchor, safe=_FRAGMENT)}" if anchor is not None else ""
        return f"{self._url}{url.path}{query}{fragment}"


_URL_FOR = frozenset({"_anchor", "_method", "_scheme", "_external"})
_FRAGMENT = "%!#$&'()*+,/:;=?@"  # as Flask's own


def install(app: Flask, settings: Settings) -> Assets:
    """Let an application's static files have hashed URLs.

    Args:
        app: The application.
        settings: Its settings; ``assets`` is set.

    Raises:
        SettingError: The folder of the builds is inside a static folder.
    """
    assets = Assets(app, settings)
    store = os.path.realpath(assets.store.folder)
    for folder in assets.folders():  # a folder that is missing is told of here, too
        root = os.path.realpath(folder.root)
        if Path(store).is_relative_to(root) or Path(root).is_relative_to(store):
            raise SettingError(
                "SIDEARM_ASSETS",
                settings.assets,
                f"What is built would be in {store}, and static files are in {root}. Give a folder"
                " apart from it.",
            )
    app.url_default_functions[None].append(assets.url_defaults())
    app.url_build_error_handlers.insert(0, assets.build_elsewhere)  # type: ignore[arg-type]
    app.wsgi_app = AssetServer(app.wsgi_app, assets)  # type: ignore[method-assign]
    return assets
