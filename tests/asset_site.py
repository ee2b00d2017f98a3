"""An application with static files, in a folder of its own, and what tests ask of it."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner
from flask import Blueprint, Flask, render_template_string
from flask.cli import ScriptInfo

from sidearm import Sidearm
from sidearm.assets.folders import Signature
from sidearm.cli import sidearm as command

if TYPE_CHECKING:
    from click.testing import Result
    from werkzeug.test import TestResponse

IMMUTABLE = "public, max-age=31536000, immutable"
PAGE = "{{ url_for(endpoint, filename=filename) }}"
_HASH = re.compile(r"\.[0-9a-f]{16}(?=\.|$)")


def unhashed(url: str) -> str:
    """A URL or text without hashes."""
    return _HASH.sub("", url)


class Site:
    """An application's folder, and the applications that processes would make of it.

    Attributes:
        root: Its folder.
        static: Its static files.
        app: The application as the newest process has it.
    """

    def __init__(self, root: Path, **config: Any) -> None:
        self.root = root
        self.static = root / "static"
        self.static.mkdir(exist_ok=True)
        self.static_url_path: str | None = None
        self.config: dict[str, Any] = {"SIDEARM_ASSETS": True, **config}
        self.app = self.start()

    def start(self, *blueprints: Blueprint, **config: Any) -> Flask:
        """Make the application anew, as another process or the next deploy would."""
        app = Flask(
            "site",
            root_path=str(self.root),
            instance_path=str(self.root / "instance"),
            static_url_path=self.static_url_path,
        )
        app.config.update(SECRET_KEY="for tests only, and long enough")
        app.config.update(self.config)
        app.config.update(config)
        for blueprint in blueprints:
            app.register_blueprint(blueprint)
        Sidearm(app)
        app.add_url_rule("/page/<endpoint>/<path:filename>", "page", self._page)
        self.app = app
        return app

    @staticmethod
    def _page(endpoint: str, filename: str) -> str:
        return render_template_string(PAGE, endpoint=endpoint, filename=filename)

    def write(self, name: str, content: str | bytes, folder: Path | None = None) -> Path:
        """Write a static file."""
        path = (folder or self.static) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def url(self, filename: str, endpoint: str = "static", **values: Any) -> str:
        """What ``url_for`` gives in a request."""
        with self.app.test_request_context():
            return self.app.url_for(endpoint, filename=filename, **values)

    def get(self, url: str, method: str = "GET", **headers: str) -> TestResponse:
        """Ask for a URL; headers with underscores."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        response = self.app.test_client().open(url, method=method, headers=given)
        response.get_data()
        response.close()
        return response

    def text(self, url: str) -> str:
        """The body of a hashed URL, which has to be there."""
        response = self.get(url)
        assert response.status_code == 200, f"{url}: {response.status}"
        assert response.headers["Cache-Control"] == IMMUTABLE
        return response.text

    def build(self, *arguments: str) -> Result:
        """Run ``flask sidearm assets build``."""
        info = ScriptInfo(create_app=lambda: self.app)
        return CliRunner().invoke(command, ["assets", "build", *arguments], obj=info)

    @property
    def built(self) -> Path:
        """Where builds are."""
        return self.root / "instance/assets"

    def manifest(self) -> dict[str, Any]:
        """The manifest."""
        read: dict[str, Any] = json.loads((self.built / "manifest.json").read_text())
        return read

    @staticmethod
    def settle(*paths: Path) -> None:
        """Make files older than any step of the file system's clock."""
        then = time.time() - 3600
        for path in paths:
            os.utime(path, (then, then))
        while not all(Signature.of(path.stat()).is_settled for path in paths):
            time.sleep(0.01)
