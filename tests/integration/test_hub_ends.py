"""How the hub ends streams: contracts E7, H7 and H8, with real sockets on both sides."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from hub_streams import PATIENCE, Stream, event, figures_of, publish_all, wait_for, wait_for_hub

from sidearm.hub.client import HubClient
from sidearm.hub.config import HubConfig
from sidearm.hub.link import Link
from sidearm.hub.messages import Close, encode
from sidearm.hub.position import is_end
from sidearm.testing import HubServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def start_hub() -> Iterator[Callable[..., HubClient]]:
    """Start a hub process with settings of its own; gives a worker's end of its socket."""
    with ExitStack() as stack:

        def start(**settings: Any) -> HubClient:
            make = lambda path: HubConfig(socket=path, **{"heartbeat": 0, **settings})  # noqa: E731
            server = stack.enter_context(HubServer(make))
            client = HubClient(server.socket_path)
            stack.callback(client.close)
            wait_for_hub(client)
            return client

        yield start


def finish(hub: HubClient, channel: str, data: Any) -> None:
    """Publish the last event of a channel."""
    hub.publish([event(channel, data)], ends=(0,))


def data_of(stream: Stream) -> list[str]:
    """The data of all events up to the stream's end."""
    return [each.data for each in stream.rest()]


# E7, a last event


def test_e7_last_event_ends_every_stream_of_its_channel(hub: HubClient) -> None:
    """All get it, with the id by which they are known when they come back; the others go on."""
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(hub, "job:7")) for _ in range(20)]
        other = stack.enter_context(Stream(hub, "job:8"))
        wait_for(hub.socket_path, lambda figures: figures.subscribers == 21)
        before = figures_of(hub.socket_path).ended
        hub.publish([event("job:7", "half")])
        finish(hub, "job:7", "done")
        for stream in streams:
            assert data_of(stream) == ["half", "done"]
            assert is_end(stream.parser.last_event_id, ["job:7"])
        figures = wait_for(hub.socket_path, lambda figures: figures.subscribers == 1)
        assert figures.ended - before == 20
        assert figures.pending_bytes == figures.buffer_bytes == 0
        finish(hub, "job:8", "done")
        assert data_of(other) == ["done"]


def test_e7_one_batch_may_end_one_channel_and_open_it_again(hub: HubClient) -> None:
    """What follows the end in the same message is for who joins later."""
    with Stream(hub, "job") as stream, Stream(hub, "job", "other") as both:
        wait_for(hub.socket_path, lambda figures: figures.subscribers == 2)
        hub.publish([event("job", 1), event("job", 2), event("job", 3)], ends=(1,))
        assert data_of(stream) == ["1", "2"]
        assert both.data(3) == ["1", "2", "3"]


def test_e7_slow_reader_gets_everything_up_to_the_last_event(hub: HubClient) -> None:
    """What its kernel buffer did not take follows, then the end, and nothing after it."""
    texts = [f"{n} " + "x" * 10_000 for n in range(60)]
    with Stream(hub, "job", small=True) as stream:
        wait_for(hub.socket_path, lambda figures: figures.subscribers == 1)
        publish_all(hub, [event("job", text) for text in texts])
        wait_for(hub.socket_path, lambda figures: figures.pending_bytes > 0)
        finish(hub, "job", "done")
        publish_all(hub, [event("job", "too late")])
        assert data_of(stream) == [*texts, "done"]
        assert is_end(stream.parser.last_event_id, ["job"])
    wait_for(hub.socket_path, lambda figures: figures.buffer_bytes == 0)


def test_e7_stream_that_is_handed_over_too_late_gets_the_last_event(hub: HubClient) -> None:
    """Its view ran before; the end came while it was on its way, or long ago."""
    place = wait_for_hub(hub)
    publish_all(hub, [event("job:late", "half")])
    finish(hub, "job:late", "done")
    with Stream(hub, "job:late", position=place) as stream:
        assert data_of(stream) == ["half", "done"]
        assert is_end(stream.parser.last_event_id, ["job:late"])
    with Stream(hub, "job:late") as stream:
        assert data_of(stream) == ["done"]
        assert is_end(stream.parser.last_event_id, ["job:late"])


def test_e7_late_joiner_of_several_resumes_from_now(hub: HubClient) -> None:
    """The last event of the one is older than what the stream begins with."""
    finish(hub, "job:early", "done")
    publish_all(hub, [event("other", "before it joined")])
    with Stream(hub, "job:early", "other") as stream:
        [done] = stream.events(1)
        assert done.data == "done"
        stream.read_until(lambda stream: stream.parser.last_event_id > done.id)
        place = stream.parser.last_event_id
    publish_all(hub, [event("other", "after it")])
    with Stream(hub, "job:early", "other", last_event_id=place) as stream:
        assert stream.data(1) == ["after it"]


def test_e7_client_that_still_talks_reads_to_the_end(hub: HubClient, hub_server: HubServer) -> None:
    """What it sent and the hub had not read is no reset, which some systems let eat the rest."""
    with Stream(hub, "job:talk") as stream:
        wait_for(hub.socket_path, lambda figures: figures.subscribers == 1)
        publish_all(hub, [event("b", "so that publishing is connected")])
        hub_server.send_signal(signal.SIGSTOP)
        try:
            os.waitid(os.P_PID, hub_server.pid, os.WSTOPPED)
            finish(hub, "job:talk", "done")
            stream.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
        finally:
            hub_server.send_signal(signal.SIGCONT)
        received = b""
        while data := stream.socket.recv(1 << 16):
            received += data
        wait_for(hub.socket_path, lambda figures: figures.subscribers == 0)
        # Where the end came before the reset, only this tells.
        assert stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert b"data: done\n\n" in received


# H8, closing by tag


def test_h8_streams_with_a_tag_end_and_the_others_go_on(hub: HubClient) -> None:
    """What was published before comes first; then the end, for good."""
    with ExitStack() as stack:
        mine = [stack.enter_context(Stream(hub, "a", tags=("all", "user:7"))) for _ in range(5)]
        others = [
            stack.enter_context(Stream(hub, "a", **fields))
            for fields in ({}, {"tags": ("all", "user:8")})
        ]
        wait_for(hub.socket_path, lambda figures: figures.subscribers == 7)
        hub.publish([event("a", "last words")])
        hub.close_streams("user:7")
        hub.publish([event("a", "only for the others")])
        for stream in mine:
            assert data_of(stream) == ["last words"]
            assert is_end(stream.parser.last_event_id, ["a"])
        for stream in others:
            assert stream.data(2) == ["last words", "only for the others"]


def test_h8_one_channel_is_taken_and_the_rest_goes_on(hub: HubClient) -> None:
    """Not a byte more of it; one that has no other channel ends."""
    with (
        Stream(hub, "a", "team", tags=("user:7",)) as two,
        Stream(hub, "team", tags=("user:7",)) as one,
        Stream(hub, "a", "team", tags=("user:8",)) as other,
    ):
        wait_for(hub.socket_path, lambda figures: figures.subscribers == 3)
        hub.publish([event("team", 1)])
        hub.close_streams("user:7", ("team", "elsewhere"))
        hub.publish([event("team", 2), event("a", 3)])
        assert two.data(2) == ["1", "3"]
        assert other.data(3) == ["1", "2", "3"]
        assert data_of(one) == ["1"]
        assert is_end(one.parser.last_event_id, ["team"])
        finish(hub, "a", "done")
        assert data_of(two) == ["done"]
        assert is_end(two.parser.last_event_id, ["a"])


def test_h8_stream_on_its_way_is_closed_too(hub: HubClient, hub_server: HubServer) -> None:
    """The closing and the hand-over meet in one wake-up, or the closing is earlier."""
    place = wait_for_hub(hub)
    publish_all(hub, [event("b", "so that publishing is connected")])
    hub_server.send_signal(signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, hub_server.pid, os.WSTOPPED)
        hub.close_streams("user:7")
        together = Stream(hub, "a", position=place, tags=("user:7",))
        hub.publish([event("a", "secret")])
    finally:
        hub_server.send_signal(signal.SIGCONT)
    later = Stream(hub, "a", position=place, tags=("user:7",))
    for stream in (together, later):
        with stream:
            assert data_of(stream) == []
            assert is_end(stream.parser.last_event_id, ["a"])
    with Stream(hub, "a", tags=("user:7",)) as new:  # its view ran after it
        hub.publish([event("a", "welcome back")])
        assert new.data(1) == ["welcome back"]


def test_h8_closing_that_arrives_late_spares_a_stream_that_is_newer(hub: HubClient) -> None:
    """Who logs in again while it waited in a worker is not logged out by the message before."""
    link = Link(hub.socket_path, "publish", PATIENCE)
    with Stream(hub, "a", tags=("user:7",)) as old:
        said = time.monotonic_ns()
        with Stream(hub, "a", tags=("user:7",)) as new:
            wait_for(hub.socket_path, lambda figures: figures.subscribers == 2)
            link.send(encode(Close("user:7", (), said)), PATIENCE)
            assert data_of(old) == []
            hub.publish([event("a", "for the new one")])
            assert new.data(1) == ["for the new one"]
    link.close()


def test_h8_slow_reader_is_closed_at_once(hub: HubClient) -> None:
    """What waits for it is not for it any more."""
    with Stream(hub, "a", small=True, tags=("user:7",)) as stream:
        wait_for(hub.socket_path, lambda figures: figures.subscribers == 1)
        publish_all(hub, [event("a", f"{n} " + "x" * 10_000) for n in range(60)])
        wait_for(hub.socket_path, lambda figures: figures.pending_bytes > 0)
        hub.close_streams("user:7")
        figures = wait_for(hub.socket_path, lambda figures: figures.subscribers == 0)
        assert figures.buffer_bytes == 0
        assert len(stream.rest()) < 60


# H8, the maximum age


def test_h8_old_stream_ends_and_resumes_without_gap_or_duplicate(hub: HubClient) -> None:
    """Events rain while a client is sent back again and again; it gets each once, in order."""
    count = 0
    seen: list[str] = []
    last_event_id: str | None = None
    deadline = time.monotonic() + PATIENCE
    connections = 0
    while connections < 3:
        assert time.monotonic() < deadline
        with Stream(hub, "rain", last_event_id=last_event_id, max_age=0.2) as stream:
            hub.publish([event("rain", count)])
            count += 1
            while stream.read():
                hub.publish([event("rain", count)])
                count += 1
            seen += [each.data for each in stream.pending_events()]
            last_event_id = stream.parser.last_event_id
            assert not is_end(last_event_id, ["rain"])
        connections += 1
        hub.publish([event("rain", count)])  # while nobody listens
        count += 1
    with Stream(hub, "rain", last_event_id=last_event_id) as stream:
        while len(seen) < count:
            seen += stream.data(1)
    assert seen == [str(number) for number in range(count)]
    assert figures_of(hub.socket_path).aged >= 3


def test_h8_quiet_old_stream_leaves_with_a_fresh_id(start_hub: Callable[..., HubClient]) -> None:
    """Without heartbeats, too: an hour of silence is no gap."""
    hub = start_hub()
    with Stream(hub, "a", max_age=0.2) as stream, Stream(hub, "a") as young:
        stream.read()
        first = stream.parser.last_event_id
        assert stream.rest() == []
        assert stream.parser.last_event_id > first
        wait_for(hub.socket_path, lambda figures: figures.subscribers == 1)
        hub.publish([event("a", "goes on")])
        assert young.data(1) == ["goes on"]


# H7, limits


def test_h7_streams_in_all_are_limited(start_hub: Callable[..., HubClient]) -> None:
    """One more gets what is due since its id, and the end; there is room when one leaves."""
    hub = start_hub(max_streams=3)
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(hub, "a")) for _ in range(3)]
        wait_for(hub.socket_path, lambda figures: figures.subscribers == 3)
        place = wait_for_hub(hub)
        publish_all(hub, [event("a", "due")])
        with Stream(hub, "a", last_event_id=place, retry=777) as refused:
            assert data_of(refused) == ["due"]
            assert refused.parser.retry == 777
            assert refused.parser.last_event_id > place
            assert not is_end(refused.parser.last_event_id, ["a"])
        for stream in streams:
            assert stream.data(1) == ["due"]
        streams.pop().close()
        wait_for(hub.socket_path, lambda figures: figures.subscribers == 2)
        streams.append(stack.enter_context(Stream(hub, "a")))
        hub.publish([event("a", "all hear")])
        assert [stream.data(1) for stream in streams] == [["all hear"]] * 3
        assert figures_of(hub.socket_path).refused_streams == 1


def test_h7_streams_of_an_address_are_limited(start_hub: Callable[..., HubClient]) -> None:
    """Each address for itself; who has closed one may open another; this machine is not counted."""
    hub = start_hub(max_streams_per_address=2)
    with ExitStack() as stack:

        def count(address: str, opened: int) -> int:
            """How many of so many streams are accepted."""
            before = figures_of(hub.socket_path)
            made = [Stream(hub, "a", address=address) for _ in range(opened)]
            for each in made:
                stack.callback(each.close)
            due = before.opened + before.refused_streams + opened
            after = wait_for(
                hub.socket_path, lambda figures: figures.opened + figures.refused_streams == due
            )
            open_streams.setdefault(address, []).extend(made)
            return after.opened - before.opened

        open_streams: dict[str, list[Stream]] = {}
        assert count("203.0.113.7", 5) == 2
        assert count("203.0.113.8", 2) == 2
        assert count("2001:db8::1", 1) + count("2001:db8::2", 2) == 2
        assert count("127.0.0.1", 5) == 5
        assert count("", 5) == 5
        before = figures_of(hub.socket_path).subscribers
        open_streams["203.0.113.7"][0].close()
        wait_for(hub.socket_path, lambda figures: figures.subscribers == before - 1)
        assert count("203.0.113.7", 2) == 1
