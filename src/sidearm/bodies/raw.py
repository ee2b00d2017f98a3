"""``@raw_body``: a view that gets its body as it comes, in a request that parses nothing.

The request becomes one of a subclass of the application's own request class, before the first
``before_request`` function sees it: whoever would parse the body there is told, and the view finds
all of it. That takes a ``url_value_preprocessor``, which an application gets with its first such
view, and a mark on the view, which outer decorators pass on if they use ``functools.wraps``.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from typing import IO, Any, NoReturn, TypeVar, cast

from flask import Flask, Request, Response, after_this_request, current_app, request

from ..exceptions import BodyNotParsed
from .stream import BodyStream, drain, stream_of

F = TypeVar("F", bound=Callable[..., Any])

_LIMIT = "_sidearm_max_content_length"
_CLASS = "_sidearm_raw_class"


def raw_body(*, max_content_length: int) -> Callable[[F], F]:
    """Let a view read the body of its requests itself; a decorator.

    Nothing is parsed: ``request.form``, ``.files``, ``.values``, ``.json`` and ``get_json()`` raise
    :class:`~sidearm.exceptions.BodyNotParsed`. ``request.stream`` gives the body in pieces, so that
    one of any size takes no memory; ``request.get_data()`` gives all of it. One that is longer than
    the limit is answered with 413: before it is read if its ``Content-Length`` tells, else when
    the limit is reached. One that ends too early raises ``ClientDisconnected`` (400).

    Its place is below ``@app.route()``, or on a method of a class-based view.

    Args:
        max_content_length: The longest body, in bytes. It goes before ``MAX_CONTENT_LENGTH``, and
            may be more.

    Returns:
        The decorator.

    Raises:
        TypeError: The limit is no number of bytes.
        ValueError: It is less than one.
    """
    if isinstance(max_content_length, bool) or not isinstance(max_content_length, int):
        raise TypeError(
            f"The max_content_length of @raw_body is {max_content_length!r}. Give bytes as a whole"
            " number, such as 64 << 20."
        )
    if max_content_length < 1:
        raise ValueError(
            f"The max_content_length of @raw_body is {max_content_length}. Give at least 1 byte."
        )

    def decorate(view: F) -> F:
        @functools.wraps(view)
        def raw(*args: Any, **kwargs: Any) -> Any:
            _begin(max_content_length)
            return current_app.ensure_sync(view)(*args, **kwargs)

        setattr(raw, _LIMIT, max_content_length)
        return cast("F", raw)

    return decorate


class RawRequest(Request):
    """A request whose body is not parsed; put in front of the application's request class."""

    _body: BodyStream | None = None
    _limit: int | None = None

    @property
    def stream(self) -> IO[bytes]:
        """The body, to be read in pieces."""
        return cast("IO[bytes]", self._stream())

    @property
    def data(self) -> bytes:
        """All of the body, whatever its type is."""
        return self.get_data()

    @property
    def form(self) -> NoReturn:
        """Refused."""
        _refuse("request.form")

    @property
    def files(self) -> NoReturn:
        """Refused."""
        _refuse("request.files")

    @property
    def values(self) -> NoReturn:
        """Refused."""
        _refuse("request.values")

    @property
    def json(self) -> NoReturn:
        """Refused."""
        _refuse("request.json")

    def get_json(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Refused."""
        _refuse("request.get_json()")

    def _load_form_data(self) -> None:
        """Do not: ``get_data(parse_form_data=True)`` gets the body as it is."""

    def _stream(self) -> BodyStream:
        # A view may lower Flask's own limit of the request before it reads.
        limit = self.max_content_length
        if self._body is None or (limit != self._limit and not self._body.tell()):
            self._body, self._limit = stream_of(self.environ, limit), limit
        return self._body


def _raw_class(request_class: type[Request]) -> type[Request]:
    if request_class is Request:
        return RawRequest
    found: type[Request] | None = request_class.__dict__.get(_CLASS)
    if found is None:
        found = type(f"Raw{request_class.__name__}", (RawRequest, request_class), {})
        setattr(request_class, _CLASS, found)  # so that one goes with the other
    return found


def _begin(limit: int) -> None:
    """Make the current request a raw one, if it is not."""
    current: Request = request._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001
    if isinstance(current, RawRequest):
        return
    if "form" in current.__dict__ and (current.content_length or _is_chunked(current)):
        _refuse("The body", "something before the view has parsed it already")
    current.__class__ = _raw_class(type(current))
    current.max_content_length = limit
    after_this_request(_drain_unread)
    current.stream  # noqa: B018 - over the limit, or without a length, it is refused at once


def _is_chunked(request: Request) -> bool:
    return "chunked" in request.headers.get("Transfer-Encoding", "").lower()


def _drain_unread(response: Response) -> Response:
    """See to it that the sender gets an answer that comes before the body was read."""
    current: RawRequest = request._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001
    environ = current.environ

    def at_close() -> None:
        body = current._body  # noqa: SLF001
        if body is None or not body.ended:
            drain(environ, body)

    response.call_on_close(at_close)
    return response


def _refuse(what: str, happened: str | None = None) -> NoReturn:
    view = current_app.view_functions.get(request.endpoint or "")
    name = f"{getattr(view, '__module__', '')}.{getattr(view, '__name__', '')}"
    protected = "csrf" in current_app.extensions
    raise BodyNotParsed(what, str(request.endpoint), name if protected else None, happened)


# What an application is watched for.


def marks(view: Any, mark: str) -> Iterator[tuple[str | None, Any]]:
    """The marks of a view function, and of the methods of a class-based view.

    Args:
        view: The view function.
        mark: The mark's attribute.

    Returns:
        Pairs of an HTTP method in lower case (``None``: any) and what the mark says.
    """
    if hasattr(view, mark):
        yield None, getattr(view, mark)
    cls = getattr(view, "view_class", None)
    if cls is not None:
        for name in ("dispatch_request", *(str(each).lower() for each in cls.methods or ())):
            found = getattr(getattr(cls, name, None), mark, None)
            if found is not None:
                yield (None if name == "dispatch_request" else name), found


def limit_of(view: Any) -> int | None:
    """The longest body that a view takes raw, in bytes; ``None`` where it takes none so.

    Args:
        view: The view function; of a class-based view the largest limit of its methods counts.
    """
    return max((limit for _, limit in marks(view, _LIMIT)), default=None)


def watch_views(app: Flask, check: Callable[[Flask, Any], None]) -> None:
    """See to it that raw views are known before anything else sees their requests.

    Args:
        app: The application.
        check: Called with the application and every view function that is added.
    """
    reference = weakref.ref(app)
    inner: Callable[..., None] | None = app.__dict__.get("add_url_rule")

    def add_url_rule(
        rule: str, endpoint: str | None = None, view_func: Any = None, *args: Any, **options: Any
    ) -> None:
        app: Any = reference()
        add = inner or functools.partial(type(app).add_url_rule, app)
        add(rule, endpoint, view_func, *args, **options)
        look(app, view_func)

    def look(app: Flask, view: Any) -> None:
        # A function that comes later, by @app.endpoint, can be a raw view too.
        if view is None or any(marks(view, _LIMIT)):
            _place_guard(app)
        check(app, view)

    app.add_url_rule = add_url_rule  # type: ignore[method-assign]
    for view in list(app.view_functions.values()):
        look(app, view)


def _place_guard(app: Flask) -> None:
    preprocessors: list[Any] = app.url_value_preprocessors.setdefault(None, [])
    if _guard not in preprocessors:
        preprocessors.insert(0, _guard)


def _guard(endpoint: str | None, _values: dict[str, Any] | None) -> None:
    view = current_app.view_functions.get(endpoint or "")
    if view is None:
        return
    wanted = request.method.lower()
    for method, limit in marks(view, _LIMIT):
        if method is None or method == wanted or (method == "get" and wanted == "head"):
            _begin(limit)
            return
