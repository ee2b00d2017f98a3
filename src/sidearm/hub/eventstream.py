"""``text/event-stream`` from both sides (HTML 9.2.5, 9.2.6): bytes and text, no socket, no clock.

The encoder writes only what a strict parser reads back: every field has exactly one space after
its colon (a parser takes one away, so a leading blank of the value survives), every line end of
the data starts another ``data`` line, and a value that would end its own line is refused before a
byte is written. Each frame ends with one blank line, so frames can be joined in any order.

The parser follows the standard's steps to the letter, and may be fed any number of bytes at a time.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from ..exceptions import FieldTypeError, InvalidChannel, InvalidField

MEDIA_TYPE = "text/event-stream"
MAX_CHANNEL_SIZE = 200  # bytes of UTF-8
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# What would end a field's line early, or make a parser ignore the field (9.2.6: an id with NUL).
_ENDS_FIELD = re.compile("[\0\r\n]")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_JSON = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Event:
    """One event as a client sees it.

    Attributes:
        data: The text of all ``data`` lines, joined with LF.
        event: The type; ``"message"`` if the stream named none.
        id: The last event id when the event came: ids stick, so it may be an earlier event's.
    """

    data: str
    event: str = "message"
    id: str = ""


# The encoder


def encode(
    data: Any, *, event: str | None = None, id: str | None = None, retry: int | None = None
) -> bytes:
    r"""Encode one event as a whole frame.

    >>> encode({"left": 4}, event="sold", id="7")
    b'id: 7\nevent: sold\ndata: {"left":4}\n\n'

    Args:
        data: str and bytes go as they are, everything else as JSON; see :func:`encode_data`.
        event: The type; a browser calls it ``message`` if there is none.
        id: What the client sends back as ``Last-Event-ID``; ``""`` makes it forget its id.
        retry: How long a client waits before it reconnects, in milliseconds, as in the standard.

    Raises:
        InvalidField: A value cannot be written as its field (a ``ValueError``).
        FieldTypeError: A value is of a type that its field cannot have (a ``TypeError``).
    """
    retry_line = b"" if retry is None else _retry_line(retry)
    return retry_line + frame(encode_body(data, event), id)


def encode_body(data: Any, event: str | None = None) -> bytes:
    """Encode an event's type and data: all but its id and the blank line, which the log adds.

    Raises:
        InvalidField: ``event`` holds CR, LF or NUL, or there is a lone surrogate.
        FieldTypeError: JSON cannot hold ``data``, or ``event`` is no str.
    """
    if event is None:
        return encode_data(data)
    return _line("event", event) + encode_data(data)


def encode_data(data: Any) -> bytes:
    r"""Encode data as ``data`` lines, one for each of its lines.

    >>> encode_data("one\rtwo")
    b'data: one\ndata: two\n'

    Args:
        data: str goes as it is; bytes too, as UTF-8; everything else as JSON, on one line. CR and
            CRLF end a line like LF, and arrive as LF: the standard has no other way.

    Raises:
        InvalidField: A lone surrogate, or bytes that are not UTF-8.
        FieldTypeError: JSON cannot hold ``data``.
    """
    raw = _raw(data)
    if b"\r" in raw:
        raw = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\n" in raw:
        raw = raw.replace(b"\n", b"\ndata: ")
    return b"data: " + raw + b"\n"


def frame(body: bytes, id: str | None) -> bytes:
    """Make a frame of an encoded body; an empty body makes a bare id, which dispatches nothing.

    Args:
        body: What :func:`encode_body` returned.
        id: None leaves the client's last id as it is.

    Raises:
        InvalidField: ``id`` holds CR, LF, NUL or a lone surrogate.
    """
    if id is None:
        return body + b"\n"
    return _line("id", id) + body + b"\n"


def bare_id(place: str) -> bytes:
    """The frame that tells a client its place, and dispatches nothing.

    Args:
        place: A position that was made here, and not by a client.
    """
    return b"id: %b\n\n" % place.encode()


def comment(text: str = "") -> bytes:
    r"""Encode a comment, which a client ignores: a heartbeat that keeps proxies from hanging up.

    >>> comment()
    b': \n\n'

    Raises:
        InvalidField: ``text`` holds a lone surrogate.
    """
    lines = _utf8("comment", text).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return b": " + lines.replace(b"\n", b"\n: ") + b"\n\n"


def retry_field(milliseconds: int) -> bytes:
    """Encode the wait before a reconnection, as a frame of its own that dispatches nothing.

    Raises:
        FieldTypeError: It is no whole number.
        InvalidField: It is negative.
    """
    return _retry_line(milliseconds) + b"\n"


def check_channel(name: object) -> str:
    """Return a channel's name if it is one.

    Raises:
        InvalidChannel: It is not a non-empty str of printable characters, 200 bytes at most.
    """
    # isprintable() is false for lone surrogates, so that encode() cannot fail after it.
    if not isinstance(name, str) or not name or not name.isprintable():
        raise InvalidChannel(name)
    if len(name) > MAX_CHANNEL_SIZE or len(name.encode()) > MAX_CHANNEL_SIZE:
        raise InvalidChannel(name)
    return name


def _raw(data: Any) -> bytes:
    """The data's bytes, before they are cut into lines."""
    if isinstance(data, str):
        return _utf8("data", data)
    if isinstance(data, (bytes, bytearray, memoryview)):
        return _checked(bytes(data))
    try:
        encoded = _JSON.encode(data)
        if b"null" in encoded:  # what the encoder makes of NaN, so only then it is looked for
            _refuse_non_finite(data)
    except UnicodeEncodeError as error:
        raise InvalidField("data", data, _NO_SURROGATES) from error
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise FieldTypeError(
            "data",
            data,
            f"JSON cannot hold it: {error}. Give str, bytes, or a value made of dicts, lists, str,"
            " numbers, booleans, None, dataclasses or msgspec Structs.",
        ) from error
    return encoded


def _refuse_non_finite(value: Any) -> None:
    """Refuse NaN and infinity (RFC 8259, 6), which a page would otherwise get as ``null``."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value!r} is no JSON number")
    elif isinstance(value, dict):
        for item in value.values():
            _refuse_non_finite(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            _refuse_non_finite(item)


_NO_SURROGATES = "It holds a lone surrogate, which UTF-8 cannot carry; remove or replace it."


def _utf8(field: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidField(field, text, _NO_SURROGATES) from error


def _checked(data: bytes) -> bytes:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise InvalidField(
            "data", data, "An event stream is UTF-8 and nothing else; encode binary data as base64."
        ) from error
    return data


def _line(field: str, value: str) -> bytes:
    """One line of a field whose value has no way to hold a line end."""
    if not isinstance(value, str):
        raise FieldTypeError(field, value, f"Give a str, such as {str(value)!r}.")
    if _ENDS_FIELD.search(value):
        raise InvalidField(
            field, value, "It cannot hold CR, LF or NUL: a client would read another field."
        )
    return b"%b: %b\n" % (field.encode(), _utf8(field, value))


def _retry_line(milliseconds: int) -> bytes:
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int):
        raise FieldTypeError("retry", milliseconds, "Give whole milliseconds, such as 3000.")
    if milliseconds < 0:
        raise InvalidField("retry", milliseconds, "Give milliseconds from 0 upwards.")
    return b"retry: %d\n" % milliseconds


# The parser


class Parser:
    """Reads one connection's event stream, incrementally and strictly (HTML 9.2.6).

    An event is returned with the byte that ends its blank line: a CR there does not wait for a
    LF. What the stream's end leaves unfinished is never returned, and its id never taken.

    Attributes:
        last_event_id: What the next connection sends as ``Last-Event-ID``; ``""`` is nothing.
        retry: The last valid ``retry``, in milliseconds.
        comments: The text of each comment line, in order.
    """

    def __init__(self, last_event_id: str = "", *, retry: int | None = None) -> None:
        """Start at a connection's first byte.

        Args:
            last_event_id: The id with which the connection was opened. It sticks, as in browsers.
            retry: What an earlier connection set.
        """
        self.last_event_id = last_event_id
        self.retry = retry
        self.comments: list[str] = []
        self._line = bytearray()
        self._at_start = True
        self._after_cr = False
        self._data: list[str] = []
        self._event = ""
        self._id = last_event_id

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes, however cut, and return the events that they complete."""
        if not chunk:
            return []
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_cr = chunk.endswith(b"\r")
        events: list[Event] = []
        first, *others = _LINE_END.split(chunk)
        self._line += first
        for start_of_next in others:
            self._end_line(events)
            self._line += start_of_next
        return events

    def _end_line(self, events: list[Event]) -> None:
        # Bytes may be cut at line ends before they are decoded: no byte of a longer UTF-8 sequence
        # equals CR or LF, and a broken sequence is replaced up to the line end, which stays.
        line = bytes(self._line)
        self._line.clear()
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(BYTE_ORDER_MARK)
        text = line.decode("utf-8", "replace")
        if not text:
            self._dispatch(events)
        elif text.startswith(":"):
            self.comments.append(text[1:].removeprefix(" "))
        else:
            name, _, value = text.partition(":")
            self._take(name, value.removeprefix(" "))

    def _take(self, name: str, value: str) -> None:
        """Process one field; an unknown name is ignored, and names are compared exactly."""
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self._take_retry(value)

    def _take_retry(self, digits: str) -> None:
        # Chromium ignores what does not fit 64 bits; int() refuses thousands of digits.
        significant = digits.lstrip("0") or "0"
        if len(significant) <= 18:
            self.retry = int(significant)

    def _dispatch(self, events: list[Event]) -> None:
        """End the event: its id counts even where it has no data (9.2.6, first step)."""
        self.last_event_id = self._id
        if self._data:
            events.append(Event("\n".join(self._data), self._event or "message", self._id))
        self._data = []
        self._event = ""
