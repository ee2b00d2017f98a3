"""``text/event-stream`` written and read; the ids are rows of the WPT and sse-starlette lists."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import enum
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidearm.exceptions import FieldTypeError, InvalidChannel, InvalidField, SidearmError
from sidearm.hub.eventstream import (
    Event,
    Parser,
    check_channel,
    comment,
    encode,
    encode_body,
    encode_data,
    frame,
    retry_field,
)

BOM = "\ufeff"


def whole(stream: bytes) -> Iterator[bytes]:
    yield stream


def one_byte_at_a_time(stream: bytes) -> Iterator[bytes]:
    yield from (stream[i : i + 1] for i in range(len(stream)))


def with_empty_chunks(stream: bytes) -> Iterator[bytes]:
    for byte in one_byte_at_a_time(stream):
        yield b""
        yield byte


class Reading:
    """A parser and what it has returned."""

    def __init__(self, cut: object, last_event_id: str = "") -> None:
        self.parser = Parser(last_event_id)
        self.events: list[Event] = []
        self._cut = cut

    def __call__(self, stream: str | bytes) -> list[Event]:
        """Feed, cut as this test's parameter says; returns what this piece completed."""
        raw = stream.encode() if isinstance(stream, str) else stream
        new = [event for chunk in self._cut(raw) for event in self.parser.feed(chunk)]  # type: ignore[operator]
        self.events += new
        return new

    @property
    def data(self) -> list[str]:
        return [event.data for event in self.events]

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.events]


@pytest.fixture(params=[whole, one_byte_at_a_time, with_empty_chunks], ids=lambda cut: cut.__name__)
def read(request: pytest.FixtureRequest) -> Reading:
    """A fresh parser, fed whole or in pieces: the pieces must never show."""
    return Reading(request.param)


class TestParser:
    def test_wh_01_only_the_first_byte_order_mark_is_skipped(self, read: Reading) -> None:
        """A BOM later in the stream belongs to its line, which then names no known field."""
        read(f"{BOM}data:a\n\n{BOM}data:b\n\ndata:c\n\n")
        assert read.data == ["a", "c"]

    def test_wh_02_of_two_byte_order_marks_one_is_skipped(self, read: Reading) -> None:
        """The second BOM at the start is part of the first line."""
        read(f"{BOM}{BOM}data:a\n\ndata:b\n\n")
        assert read.data == ["b"]

    def test_wh_03_comments_and_mixed_line_ends_leave_the_event_whole(self, read: Reading) -> None:
        """Comments of any kind between data lines change nothing."""
        long = "x" * 5_000
        read(f"data:a\r:\0\n:\r\ndata:b\n:{long}\r:data:no\r\ndata:c\r\n\n")
        assert read.data == ["a\nb\nc"]
        assert read.parser.comments == ["\0", "", long, "data:no"]

    def test_wh_04_an_unfinished_event_is_not_delivered(self, read: Reading) -> None:
        """What has no blank line when the stream ends never happened."""
        read("id:6\ndata:a\n\nid:7\ndata:b\n")
        assert read.data == ["a"]

    def test_wh_05_an_unfinished_event_leaves_the_last_id_alone(self, read: Reading) -> None:
        """The next connection asks from the last event that came whole."""
        read("id:6\ndata:a\n\nid:7\ndata:b\n")
        assert read.parser.last_event_id == "6"

    def test_wh_06_data_without_a_value_is_an_event(self, read: Reading) -> None:
        """Empty data is data."""
        read("data:\n\n")
        assert read.data == [""]

    def test_wh_07_two_data_lines_without_a_colon(self, read: Reading) -> None:
        """A line without a colon is a field with an empty value."""
        read("data\ndata\n\n")
        assert read.data == ["\n"]

    def test_wh_08_one_leading_space_is_taken_away_and_nothing_else(self, read: Reading) -> None:
        """A tab stays, and so does the second of two spaces."""
        read("data:\ta\n\ndata:  b\n\ndata: c\n\n")
        assert read.data == ["\ta", " b", "c"]

    def test_wh_09_a_carriage_return_ends_the_event_at_once(self, read: Reading) -> None:
        """The parser does not wait for the LF that may follow a CR."""
        assert read("data:a\r\ndata\ndata:b\r\n\r") == [Event("a\n\nb")]

    def test_wh_10_a_line_feed_in_the_next_chunk_is_no_second_blank_line(
        self, read: Reading
    ) -> None:
        """CRLF is one line end, wherever it is cut."""
        read("data:a\r\n\r")
        assert read("\ndata:b\r") == []
        assert read("\n\r\n") == [Event("b")]

    @pytest.mark.parametrize("name", ["Data", "data\0", "\0data", "da-ta", "data_f", " data"])
    def test_wh_11_field_names_are_compared_letter_by_letter(
        self, read: Reading, name: str
    ) -> None:
        """A name that is nearly ``data`` is another field, and ignored."""
        read(f"{name}:no\n\ndata:yes\n{name}:no\n\n")
        assert read.data == ["yes"]

    def test_wh_12_unknown_lines_leave_the_event_whole(self, read: Reading) -> None:
        """Plain text and unknown fields between data lines are ignored."""
        read("data:a\nplain text\nunknown:field\ndata:b\n\n")
        assert read.data == ["a\nb"]

    def test_wh_13_an_empty_type_is_an_ordinary_message(self, read: Reading) -> None:
        """``event:`` with nothing after it names no type."""
        read("event: \ndata:a\n\n")
        assert read.events == [Event("a", "message")]

    def test_wh_14_the_type_does_not_stick(self, read: Reading) -> None:
        """Each event has its own type, also after one that had no data."""
        read("event:t\ndata:a\n\ndata:b\n\nevent:lost\n\ndata:c\n\n")
        assert [event.event for event in read.events] == ["t", "message", "message"]

    def test_wh_15_the_last_id_sticks_and_an_empty_one_resets_it(self, read: Reading) -> None:
        """An event without an id has the id of the event before it."""
        read("id:1\ndata:a\n\ndata:b\n\nid:2\ndata:c\n\nid:\ndata:d\n\ndata:e\n\n")
        assert read.ids == ["1", "1", "2", "", ""]

    def test_wh_16_an_id_of_any_letters_is_kept(self, read: Reading) -> None:
        """The id need not be ASCII, and comes back as it was."""
        read("id:…žluťoučký 馬\ndata:a\n\n")
        assert read.parser.last_event_id == read.ids[0] == "…žluťoučký 馬"

    @pytest.mark.parametrize("id", ["\0x", "x\0x", "x\0", "\0", " \0"])
    def test_wh_17_an_id_with_nul_is_ignored(self, read: Reading, id: str) -> None:
        """The id before it stays."""
        read(f"id:6\ndata:a\n\nid:{id}\ndata:b\n\n")
        assert read.ids == ["6", "6"]

    def test_wh_18_nul_in_data_is_kept(self, read: Reading) -> None:
        """NUL is a character like others in data."""
        read("data:\0\n\n")
        assert read.data == ["\0"]

    def test_wh_19_retry_is_decimal_with_leading_zeros(self, read: Reading) -> None:
        """``0300`` is three hundred milliseconds, not octal."""
        read("retry:0300\n")
        assert read.parser.retry == 300

    @pytest.mark.parametrize(
        "value", ["100x", "x", "-1", "+1", "1.5", "1_0", " 7", "٣", "9" * 5000]
    )
    def test_wh_20_a_retry_of_other_than_ascii_digits_is_ignored(
        self, read: Reading, value: str
    ) -> None:
        """The wait that was set before stays; one space after the colon is no part of the value."""
        read(f"retry:300\nretry: {value}\n")
        assert read.parser.retry == 300

    def test_wh_21_a_retry_without_a_value_is_ignored(self, read: Reading) -> None:
        """It sets nothing, and the event that follows is delivered."""
        read("retry\nretry:\ndata:a\n\n")
        assert read.parser.retry is None
        assert read.data == ["a"]

    def test_wh_22_the_stream_is_utf_8_and_nothing_else(self, read: Reading) -> None:
        """Broken sequences become U+FFFD and never swallow a line end."""
        read(b"data:ok\xe2\x80\xa6\n\ndata:cut\xe2\x80\n\ndata:win\x85\r\rdata:\xff\xfe\n\n")
        assert read.data == ["ok…", "cut\ufffd", "win\ufffd", "\ufffd\ufffd"]

    def test_line_separators_of_unicode_end_no_line(self, read: Reading) -> None:
        """Only CR, LF and CRLF do; str.splitlines() would see eight more."""
        read("data:a\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029b\n\n")
        assert read.data == ["a\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029b"]

    def test_an_id_without_data_counts_and_dispatches_nothing(self, read: Reading) -> None:
        """A quiet stream can move the client's id forward."""
        assert read("id:9\n\n") == []
        assert read.parser.last_event_id == "9"
        assert read("data:a\n\n") == [Event("a", id="9")]

    def test_the_id_of_the_connection_sticks(self) -> None:
        """After a reconnection an event without an id keeps the id that was asked with."""
        assert Parser("5").feed(b"data:a\n\n") == [Event("a", id="5")]

    def test_colons_in_a_value_are_part_of_it(self, read: Reading) -> None:
        """Only the first colon divides."""
        read("data: a: b:c\n\n")
        assert read.data == ["a: b:c"]


class TestEncoder:
    @pytest.mark.parametrize("id", ["\0x", "x\0x", "x\0", "\0", " \0"])
    def test_wh_17_an_id_with_nul_is_refused(self, id: str) -> None:
        """A client would ignore the field, and resume from somewhere else."""
        with pytest.raises(InvalidField, match="id"):
            encode("a", id=id)

    def test_ss_01_all_fields_once_and_one_blank_line(self) -> None:
        """Data, type, id and retry, each once, ended by one blank line."""
        assert encode("d", event="e", id="7", retry=300) == (
            b"retry: 300\nid: 7\nevent: e\ndata: d\n\n"
        )

    def test_ss_02_a_comment_is_no_event(self, read: Reading) -> None:
        """Alone or before an event, a comment is valid and dispatches nothing."""
        assert read(comment() + comment("two\r\nlines\rand\nmore")) == []
        assert read(comment("x") + encode("a")) == [Event("a")]
        assert read.parser.comments == ["", "two", "lines", "and", "more", "x"]

    @pytest.mark.parametrize("inside", ["\n", "\r", "\r\n"], ids=["lf", "cr", "crlf"])
    @pytest.mark.parametrize("beside", ["\n", "\r", "\r\n"], ids=["lf", "cr", "crlf"])
    def test_ss_03_each_line_of_data_is_a_data_line(
        self, read: Reading, inside: str, beside: str
    ) -> None:
        """Every kind of line end starts another data line, in every neighbourhood.

        This encoder writes one line end only, LF; the nine pairs are those that data can hold.
        """
        read(encode(f"a{inside}b{beside}x: c"))
        assert read.data == ["a\nb\nx: c"]
        assert encode_data(f"a{inside}b{beside}").count(b"data: ") == 3

    def test_ss_04_a_structure_is_json_on_one_line(self) -> None:
        """Line ends inside strings are escaped by JSON, not cut by the stream."""
        assert encode_data({"text": "a\nb\rc", "n": [1, None, True]}) == (
            b'data: {"text":"a\\nb\\rc","n":[1,null,true]}\n'
        )

    @pytest.mark.parametrize("retry", [1.5, "300", True, b"1", [300]])
    def test_ss_05_a_retry_that_is_no_whole_number_is_refused(self, retry: object) -> None:
        """The error is a TypeError and names the value and the cure."""
        with pytest.raises(TypeError, match=r"retry is of type \w+: .*3000") as caught:
            encode("a", retry=retry)  # type: ignore[arg-type]
        assert isinstance(caught.value, FieldTypeError)
        assert caught.value.value is retry

    def test_ss_06_the_callers_value_is_unchanged(self) -> None:
        """Encoding reads and never writes."""
        value = {"a": [1, {"b": "c"}]}
        before = copy.deepcopy(value)
        encode(value, id="1")
        assert value == before

    @pytest.mark.parametrize(
        ("sent", "received"),
        [
            ("\n\n\n", "\n\n\n"),
            ("one\revent: steal", "one\nevent: steal"),
            ("", ""),
            (" leading blank", " leading blank"),
            ("a\r\n\rb", "a\n\nb"),
        ],
    )
    def test_c8_what_a_browser_reads(self, read: Reading, sent: str, received: str) -> None:
        """The case C8: five ordinary messages, no injected field."""
        assert read(encode(sent)) == [Event(received)]

    @pytest.mark.parametrize("field", ["event", "id"])
    @pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\0"])
    @pytest.mark.parametrize("value", ["{}x", "x{}", "x{}data: y", "{}"])
    def test_a_field_cannot_be_ended_by_its_value(self, field: str, end: str, value: str) -> None:
        """No id and no type can inject another field."""
        hostile = value.format(end)
        with pytest.raises(InvalidField) as caught:
            encode("a", **{field: hostile})  # type: ignore[arg-type]
        assert (caught.value.field, caught.value.value) == (field, hostile)

    @pytest.mark.parametrize("field", ["event", "id"])
    @pytest.mark.parametrize("value", [7, b"7", ["7"], True])
    def test_a_field_is_text(self, field: str, value: object) -> None:
        """An id that is no str is refused with the str to give."""
        with pytest.raises(TypeError, match=rf"{field} is of type .*Give a str"):
            encode("a", **{field: value})  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "arguments",
        [
            {"data": "\ud800"},
            {"data": {"deep": ["\udfff"]}},
            {"data": "a", "event": "\ud800"},
            {"data": "a", "id": "\ud800"},
        ],
    )
    def test_a_lone_surrogate_is_refused(self, arguments: dict[str, object]) -> None:
        """UTF-8 cannot carry it; the error is a ValueError that says so."""
        with pytest.raises(ValueError, match="lone surrogate"):
            encode(**arguments)  # type: ignore[arg-type]
        with pytest.raises(InvalidField):
            comment("\ud800")

    def test_a_negative_retry_is_refused(self) -> None:
        """A client would ignore it."""
        with pytest.raises(InvalidField, match="retry is -1"):
            retry_field(-1)

    @pytest.mark.parametrize("data", [object(), 3 + 4j, {"a": object()}, {(1, 2): 3}, lambda: 1])
    def test_what_json_cannot_hold_is_refused(self, data: object) -> None:
        """The error is a TypeError that names the value's type and the cure."""
        with pytest.raises(TypeError, match=rf"type {type(data).__name__}.*JSON.*Give") as caught:
            encode(data)
        assert isinstance(caught.value, SidearmError)
        assert caught.value.__cause__ is not None

    def test_a_value_inside_itself_is_refused(self) -> None:
        """The recursion becomes the same error."""
        loop: list[object] = []
        loop.append(loop)
        with pytest.raises(FieldTypeError, match="recursion"):
            encode(loop)

    @pytest.mark.parametrize("data", [b"a\xff", bytearray(b"\xed\xa0\x80")])
    def test_bytes_that_are_not_utf_8_are_refused(self, data: bytes) -> None:
        """A client would read replacement characters."""
        with pytest.raises(InvalidField, match="base64"):
            encode(data)

    @pytest.mark.parametrize("data", [b"a\r\n\xe2\x80\xa6", bytearray(b"a\n\xe2\x80\xa6"), "a\r…"])
    def test_text_and_bytes_go_as_they_are(self, read: Reading, data: object) -> None:
        """Neither is quoted."""
        assert read(encode(data)) == [Event("a\n…")]

    def test_what_msgspec_knows_goes_as_json(self) -> None:
        """Dataclasses, Structs, dates; None is ``null``, so that every client can parse it."""

        @dataclasses.dataclass
        class Point:
            x: int

        class Named(msgspec.Struct):
            name: str

        class Colour(enum.Enum):
            RED = "red"

        values = [Point(1), Named("n"), dt.date(2026, 1, 2), Colour.RED, None, 2.5]
        assert encode_data(values) == (
            b'data: [{"x":1},{"name":"n"},"2026-01-02","red",null,2.5]\n'
        )
        assert encode_data(None) == b"data: null\n"

    def test_raw_json_on_several_lines_injects_nothing(self, read: Reading) -> None:
        """What msgspec passes on verbatim is cut into data lines like text."""
        assert read(encode(msgspec.Raw(b'{\n"id": 1}'))) == [Event('{\n"id": 1}')]

    def test_a_frame_of_a_body(self, read: Reading) -> None:
        """A worker's body and the log's id make the frame; a bare id dispatches nothing."""
        body = encode_body({"n": 1}, "sold")
        assert body == b'event: sold\ndata: {"n":1}\n'
        assert frame(body, "e-1") == b"id: e-1\n" + body + b"\n"
        assert frame(body, None) == body + b"\n"
        assert read(frame(b"", "e-2")) == []
        assert read.parser.last_event_id == "e-2"

    def test_retry_alone_dispatches_nothing(self, read: Reading) -> None:
        """It is a frame of its own."""
        assert read(retry_field(2000) + encode("a")) == [Event("a")]
        assert read.parser.retry == 2000


# Every character that UTF-8 can carry, with those that matter more often than chance would.
text = st.text(
    st.one_of(
        st.sampled_from("\r\n\0: \t\ufeff\u2028\x85"), st.characters(exclude_categories=["Cs"])
    )
)
line = text.map(lambda value: value.translate({10: None, 13: None, 0: None}))


def normalised(data: str) -> str:
    return data.replace("\r\n", "\n").replace("\r", "\n")


@given(
    st.lists(
        st.tuples(text, st.none() | line, st.none() | line, st.none() | st.integers(0, 10**9))
    ),
    st.integers(1, 7),
)
def test_what_is_written_is_read(
    sent: list[tuple[str, str | None, str | None, int | None]], size: int
) -> None:
    """Any event comes out of a strict parser as it went in, with its newlines normalised."""
    stream = b"".join(encode(data, event=e, id=i, retry=r) for data, e, i, r in sent)
    parser = Parser()
    read = [
        event for at in range(0, len(stream), size) for event in parser.feed(stream[at : at + size])
    ]
    expected, last_id = [], ""
    for data, event, own_id, _ in sent:
        last_id = last_id if own_id is None else own_id
        expected.append(Event(normalised(data), event or "message", last_id))
    assert read == expected
    assert parser.last_event_id == last_id
    assert parser.retry == next((retry for *_, retry in reversed(sent) if retry is not None), None)


@given(st.binary(), st.data())
def test_any_bytes_are_read_alike_however_they_are_cut(stream: bytes, data: st.DataObject) -> None:
    """The parser raises for nothing, and chunk borders never show."""
    cut = data.draw(st.integers(0, len(stream)))
    parser, other = Parser(), Parser()
    assert parser.feed(stream) == other.feed(stream[:cut]) + other.feed(stream[cut:])
    assert parser.last_event_id == other.last_event_id


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=5,
    )
)
def test_json_is_one_line(value: object) -> None:
    """Whatever a structure holds, it is one data line that decodes to the same value."""
    if isinstance(value, str):
        value = [value]
    raw = encode_data(value)
    assert raw.startswith(b"data: ")
    assert (raw.count(b"\n"), raw.count(b"\r")) == (1, 0)
    assert msgspec.json.decode(raw[6:]) == value


class TestCheckChannel:
    @pytest.mark.parametrize("name", ["a", "user:7", "a b", "Größe/馬", "x" * 200, "ö" * 100])
    def test_a_channel(self, name: str) -> None:
        """Printable text up to 200 bytes is a channel's name."""
        assert check_channel(name) == name

    @pytest.mark.parametrize(
        "name",
        ["", "a\nb", "\0", "\x7f", "a\u2028", "\ud800", "x" * 201, "ö" * 101, b"a", None, 7, ["a"]],
    )
    def test_no_channel(self, name: object) -> None:
        """Everything else is refused with the value and the rule."""
        with pytest.raises(InvalidChannel, match="Give a non-empty string of printable") as caught:
            check_channel(name)
        assert caught.value.channel is name
        assert isinstance(caught.value, ValueError)
