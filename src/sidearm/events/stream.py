"""Streams as views return them: the view says who hears what; the rest is not its business.

An ``EventStream`` is an ordinary response until the server asks for its body. So the task settles,
``after_request`` functions run and the session is saved as with every response, and only then is
the client's socket handed to the hub (``handoff``), or one poll answered (``polling``).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from flask import Request, Response, request
from werkzeug.datastructures import Headers
from werkzeug.wsgi import ClosingIterator

from ..exceptions import EventTooLarge
from ..hub.eventstream import MEDIA_TYPE, bare_id, check_channel, encode, retry_field
from ..hub.memory import MemoryHub
from ..hub.messages import Handoff
from ..hub.position import is_end
from ..tasks.context import began_at, require_task
from ..tasks.state import state_of
from .closing import check_tags
from .greenlets import running_loop
from .handoff import hand_off, log_once
from .inline import hold
from .polling import poll, spread_out
from .readers import allowing, foreign_reader
from .servers import NotPossible, find_socket

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from ..hub.client import HubClient
    from ..settings import Settings

#: Stays as it is, whatever the view or ``after_request`` functions set (contract H11).
FIXED_HEADERS = {
    "Content-Type": MEDIA_TYPE,
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}

#: A stream has no length, no coding and no version; its connection is the server's business.
ABSENT_HEADERS = (
    "Accept-Ranges",
    "Connection",
    "Content-Encoding",
    "Content-Length",
    "ETag",
    "Keep-Alive",
    "Last-Modified",
    "Transfer-Encoding",
)

#: What ``sidearm.js`` knows a stream by: the seconds between its heartbeats (0: it has none), and
#: what a newcomer gets before the live events.
FACTS_HEADER = "Sidearm-Stream"

_FIXED_PAIRS = tuple(FIXED_HEADERS.items())
_OWN_HEADERS = frozenset(name.lower() for name in (*FIXED_HEADERS, *ABSENT_HEADERS, FACTS_HEADER))

#: A position in no log: whoever resumes from it gets the gap event, and never silence.
NO_POSITION = "away"


class EventStream(Response):
    """The response that :func:`event_stream` makes.

    Headers that the view or an ``after_request`` function adds are sent; those that make it a
    stream stay. With another status than 200 it is an ordinary response with no body of its own.

    Attributes:
        subscription: What the hub is told: channels, the view's position, the client's last id.

    To a client that has seen the stream's end it is a 204, which makes it stop (HTML 9.2.3).
    """

    default_mimetype = MEDIA_TYPE

    def __init__(
        self,
        subscription: Handoff,
        *,
        hub: HubClient | MemoryHub,
        settings: Settings,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        reader: str | None = None,
    ) -> None:
        """Make the response.

        Args:
            subscription: ``retry`` in it is for streams that are polled; one that is handed over
                says it before that.
            hub: Where the stream will live.
            settings: Whether to hand off, and how long a polling client waits.
            headers: The view's own.
            reader: The other origin whose page reads it.
        """
        # An iterator, so that extensions see a streamed response and leave its body alone.
        if headers is None:
            super().__init__(iter(()), content_type=MEDIA_TYPE)  # else it is looked for in headers
        else:
            super().__init__(iter(()), headers=Headers(headers))
        self.subscription = subscription
        self._hub = hub
        self._settings = settings
        self._reader = reader
        last_event_id = subscription.last_event_id
        if last_event_id is not None and is_end(last_event_id, subscription.channels):
            self.status_code = 204
            self.headers.set("Cache-Control", FIXED_HEADERS["Cache-Control"])
            del self.headers["Content-Type"]

    @property
    def runs_nothing(self) -> bool:
        """Whether it is a stream: then its body is not what the response holds."""
        return self.status_code == 200

    def get_wsgi_response(
        self, environ: WSGIEnvironment
    ) -> tuple[Iterable[bytes], str, list[tuple[str, str]]]:
        """Return body, status and final headers: here, because nothing of Flask's runs after it."""
        body, status, headers = super().get_wsgi_response(environ)
        if self.status_code == 200:
            headers = [pair for pair in headers if pair[0].lower() not in _OWN_HEADERS]
            headers += (*_FIXED_PAIRS, (FACTS_HEADER, _facts(self._settings, self.subscription)))
        if self._reader is not None:
            headers = allowing(headers, self._reader)
        return body, status, headers

    def get_app_iter(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        """Return the body that hands the client's socket over, or one poll's answer."""
        if self.status_code != 200 or environ["REQUEST_METHOD"] == "HEAD":
            return super().get_app_iter(environ)
        return ClosingIterator(self._body(environ), self.close)

    def _body(self, environ: WSGIEnvironment) -> Iterator[bytes]:
        hub = self._hub
        # The log in a test's own process takes no sockets. Another hub was there when the view ran,
        # or there is no position; should it have gone since, that is found out.
        if isinstance(hub, MemoryHub) or self.subscription.position is None:
            return map(_called, [self._answer])
        reason = None
        if self._settings.handoff:
            try:
                found = find_socket(environ)
            except NotPossible as error:
                reason = str(error)
            else:
                place = self._place()
                give = functools.partial(self._give, knows_place=place is not None)
                return hand_off(found, give, self._answer, self._first_words(place))
        loop = running_loop()
        if loop is not None:
            return hold(environ, loop, hub, self._settings, self.subscription)
        if reason is not None:
            log_once(reason)
        return map(_called, [self._answer])

    def _first_words(self, place: str | None) -> bytes:
        """What the client is told with the head: when to come back, and if it can be, its place."""
        retry = self.subscription.retry
        words = retry_field(spread_out(None, self._settings) if retry is None else retry)
        return words if place is None else words + bare_id(place)

    def _place(self) -> str | None:
        """Where the client would go on from, if that is the first that the hub would send.

        It is not before a snapshot, or before what was published earlier: whoever comes back by an
        id gets neither. Nor where only the hub knows what the view's position stands for.
        """
        asked = self.subscription
        is_first = asked.last_event_id is None and asked.snapshot is None and asked.replay is None
        return asked.position if is_first and not self._hub.follows_broker else None

    def _give(self, descriptor: int, *, knows_place: bool) -> bool:
        message = msgspec.structs.replace(
            self.subscription,
            retry=None,
            shortest_wait=self._settings.retry if self.subscription.retry is None else None,
            knows_place=knows_place,
        )
        return self._hub.handoff(message, descriptor)

    def _answer(self) -> bytes:
        return poll(self._hub, self._settings, self.subscription)


def event_stream(
    *channels: str,
    snapshot: Any = None,
    replay: float | None = None,
    retry: int | None = None,
    tags: Sequence[str] = (),
    max_age: float | None = None,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
) -> EventStream:
    """Make the response that streams the events of one or more channels to this client.

    A client that comes back with its last event id, in the header ``Last-Event-ID`` or in the
    query as ``last_event_id`` (the header wins), first gets what it missed. If the hub no longer
    knows, it gets the event ``sidearm:gap``, and the snapshot again. One that has seen the stream's
    end gets 204, and stops.

    Args:
        channels: At least one; the events of several arrive in one order.
        snapshot: A function without arguments, called now, or its value already made. The client
            gets it first, as an event of type ``snapshot``; no event is missed between the two,
            and one that is in the snapshot already may follow it.
        replay: A client without an id gets the events of the last so many seconds too, and one
            with an older id gets the gap.
        retry: Milliseconds until the client reconnects, as in the standard; by default each
            stream has its own (``SIDEARM_RETRY``, ``SIDEARM_RETRY_SPREAD``), longer where there are
            very many (``SIDEARM_RECONNECT_RATE``).
        tags: Names by which :func:`close_streams` finds it, such as ``["user:7"]``.
        max_age: Seconds after which it ends, up to a tenth earlier, and the client comes back by
            its id, so that the view's checks run again; by default ``SIDEARM_STREAM_MAX_AGE``. 0:
            never.
        headers: Added to the response; those of a stream stay as they are.

    Raises:
        ValueError: There is no channel, ``replay`` or ``max_age`` is no number of seconds, or
            ``tags`` is no list of names.
        InvalidChannel: A name is not a non-empty str of printable characters up to 200 bytes.
        FieldTypeError: ``retry`` is no whole number, or JSON cannot hold the snapshot.
        EventTooLarge: The snapshot is above ``SIDEARM_MAX_EVENT_SIZE``.
        OutsideTask: There is no task.
        ForeignReader: A page of another origin asks, and ``SIDEARM_STREAM_ORIGINS`` does not list
            it (403). A view that is annotated ``-> EventStream`` is not even called.
    """
    if not channels:
        raise ValueError(
            "event_stream() got no channel. Name at least one: event_stream('orders')."
        )
    names = tuple(dict.fromkeys(map(check_channel, channels)))
    # Before the snapshot, and where a transaction is open already, from its beginning: what was
    # published since may not be in it.
    app, began = began_at("event_stream()")
    if replay is not None:
        _check_seconds("replay", replay)
    if max_age is not None:
        _check_seconds("max_age", max_age)
    if retry is not None:
        retry_field(retry)
    state = state_of(app)
    hub, settings = state.hub, state.settings
    # Each look at a proxy costs as much as what it finds.
    asked: Request = request._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001
    reader = foreign_reader(asked.environ, settings)
    last_event_id = _last_event_id(asked)
    if last_event_id is not None and is_end(last_event_id, names):
        snapshot = None  # it would not be sent
    if max_age is None:
        max_age = settings.stream_max_age
    subscription = Handoff(
        channels=names,
        position=hub.position_at(began),
        last_event_id=last_event_id,
        snapshot=None if snapshot is None else _snapshot(snapshot, asked.method, names[0], state),
        retry=retry,
        replay=replay,
        address=asked.remote_addr or "",
        tags=check_tags(tags) if tags else (),
        max_age=max_age or None,
    )
    if not isinstance(hub, MemoryHub):  # a test's process tells no other one
        state.sightings.note(app, asked.endpoint)
    stream_class = _stream_class(app.response_class)
    return stream_class(subscription, hub=hub, settings=settings, headers=headers, reader=reader)


def stream_position() -> str:
    """Return the position that a page is made from, for the stream that it will open.

    Events after it are what the page does not show yet, so ``?last_event_id=`` with this value
    joins page and stream without a gap. Also a global of templates::

        <body data-position="{{ stream_position() }}">

    Raises:
        OutsideTask: There is no task, so there is no moment that the page was made from.
    """
    task = require_task("stream_position()")
    position: str | None = state_of(task.app).hub.place_at(task.began_ns())
    return NO_POSITION if position is None else position


def _facts(settings: Settings, opening: Handoff) -> str:
    """What :data:`FACTS_HEADER` says."""
    facts = _heartbeat(settings.heartbeat)
    if opening.replay:
        return f"{facts}; replay"
    return facts if opening.snapshot is None else f"{facts}; snapshot"


@functools.cache
def _heartbeat(seconds: float) -> str:
    return f"heartbeat={seconds:g}"


def _called(answer: Callable[[], bytes]) -> bytes:
    return answer()


@functools.cache
def _stream_class(response_class: type[Response]) -> type[EventStream]:
    """Join with the application's own class: Flask turns every other response into one of it."""
    if issubclass(EventStream, response_class):
        return EventStream
    return type("EventStream", (EventStream, response_class), {})


def _last_event_id(asked: Request) -> str | None:
    # From the environ, because most clients have neither, and parsing is dear.
    header: str = asked.environ.get("HTTP_LAST_EVENT_ID", "")
    if header:
        # Browsers send it as UTF-8, WSGI decodes headers as Latin-1 (PEP 3333).
        return header.encode("latin-1", "replace").decode("utf-8", "replace")
    return (asked.args.get("last_event_id") or None) if asked.query_string else None


def _snapshot(snapshot: Any, method: str, channel: str, state: Any) -> bytes | None:
    if method == "HEAD":
        return None
    value = snapshot() if callable(snapshot) else snapshot
    encoded = encode(state.plain(value), event="snapshot")
    limit = state.settings.max_event_size
    if len(encoded) > limit:
        raise EventTooLarge(channel, len(encoded), limit)
    return encoded


def _check_seconds(name: str, value: object) -> None:
    number = None if isinstance(value, bool) else value
    if not isinstance(number, (int, float)) or not 0 <= number < math.inf:  # NaN is neither
        raise ValueError(f"{name} is {value!r}. Give seconds as a number, such as 60.")
