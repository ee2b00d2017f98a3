"""``sidearm.js`` and its URL, which changes with its content.

There is no URL rule for it: one that ``init_app`` adds would be seen by everybody who lists them,
and one that the first page adds would be known to the worker that made the page, and to no other.
So this one path is answered before the application's own functions. The answer is for everybody
and for a year, so that neither a session nor an ``after_request`` function may add one client's to
it.

What is served is the module without comments, indentation and empty lines; in debug it is the file
as it is.
"""

from __future__ import annotations

import functools
import gzip
import re
import weakref
from base64 import b64encode
from hashlib import sha384
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, current_app, has_request_context, request
from werkzeug.datastructures import Headers

from ..tasks.flask_contexts import current_request_context, own_method

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import WSGIEnvironment

PREFIX = "/_sidearm/"
YEAR = 31_536_000  # seconds
HASH_LENGTH = 16  # hexadecimal digits, as in the names of other static files

_NAME = re.compile(rf"{PREFIX}sidearm\.([0-9a-f]{{{HASH_LENGTH}}})\.js", re.ASCII)
_COMMENT = re.compile(r"/\*\*.*?\*/|(?<![^\s])//[^\n]*", re.DOTALL)
_BLANKS = re.compile(r"^\s+|[ \t]+$", re.MULTILINE)


class ModuleURL(str):
    """The URL of ``sidearm.js``.

    Attributes:
        integrity: What the ``integrity`` attribute of its element says.
    """

    __slots__ = ("integrity",)
    integrity: str


def sidearm_js_url() -> ModuleURL:
    """Return the URL of ``sidearm.js``, which changes with its content. Also a global of templates.

    A page names it once, and imports ``subscribe`` from it::

        {{ import_map({"sidearm": sidearm_js_url()}) }}
        <script type="module">import { subscribe } from "sidearm"; ...</script>

    Its attribute ``integrity`` is the digest, for an element of the page's own.

    Returns:
        The path, below the application's prefix.

    Raises:
        RuntimeError: No application context is pushed.
    """
    module = _module(is_debug=current_app.debug)
    root = request.root_path if has_request_context() else current_app.config["APPLICATION_ROOT"]
    url = ModuleURL(f"{root.rstrip('/')}{PREFIX}sidearm.{module.hash}.js")
    url.integrity = module.integrity
    return url


def install(app: Flask) -> None:
    """Let an application answer for the module.

    Args:
        app: The application.
    """
    # A before_request function would cost three times as much, in every request.
    app.preprocess_request = _watch(app)  # type: ignore[method-assign]


_OWN = own_method("preprocess_request")


def _watch(app: Flask) -> Callable[..., Any]:
    reference = weakref.ref(app)  # an application must be freed with its last reference
    inner: Callable[..., Any] | None = vars(app).get("preprocess_request")

    @functools.wraps(Flask.preprocess_request)
    def preprocess_request(*args: Any, **named: Any) -> Any:
        # flask.request would take ten times as long.
        path: str = current_request_context(None).request.path
        answer = _answer() if path.startswith(PREFIX) else None
        if answer is not None:
            return answer
        if inner is not None:
            return inner(*args, **named)
        app: Any = reference()
        own = type(app).preprocess_request
        if own is _OWN and not (app.before_request_funcs or app.url_value_preprocessors):
            return None
        return own(app, *args, **named)

    return preprocess_request


class Module:
    """The module as it is served.

    Args:
        source: The file.
        is_debug: Whether it is served as it is.

    Attributes:
        bodies: By content coding; ``""`` is none.
        hash: Stands in its name.
        integrity: As in HTML (Subresource Integrity).
    """

    def __init__(self, source: str, *, is_debug: bool) -> None:
        body = (source if is_debug else compact(source)).encode()
        digest = sha384(body)
        self.bodies = {"": body, "gzip": gzip.compress(body, mtime=0)}
        self.hash = digest.hexdigest()[:HASH_LENGTH]
        self.integrity = f"sha384-{b64encode(digest.digest()).decode()}"


def compact(source: str) -> str:
    """Take comments, indentation and empty lines from the module."""
    return _BLANKS.sub("", _COMMENT.sub("", source))


@functools.cache
def _module(*, is_debug: bool) -> Module:
    source = files("sidearm.page").joinpath("sidearm.js").read_text("utf-8")
    return Module(source, is_debug=is_debug)


def _answer() -> Response | None:
    if request.method not in {"GET", "HEAD"}:
        return None
    found = _NAME.fullmatch(request.path)
    if found is None:
        return None
    module = _module(is_debug=current_app.debug)
    response_class: Any = current_app.response_class
    return _response_class(response_class)(module, found[1])


class ModuleResponse(Response):
    """The module, to one client.

    Args:
        module: The module.
        wanted: The hash that was asked for. A page of another release gets this release's module
            rather than none, and nobody keeps that.
    """

    def __init__(self, module: Module, wanted: str) -> None:
        coding = "gzip" if request.accept_encodings["gzip"] > 0 else ""
        super().__init__(module.bodies[coding])
        self._own = {
            "Content-Type": "text/javascript; charset=utf-8",
            "Cache-Control": (
                f"public, max-age={YEAR}, immutable" if wanted == module.hash else "no-store"
            ),
            "ETag": f'"{module.hash}{coding and "-" + coding}"',
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
            "Access-Control-Allow-Origin": "*",  # modules are always fetched by CORS
        }
        if coding:
            self._own["Content-Encoding"] = coding
        self.headers = Headers(self._own)
        self.make_conditional(request)

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        """Return the final headers: here, because nothing of Flask's runs after this."""
        headers = super().get_wsgi_headers(environ)
        del headers["Set-Cookie"]
        for name, value in self._own.items():
            if name in self.headers:  # a 304 has not all of them
                headers[name] = value
        return headers


@functools.cache
def _response_class(response_class: type[Response]) -> type[ModuleResponse]:
    """Join with the application's own class: Flask turns every other response into one of it."""
    if issubclass(ModuleResponse, response_class):
        return ModuleResponse
    return type("ModuleResponse", (ModuleResponse, response_class), {})
