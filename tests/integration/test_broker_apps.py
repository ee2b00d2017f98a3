"""E3 to E5 where users meet them: applications on several machines that share a broker."""

from __future__ import annotations

import signal
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest
from broker_sites import Site
from broker_stores import PostgreSQLStore, RedisStore, Store
from live_servers import Live, collect, make_server, next_event
from needed import or_skip

from sidearm.exceptions import NotAStream, StreamEnded
from sidearm.hub import position
from sidearm.testing import EventSource

if TYPE_CHECKING:
    from collections.abc import Iterator

#: How each kind of worker treats a stream: hands it over, holds it, has it polled.
KINDS = {
    "handed over": ("gunicorn sync", {}),
    "held": ("gunicorn gevent", {"TESTED_SIDEARM_HANDOFF": "false"}),
    "polled": ("waitress", {}),
}


@pytest.fixture(
    scope="module", autouse=True, params=[RedisStore, PostgreSQLStore], ids=["redis", "postgresql"]
)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    store: Store = or_skip(request.param)
    with store.server:
        yield store


@pytest.fixture(scope="module", autouse=True)
def machines(store: Store) -> Iterator[dict[str, Live]]:
    """One machine of each kind: its own hub, its own worker, one broker for all."""
    with ExitStack() as stack:
        site = stack.enter_context(Site(store.url))
        made = {}
        for kind, (name, env) in KINDS.items():
            hub = site.hub()
            broker = {
                "TESTED_SIDEARM_BROKER": store.url,
                "TESTED_SIDEARM_BROKER_KEY": site.key,
            }
            server = make_server(name, hub.socket_path, "inline_streams:app", {**broker, **env})
            made[kind] = Live(stack.enter_context(server), hub.socket_path)
        yield made


def opened(live: Live, channel: str, last_event_id: str | None = None) -> EventSource:
    """A stream whose beginning has come."""
    source = EventSource(
        f"{live.url}/streams/{channel}", timeout=60, last_event_id=last_event_id or ""
    )
    if last_event_id is None:
        live.wait_until(lambda: _has_id(source), "a first id")
    return source


def _has_id(source: EventSource) -> bool:
    with suppress(TimeoutError):
        try:
            source.next_comment(0.1)
        except StreamEnded:  # a poll's answer
            if not source.last_event_id:
                source.reconnect(30)
    return bool(source.last_event_id)


@pytest.mark.parametrize("kind", KINDS)
def test_e5_every_kind_of_stream_hears_every_machine(machines: dict[str, Live], kind: str) -> None:
    """What any machine publishes arrives once and in order at every kind of stream."""
    channel = f"heard-{kind.split(maxsplit=1)[0]}"
    with opened(machines[kind], channel) as source:
        for number, live in enumerate(machines.values()):
            live.publish(channel, f"{number}a", f"{number}b")
            assert collect(source, 2) == [f"{number}a", f"{number}b"]


@pytest.mark.parametrize("kind", KINDS)
def test_e3_every_kind_resumes_ids_of_every_other(machines: dict[str, Live], kind: str) -> None:
    """An id of any kind of stream resumes at any other, without a gap or a duplicate."""
    channel = f"resumed-{kind.split(maxsplit=1)[0]}"
    with opened(machines[kind], channel) as source:
        machines[kind].publish(channel, "1", "2", "3")
        first = next_event(source)
        assert [first.data, *collect(source, 2)] == ["1", "2", "3"]
    for other in machines.values():
        with opened(other, channel, first.id) as again:
            assert collect(again, 2) == ["2", "3"]


@pytest.mark.parametrize("kind", KINDS)
def test_e3_a_first_id_resumes_anywhere(machines: dict[str, Live], kind: str) -> None:
    """The id that a client has before its first event is one of the log, too."""
    channel = f"first-{kind.split(maxsplit=1)[0]}"
    with opened(machines[kind], channel) as source:
        first = source.last_event_id
    machines[kind].publish(channel, "later")
    for other in machines.values():
        with opened(other, channel, first) as again:
            assert collect(again, 1) == ["later"]


@pytest.mark.parametrize("kind", KINDS)
def test_h8_an_old_stream_ends_with_an_id_of_the_log(machines: dict[str, Live], kind: str) -> None:
    """A client whose stream has reached its age may come back to any machine."""
    live = machines[kind]
    with EventSource(f"{live.url}/short/aged", timeout=60) as source:
        source.wait_for_end()
        assert source.last_event_id.startswith(live.figures().epoch)


@pytest.mark.parametrize("kind", KINDS)
def test_e4_a_page_joins_anywhere(machines: dict[str, Live], kind: str) -> None:
    """The position in a page of one machine is one for the streams of every other."""
    channel = f"joined-{kind.split(maxsplit=1)[0]}"
    rendered = machines[kind].get("/positions").decode()
    machines[kind].publish(channel, "after")
    for other in machines.values():
        with opened(other, channel, rendered) as source:
            assert collect(source, 1) == ["after"]


@pytest.mark.parametrize("kind", KINDS)
def test_e7_closing_by_tag_reaches_every_kind(machines: dict[str, Live], kind: str) -> None:
    """A tag that is closed on one machine ends its streams on every one, after what came before."""
    channel = tag = f"closed-{kind.split(maxsplit=1)[0]}"
    with ExitStack() as stack:
        open_ones = [
            stack.enter_context(EventSource(f"{live.url}/tagged/{channel}/{tag}", timeout=60))
            for live in machines.values()
        ]
        for live, source in zip(machines.values(), open_ones, strict=True):
            live.wait_until(lambda source=source: _has_id(source), "a first id")
        machines[kind].publish(channel, "bye")
        assert machines[kind].get(f"/close/{tag}", data=b"") == b"closed"
        for source in open_ones:
            assert next_event(source).data == "bye"
            with pytest.raises(NotAStream, match="204"):
                while True:
                    next_event(source)


@pytest.mark.parametrize("kind", KINDS)
def test_h6_no_request_fails_while_the_broker_stands_still(
    machines: dict[str, Live], store: Store, kind: str
) -> None:
    """Views publish, pages have their position and streams resume; what waited arrives."""
    live, channel = machines[kind], f"stopped-{kind.split(maxsplit=1)[0]}"
    with opened(live, channel) as source:
        live.publish(channel, "before")
        before = next_event(source)
        store.signal(signal.SIGSTOP)
        try:
            for number in range(20):
                live.publish(channel, str(number))
            assert position.parse(live.get("/positions").decode()) is not None
            with opened(live, channel, before.id) as again:
                store.signal(signal.SIGCONT)
                assert collect(again, 20) == [str(number) for number in range(20)]
        finally:
            store.signal(signal.SIGCONT)
        assert collect(source, 20) == [str(number) for number in range(20)]
