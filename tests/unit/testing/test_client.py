"""The strict client over a socket; the ids are rows of the WPT list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from sidearm.exceptions import NotAStream, StreamEnded
from sidearm.testing import Event, EventSource

if TYPE_CHECKING:
    from collections.abc import Callable

    Opener = Callable[..., EventSource]

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
HEAD = OK + b"\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class Script(Protocol):
    url: str

    def say(self, *pieces: bytes) -> None: ...
    def hang_up(self) -> None: ...
    def request(self) -> str: ...


class TestReading:
    @pytest.mark.parametrize(
        "pieces",
        [
            [HEAD, b"data:a\n\ndata:b\n\n"],
            [HEAD + b"data:a\n\ndata:b\n", b"\n"],
            [bytes([byte]) for byte in HEAD + b"data:a\n\ndata:b\n\n"],
            [OK + b"Content-Length: 16\r\n\r\n", b"data:a\n\ndata:b\n\n"],
            [CHUNKED, b"9\r\ndata:a\n\nd\r\n7;x=y\r\nata:b\n\n\r\n0\r\nTrailer: t\r\n\r\n"],
            [
                bytes([byte])
                for byte in CHUNKED + b"9\r\ndata:a\n\nd\r\n7\r\nata:b\n\n\r\n0\r\n\r\n"
            ],
            [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + HEAD + b"data:a\n\ndata:b\n\n"],
        ],
        ids=["close", "one piece", "bytes", "length", "chunked", "chunked bytes", "informational"],
    )
    def test_bodies_of_every_framing(
        self, server: Script, event_source: Opener, pieces: list[bytes]
    ) -> None:
        """Whatever frames the body and however it is cut, the events are the same."""
        server.say(*pieces)
        server.hang_up()
        source = event_source(server.url)
        assert list(source) == [Event("a"), Event("b")]
        assert source.raw == b"data:a\n\ndata:b\n\n"
        assert source.ended
        assert not source.connection.truncated

    def test_what_the_source_shows(self, server: Script, event_source: Opener) -> None:
        """Status, headers in any case, the last id, the wait, the comments."""
        server.say(HEAD, b": hello\n\nretry: 1500\nid: 7\nevent: sold\ndata: a\n\n")
        source = event_source(server.url)
        assert source.next_event() == Event("a", "sold", "7")
        assert source.status == 200
        assert source.headers["cOnTeNt-TyPe"] == "text/event-stream"
        assert (source.last_event_id, source.retry, source.comments) == ("7", 1500, ["hello"])

    def test_a_wait_that_runs_out_loses_nothing(self, server: Script, event_source: Opener) -> None:
        """Half a chunk, a deadline, then the rest: the event is whole."""
        server.say(CHUNKED, b"8\r\ndata")
        source = event_source(server.url)
        with pytest.raises(TimeoutError, match=r"No event 1 from .* in time"):
            source.next_event(timeout=0.05)
        server.say(b":a\n\n\r\n")
        assert source.next_event() == Event("a")

    def test_events_before_a_deadline_stay_readable(
        self, server: Script, event_source: Opener
    ) -> None:
        """Two of three came: waiting for three fails, and both are still there."""
        server.say(HEAD, b"data:a\n\ndata:b\n\n")
        source = event_source(server.url)
        with pytest.raises(TimeoutError, match="2 events are unread"):
            source.events(3, timeout=0.2)
        assert [event.data for event in source.events(2)] == ["a", "b"]

    def test_comments_are_read_beside_events(self, server: Script, event_source: Opener) -> None:
        """Waiting for a heartbeat leaves the events unread, and sees each comment once."""
        server.say(HEAD, b": 1\n\ndata:a\n\n: 2\n\n")
        source = event_source(server.url)
        assert [source.next_comment(), source.next_comment()] == ["1", "2"]
        assert source.next_event() == Event("a")
        with pytest.raises(TimeoutError, match="No comment"):
            source.next_comment(timeout=0.05)

    def test_waiting_for_the_end(self, server: Script, event_source: Opener) -> None:
        """It returns what was not read, and fails while the stream is open."""
        server.say(HEAD, b"data:a\n\ndata:b\n\ndata:unfinished\n")
        source = event_source(server.url)
        source.next_event()
        with pytest.raises(TimeoutError, match="No end"):
            source.wait_for_end(timeout=0.05)
        server.hang_up()
        assert source.wait_for_end() == [Event("b")]

    def test_a_body_that_is_cut_short_says_so(self, server: Script, event_source: Opener) -> None:
        """A chunked body without its last chunk ended, but not as it should."""
        server.say(CHUNKED, b"8\r\ndata:a\n\n\r\n")
        server.hang_up()
        source = event_source(server.url)
        assert source.wait_for_end() == [Event("a")]
        assert source.connection.truncated

    @pytest.mark.parametrize("chunk", [b"x\r\n", b"2\r\nabc\r\n", b"1" * 5000])
    def test_broken_chunks_are_an_error(
        self, server: Script, event_source: Opener, chunk: bytes
    ) -> None:
        """The client does not guess."""
        server.say(CHUNKED, chunk)
        server.hang_up()
        with pytest.raises(ConnectionError, match="chunk"):
            event_source(server.url).next_event()

    def test_over_a_unix_socket(
        self, unix_server: tuple[Script, str], event_source: Opener
    ) -> None:
        """The URL says host and path, the socket's path where to connect."""
        server, path = unix_server
        server.say(HEAD, b"data:a\n\n")
        assert event_source("http://shop/s", socket_path=path).next_event() == Event("a")
        assert server.request().startswith("GET /s HTTP/1.1\r\nHost: shop\r\n")

    def test_ss_30_leaving_the_block_closes(self, server: Script) -> None:
        """What came can be read afterwards; nothing more comes."""
        server.say(HEAD + b"data:a\n\ndata:b\n\n")
        with EventSource(server.url) as source:
            source.events(1)
        assert source.events(1) == [Event("b")]
        with pytest.raises(StreamEnded):
            source.next_event()


class TestAsking:
    def test_wh_29_wh_30_what_is_asked(self, server: Script, event_source: Opener) -> None:
        """It accepts the one type, wants no cache's answer, and adds the test's headers."""
        server.say(HEAD)
        event_source(server.url, headers={"Cookie": "a=b"})
        request = server.request()
        assert request.startswith("GET /stream?a=b HTTP/1.1\r\n")
        assert "\r\nAccept: text/event-stream\r\n" in request
        assert "\r\nCache-Control: no-store\r\n" in request
        assert "\r\nCookie: a=b\r\n" in request
        assert "Last-Event-ID" not in request

    def test_wh_05_an_unfinished_event_is_not_asked_after(
        self, server: Script, event_source: Opener
    ) -> None:
        """The next connection asks from the last whole event."""
        server.say(HEAD, b"id:6\ndata:a\n\nid:7\ndata:b\n")
        server.hang_up()
        source = event_source(server.url)
        assert [event.id for event in source] == ["6"]
        server.say(HEAD)
        source.reconnect()
        assert "Last-Event-ID" not in server.request()
        assert "\r\nLast-Event-ID: 6\r\n" in server.request()

    def test_wh_16_the_id_is_sent_as_utf_8_each_time(
        self, server: Script, event_source: Opener
    ) -> None:
        """Any letters come back, and stick over connections that bring no id."""
        server.say(HEAD, "id:…馬\nretry:5\ndata:a\n\n".encode())
        source = event_source(server.url)
        source.next_event()
        server.request()
        for _ in range(2):
            server.hang_up()
            server.say(HEAD, b"data:b\n\n")
            source.reconnect()
            assert "\r\nLast-Event-ID: …馬\r\n" in server.request()
            assert source.next_event() == Event("b", id="…馬")
            assert source.retry == 5

    def test_starting_from_an_id(self, server: Script, event_source: Opener) -> None:
        """A test can be a client that comes back."""
        server.say(HEAD)
        event_source(server.url, last_event_id="e-1")
        assert "\r\nLast-Event-ID: e-1\r\n" in server.request()

    def test_wh_27_a_stream_that_ended_is_resumed(
        self, server: Script, event_source: Opener
    ) -> None:
        """The end is an error to who waits, naming the cure; then the next events come."""
        server.say(HEAD, b"id:1\ndata:a\n\n")
        server.hang_up()
        source = event_source(server.url)
        with pytest.raises(StreamEnded, match=r"ended after 1 .*reconnect\(\)") as caught:
            source.events(2)
        assert caught.value.events == [Event("a", id="1")]
        server.say(HEAD, b"id:2\ndata:b\n\n")
        source.reconnect()
        assert [event.id for event in source.events(2)] == ["1", "2"]

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_wh_28_redirects_are_followed(
        self, server: Script, event_source: Opener, status: int
    ) -> None:
        """The stream may be somewhere else."""
        server.say(b"HTTP/1.1 %d Moved\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n" % status)
        server.hang_up()
        server.say(HEAD, b"data:a\n\n")
        source = event_source(server.url)
        assert source.next_event() == Event("a")
        assert source.url.endswith("/there")

    @pytest.mark.parametrize("headers", [{"X": "a\r\nEvil: b"}, {"X\n": "a"}])
    def test_a_header_cannot_inject_another(self, server: Script, headers: dict[str, str]) -> None:
        """A line end in a header is the test's mistake, and said."""
        with pytest.raises(ValueError, match="line end"):
            EventSource(server.url, headers=headers)

    def test_only_http(self) -> None:
        """TLS is for a proxy's own tests."""
        with pytest.raises(ValueError, match="Give one that starts with http://"):
            EventSource("https://127.0.0.1/")


class TestRefusing:
    @pytest.mark.parametrize(
        "content_type",
        [
            "text/event-stream",
            "text/event-stream;charset=windows-1252",
            "text/event-stream;",
            "TEXT/Event-Stream ; charset=utf-8",
        ],
    )
    def test_wh_22_wh_23_parameters_do_not_matter(
        self, server: Script, event_source: Opener, content_type: str
    ) -> None:
        """An event stream is UTF-8 whatever its parameters say, also if there are none."""
        server.say(f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n".encode())
        server.say("data:…\n\n".encode())
        assert event_source(server.url).next_event() == Event("…")

    @pytest.mark.parametrize(
        "content_type",
        [
            "Content-Type: text/html",
            "Content-Type: text/event-stream-x",
            "Content-Type: text event-stream",
            "Content-Type: ",
            "X: y",
            "Content-Type: text/event-stream\r\nContent-Type: text/event-stream",
        ],
    )
    def test_wh_24_another_type_is_refused(self, server: Script, content_type: str) -> None:
        """The error shows what came: the type, and where the body starts."""
        server.say(f"HTTP/1.1 200 OK\r\n{content_type}\r\nContent-Length: 4\r\n\r\nOops".encode())
        with pytest.raises(NotAStream, match="b'Oops'") as caught:
            EventSource(server.url)
        assert caught.value.status == 200

    @pytest.mark.parametrize("status", [204, 205, 210, 299, 404, 410, 500, 503])
    def test_wh_25_another_status_is_refused(self, server: Script, status: int) -> None:
        """A browser closes for good; the type does not help."""
        server.say(OK.replace(b"200", b"%d" % status) + b"Content-Length: 0\r\n\r\n")
        with pytest.raises(NotAStream, match=f"status {status}") as caught:
            EventSource(server.url)
        assert caught.value.status == status

    @pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200", b"SMTP ready\r\n\r\n"])
    def test_what_is_no_http_is_an_error(self, server: Script, answer: bytes) -> None:
        """Nothing, half a head, another protocol."""
        server.say(answer)
        server.hang_up()
        with pytest.raises(ConnectionError, match=r"response head|status line"):
            EventSource(server.url)

    def test_a_head_that_does_not_come(self, server: Script) -> None:
        """The deadline counts for it too."""
        with pytest.raises(TimeoutError):
            EventSource(server.url, timeout=0.05)
