"""Event streams read as strictly as a browser does: over a socket, and of a test response."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from ..exceptions import NotAStream, StreamEnded
from ..hub.eventstream import MEDIA_TYPE, Event, Parser
from .connection import Address, Connection, Head

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping
    from http.client import HTTPMessage
    from types import FrameType, TracebackType
    from typing import Self

    from werkzeug.wrappers import Response

DEFAULT_TIMEOUT = 20.0  # seconds
GRACE = 0.1  # seconds
MAX_REDIRECTS = 20  # as in the Fetch standard, 4.4
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class EventSource:
    """A browser's ``EventSource`` over a real socket: it connects, checks the answer, reads events.

    Strict about the standard: anything but status 200 with the type ``text/event-stream`` is
    refused, redirects are followed, ``Last-Event-ID`` is sent. Unlike a browser's it does not
    reconnect by itself (call :meth:`reconnect`) and never waits without a deadline.

    >>> with EventSource("http://127.0.0.1:8000/streams/stock") as source:  # doctest: +SKIP
    ...     event = source.next_event()

    Attributes:
        url: Where the stream is, after redirects.
        timeout: Seconds that each wait may take, unless the call says otherwise.
        status: The status of the response.
        headers: The headers of the response; case-insensitive.
        raw: The body's bytes that came so far on this connection.
        ended: Whether the stream has ended.
        connection: The connection, for tests that reset it or stop reading.
    """

    url: str
    status: int
    headers: HTTPMessage
    connection: Connection

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        last_event_id: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        socket_path: str | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        """Connect, and wait for the response's head.

        Args:
            url: An ``http`` URL.
            headers: Sent with each request, besides those of a browser.
            last_event_id: As if an earlier connection had left it.
            timeout: Seconds for each wait.
            socket_path: Connect to this Unix socket; the URL still says host and path.
            receive_buffer: The kernel's receive buffer in bytes; a small one makes a slow reader.

        Raises:
            NotAStream: The answer is no event stream.
            TimeoutError: No head came in time.
        """
        self.url = url
        self.timeout = timeout
        self._headers = dict(headers or {})
        self._socket_path = socket_path
        self._receive_buffer = receive_buffer
        self._unread: deque[Event] = deque()
        self._parser = Parser(last_event_id or "")
        self._open()

    @property
    def last_event_id(self) -> str:
        """What the next connection sends as ``Last-Event-ID``; ``""`` is nothing."""
        return self._parser.last_event_id

    @property
    def retry(self) -> int | None:
        """The wait that the server asked for before a reconnection, in milliseconds."""
        return self._parser.retry

    @property
    def comments(self) -> list[str]:
        """The comments that came so far on this connection; heartbeats are comments."""
        return self._parser.comments

    def next_event(self, timeout: float | None = None) -> Event:
        """The next event.

        Raises:
            TimeoutError: None came in ``timeout`` seconds.
            StreamEnded: The stream ended first.
        """
        return self.events(1, timeout)[0]

    def events(self, count: int, timeout: float | None = None) -> list[Event]:
        """The next ``count`` events, which have ``timeout`` seconds in all.

        Raises:
            TimeoutError: They did not come in time; those that did can still be read.
            StreamEnded: The stream ended first; ``events`` on the exception has those that came.
        """
        deadline = self._deadline(timeout)
        while len(self._unread) < count:
            if self.ended:
                raise StreamEnded(self.url, list(self._unread))
            self._receive(deadline, f"event {count}")
        return [self._unread.popleft() for _ in range(count)]

    def next_comment(self, timeout: float | None = None) -> str:
        """Wait for the next comment, such as a heartbeat; events that come first stay unread.

        Raises:
            TimeoutError: None came in ``timeout`` seconds.
            StreamEnded: The stream ended first.
        """
        deadline = self._deadline(timeout)
        while len(self.comments) <= self._comments_read:
            if self.ended:
                raise StreamEnded(self.url, [])
            self._receive(deadline, "comment")
        self._comments_read += 1
        return self.comments[self._comments_read - 1]

    def wait_for_end(self, timeout: float | None = None) -> list[Event]:
        """Wait until the server ends the stream; returns the events that were not yet read.

        Raises:
            TimeoutError: It did not end in ``timeout`` seconds.
        """
        deadline = self._deadline(timeout)
        while not self.ended:
            self._receive(deadline, "end")
        rest = list(self._unread)
        self._unread.clear()
        return rest

    def __iter__(self) -> Iterator[Event]:
        """The events until the stream ends; each may take ``timeout`` seconds."""
        while True:
            try:
                yield self.next_event()
            except StreamEnded:
                return

    def reconnect(self, timeout: float | None = None) -> None:
        """Close the connection and make a new one that resumes after the last event's id.

        Args:
            timeout: Seconds for the response's head. The wait that ``retry`` asks for is left out.
        """
        self.close()
        self._parser = Parser(self.last_event_id, retry=self.retry)
        self._open(timeout)

    def close(self) -> None:
        """Close the connection; unread events can still be read."""
        self.ended = True
        self.connection.close()

    def abort(self) -> None:
        """Reset the connection, as a crash of the client does."""
        self.ended = True
        self.connection.abort()

    def __enter__(self) -> Self:
        """The source itself, which is connected already."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    def __repr__(self) -> str:
        state = "ended" if self.ended else "open"
        return f"<EventSource {self.url} {state}, last_event_id={self.last_event_id!r}>"

    def _open(self, timeout: float | None = None) -> None:
        self.raw = bytearray()
        self.ended = False
        self._comments_read = 0
        deadline = self._deadline(timeout)
        head = self._ask(deadline)
        for _ in range(MAX_REDIRECTS):
            location = head.headers.get("Location")
            if head.status not in _REDIRECTS or location is None:
                break
            self.connection.close()
            self.url = urljoin(self.url, location)
            head = self._ask(deadline)
        self.status, self.headers = head.status, head.headers
        reason = _why_no_stream(head.status, head.headers.get_all("Content-Type") or [])
        if reason is not None:
            body = _start_of_body(self.connection)
            self.close()
            raise NotAStream(self.url, reason, head.status, head.headers, body)

    def _ask(self, deadline: float) -> Head:
        parts = urlsplit(self.url)
        if parts.scheme != "http":
            raise ValueError(f"The URL is {self.url!r}. Give one that starts with http://.")
        address: Address = self._socket_path or (parts.hostname or "", parts.port or 80)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.connection = Connection(address, deadline, receive_buffer=self._receive_buffer)
        try:
            return self.connection.request(target, self._request_headers(parts.netloc), deadline)
        except BaseException:
            self.connection.close()
            raise

    def _request_headers(self, host: str) -> Iterable[tuple[str, str]]:
        headers = {"Host": host, "Accept": MEDIA_TYPE, "Cache-Control": "no-store"}
        if self.last_event_id:
            headers["Last-Event-ID"] = self.last_event_id
        return {**headers, **self._headers}.items()

    def _receive(self, deadline: float, awaited: str) -> None:
        try:
            chunk = self.connection.read(deadline)
        except TimeoutError:
            raise TimeoutError(
                f"No {awaited} from {self.url} in time; {len(self._unread)} events are unread,"
                f" {len(self.comments)} comments came, the last id is {self.last_event_id!r}."
            ) from None
        if not chunk:
            self.ended = True
        self.raw += chunk
        self._unread.extend(self._parser.feed(chunk))

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self.timeout if timeout is None else timeout)


def read_events(
    response: Response, *, limit: int | None = None, timeout: float = DEFAULT_TIMEOUT
) -> list[Event]:
    """Read the events of a test client's response, and close it.

    A stream of :func:`sidearm.event_stream` ends by itself in the test client: it answers what is
    due since the client's id. A view's own generator may go on for ever; ``limit`` stops it.

    >>> read_events(client.get("/streams/stock"))  # doctest: +SKIP
    [Event(data='{"id":7,"left":4}', event='sold', id='...')]

    Args:
        response: As the test client returned it, its body not yet read.
        limit: Read no more than so many events, then close the response.
        timeout: Seconds in all. A generator that waits inside itself is interrupted by a signal,
            and sees a TimeoutError; in a thread other than the main one, or on a platform without
            ``setitimer``, only between its pieces.

    Raises:
        NotAStream: The response is no event stream.
        TimeoutError: It did not end in time, nor reach ``limit``.
    """
    try:
        reason = _why_no_stream(response.status_code, response.headers.getlist("Content-Type"))
        if reason is not None:
            body = next(iter(response.iter_encoded()), b"")
            raise NotAStream("The view", reason, response.status_code, response.headers, body)
        return _read(response.iter_encoded(), limit, timeout)
    finally:
        response.close()


def _read(chunks: Iterable[bytes], limit: int | None, timeout: float) -> list[Event]:
    parser = Parser()
    events: list[Event] = []
    try:
        # A generator that yields is stopped between its pieces: an exception out of a signal can
        # fall into code that must not see one, such as the callback of a weak reference.
        with _interrupted_after(timeout + GRACE):
            for chunk in _until(time.monotonic() + timeout, chunks):
                events += parser.feed(chunk)
                if limit is not None and len(events) >= limit:
                    break
    except TimeoutError as error:
        raise TimeoutError(
            f"The stream did not end in {timeout:g} seconds; {len(events)} events came. Give"
            " limit= to read so many of a stream that goes on."
        ) from error
    return events[:limit]


def _until(deadline: float, chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk
        if time.monotonic() > deadline:
            raise TimeoutError


@contextmanager
def _interrupted_after(seconds: float) -> Generator[None]:
    """Raise TimeoutError in the main thread after ``seconds``, whatever it waits for.

    An alarm that runs already (pytest-timeout has one) is set aside and goes on afterwards.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or not hasattr(signal, "setitimer"):
        yield
        return

    def interrupt(_: int, __: FrameType | None) -> None:
        raise TimeoutError

    began = time.monotonic()
    former: Any = signal.signal(signal.SIGALRM, interrupt)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
        if left:
            left = max(left - (time.monotonic() - began), 0.001)
            signal.setitimer(signal.ITIMER_REAL, left, interval)


def _why_no_stream(status: int, content_types: list[str]) -> str | None:
    """Why a browser would refuse the response (HTML 9.2.2), or ``None``."""
    if status != 200:
        return f"status {status}"
    if len(content_types) != 1:
        return f"{len(content_types)} Content-Type lines"
    # Parameters are ignored, an empty one too: the stream is UTF-8 whatever they say.
    essence = content_types[0].partition(";")[0].strip(" \t").lower()
    return None if essence == MEDIA_TYPE else f"the type {content_types[0]!r}"


def _start_of_body(connection: Connection, size: int = 2000) -> bytes:
    body = b""
    deadline = (
        time.monotonic() + 1
    )  # second; an error page comes whole, or is not worth waiting for
    try:
        while len(body) < size:
            chunk = connection.read(deadline)
            if not chunk:
                break
            body += chunk
    except TimeoutError:
        pass
    return body[:size]
