"""One watcher for all streams: hubs and streams beside each other (contracts H3, H4, T1)."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from hub_crowd import Crowd
from hub_streams import PATIENCE, Stream, event, figures_of, publish_all, wait_for, wait_for_hub

from sidearm.hub.client import HubClient
from sidearm.hub.config import HubConfig
from sidearm.hub.server import Server
from sidearm.testing import HubServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def start_process(stack: ExitStack, **settings: Any) -> tuple[HubServer, HubClient]:
    """A hub, and a worker's end of its socket."""
    server = stack.enter_context(HubServer(lambda path: HubConfig(socket=path, **settings)))
    client = HubClient(server.socket_path)
    stack.callback(client.close)
    wait_for_hub(client)
    return server, client


def start_in_thread(stack: ExitStack) -> tuple[Server, HubClient]:
    """The same in a thread of this process, as under ``flask run``."""
    folder = stack.enter_context(TemporaryDirectory(prefix="sa-"))
    server = Server(HubConfig(socket=f"{folder}/hub.sock", heartbeat=0))
    server.start_in_thread()
    stack.callback(server.stop)
    client = HubClient(server.config.socket)
    stack.callback(client.close)
    wait_for_hub(client)
    return server, client


def test_ss12_reader_that_never_reads_is_found_by_heartbeats_alone(stack: ExitStack) -> None:
    """Its kernel takes no more, and acknowledges no more: it is gone after the peer timeout."""
    server, hub = start_process(stack, heartbeat=0.001, peer_timeout=1.0)
    with Stream(hub, "a", small=True), Stream(hub, "b") as good:
        wait_for(server.socket_path, lambda figures: figures.subscribers == 2)
        gone = threading.Event()

        def wait_until_gone() -> None:
            wait_for(server.socket_path, lambda figures: figures.subscribers == 1)
            gone.set()

        waiting = threading.Thread(target=wait_until_gone)
        waiting.start()
        while not gone.is_set():
            good.read()
            good.raw = b""
            assert waiting.is_alive() or gone.is_set()
        waiting.join()
        assert figures_of(server.socket_path).pending_bytes == 0
        hub.publish([event("b", "still there")])
        assert good.data(1) == ["still there"]


def test_ss25_hub_that_stops_leaves_another_in_the_process_alone(stack: ExitStack) -> None:
    """Its streams end; those of the other go on."""
    first, one = start_in_thread(stack)
    _, other = start_in_thread(stack)
    with Stream(one, "a") as ends, Stream(other, "a") as goes_on:
        for hub in (one, other):
            wait_for(hub.socket_path, lambda figures: figures.subscribers == 1)
        first.stop()
        assert ends.rest() == []
        other.publish([event("a", "here")])
        assert goes_on.data(1) == ["here"]


def test_ss26_a_thousand_streams_have_one_watcher(stack: ExitStack) -> None:
    """No thread for each, no timer for each: all are served by one, which can begin again."""
    server, hub = start_process(stack, heartbeat=0)
    tasks = Path(f"/proc/{server.pid}/task")
    before = len(list(tasks.iterdir()))
    with Crowd(hub) as crowd:
        crowd.join(1000, "a")
        publish_all(hub, [event("a", 1)])
        crowd.read_until_all_have(1, 4 * PATIENCE)
        assert len(list(tasks.iterdir())) == before == 1
    wait_for(server.socket_path, lambda figures: figures.subscribers == 0)
    server.restart()
    wait_for_hub(hub)
    with Stream(hub, "a") as stream:
        wait_for(server.socket_path, lambda figures: figures.subscribers == 1)
        hub.publish([event("a", 2)])
        assert stream.data(1) == ["2"]


def test_ss27_streams_of_several_threads_are_woken_each_on_its_own(stack: ExitStack) -> None:
    """Threads of one worker hand their streams over together; each stream hears what is its own."""
    _, hub = start_process(stack, heartbeat=0)
    streams: dict[int, Stream] = {}
    ready = threading.Barrier(8)

    def open_one(number: int) -> None:
        ready.wait(PATIENCE)
        streams[number] = Stream(hub, f"channel-{number}")

    threads = [threading.Thread(target=open_one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for stream in streams.values():
        stack.enter_context(stream)
    wait_for(hub.socket_path, lambda figures: figures.subscribers == 8)
    for number in range(8):
        hub.publish([event(f"channel-{number}", number)])
        assert streams[number].data(1) == [str(number)]
    assert not any(stream.pending_events() for stream in streams.values())
