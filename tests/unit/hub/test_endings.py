"""How a stream ends for good, and what those get who come later; on the log in the process."""

from __future__ import annotations

from typing import Any

import pytest

from sidearm.hub import log as log_module
from sidearm.hub.config import HubConfig
from sidearm.hub.eventstream import Parser, encode_body
from sidearm.hub.memory import MemoryHub
from sidearm.hub.messages import Fetch
from sidearm.hub.position import is_end


@pytest.fixture
def hub() -> MemoryHub:
    return MemoryHub()


def publish(hub: MemoryHub, channel: str, value: Any, *, end: bool = False) -> None:
    hub.publish([(channel, encode_body(value), True)], (0,) if end else ())


class Client:
    """One that polls."""

    def __init__(self, hub: MemoryHub, *channels: str, **fields: Any) -> None:
        self.hub, self.channels, self.fields = hub, channels, fields
        self.id = ""

    def poll(self) -> list[str]:
        """What comes next, as text; afterwards :attr:`has_ended` tells whether more can come."""
        parser = Parser(self.id)
        request = Fetch(self.channels, self.hub.position(), self.id or None, **self.fields)
        events = parser.feed(self.hub.fetch(request))
        self.id = parser.last_event_id
        return [f"{each.event}" if "sidearm" in each.event else each.data for each in events]

    @property
    def has_ended(self) -> bool:
        return is_end(self.id, self.channels)


def test_e7_stream_ends_after_the_last_event(hub: MemoryHub) -> None:
    """The last event comes, and with it the id that says so."""
    client = Client(hub, "job:7")
    assert client.poll() == []
    publish(hub, "job:7", "half")
    assert client.poll() == ["half"]
    assert not client.has_ended
    publish(hub, "job:7", "done", end=True)
    assert client.poll() == ["done"]
    assert client.has_ended


def test_e7_stream_of_several_channels_ends_with_the_last_of_them(hub: MemoryHub) -> None:
    """One that has ended stays silent; the others go on, also after a reconnection."""
    client = Client(hub, "job:7", "job:8")
    client.poll()
    publish(hub, "job:7", "seven is done", end=True)
    publish(hub, "job:8", "half")
    assert client.poll() == ["seven is done", "half"]
    assert not client.has_ended
    publish(hub, "job:8", "eight is done", end=True)
    assert client.poll() == ["eight is done"]
    assert client.has_ended


def test_e7_late_joiner_gets_the_last_event(hub: MemoryHub) -> None:
    """Who opens the page when all is over sees how it ended, and does not wait for ever."""
    publish(hub, "job:7", "half")
    publish(hub, "job:7", "done", end=True)
    client = Client(hub, "job:7", snapshot=b"data: how it stands\n\n")
    assert client.poll() == ["how it stands", "done"]
    assert client.has_ended


def test_e7_late_joiner_of_several_goes_on_from_now(hub: MemoryHub) -> None:
    """The last event of the one is old; the place to resume from is not."""
    publish(hub, "job:7", "done", end=True)
    publish(hub, "job:8", "old")
    client = Client(hub, "job:7", "job:8")
    assert client.poll() == ["done"]
    assert client.poll() == []
    publish(hub, "job:8", "new")
    assert client.poll() == ["new"]


@pytest.mark.parametrize("replay", [None, 60.0])
def test_e7_who_resumes_across_the_end_gets_everything_once(
    hub: MemoryHub, replay: float | None
) -> None:
    """What was missed, the last event, the end."""
    client = Client(hub, "job:7", replay=replay)
    client.poll()
    publish(hub, "job:7", "half")
    publish(hub, "job:7", "done", end=True)
    assert client.poll() == ["half", "done"]
    assert client.has_ended


def test_e7_newcomer_with_replay_gets_the_last_event_once(hub: MemoryHub) -> None:
    """It is in the history that was asked for."""
    publish(hub, "job:7", "half")
    publish(hub, "job:7", "done", end=True)
    assert Client(hub, "job:7", replay=60.0).poll() == ["half", "done"]


def test_e7_page_made_after_the_end_is_told_of_it_without_a_duplicate(hub: MemoryHub) -> None:
    """Its position lies after the last event, which it shows already."""
    publish(hub, "job:7", "done", end=True)
    client = Client(hub, "job:7")
    client.id = hub.position()
    assert client.poll() == []
    assert client.has_ended


def test_e7_end_is_known_for_longer_than_its_event() -> None:
    """Who comes back when the history has forgotten it gets the gap, and still the end."""
    hub = MemoryHub(HubConfig(socket="", history_count=0))
    client = Client(hub, "job:7", snapshot=b"data: how it stands\n\n")
    client.poll()
    publish(hub, "job:7", "done", end=True)
    assert client.poll() == ["sidearm:gap", "how it stands"]
    assert client.has_ended


def test_e7_event_after_the_end_opens_the_channel_again(hub: MemoryHub) -> None:
    """A channel's name may be used anew, for who joins then."""
    publish(hub, "job:7", "done", end=True)
    publish(hub, "job:7", "started again")
    client = Client(hub, "job:7")
    assert client.poll() == []
    assert not client.has_ended
    publish(hub, "job:7", "done again", end=True)
    assert client.poll() == ["done again"]
    assert client.has_ended


def test_e7_end_of_another_stream_is_a_place_and_no_end(hub: MemoryHub) -> None:
    """A page that goes on elsewhere with the id of a stream that ended misses nothing there."""
    client = Client(hub, "job:7")
    client.poll()
    publish(hub, "job:7", "done", end=True)
    client.poll()
    other = Client(hub, "orders")
    other.id = client.id
    publish(hub, "orders", "new")
    assert not other.has_ended
    assert other.poll() == ["new"]


def test_e7_ends_are_bounded(hub: MemoryHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel for each job does not make the hub grow; the oldest end is forgotten."""
    monkeypatch.setattr(log_module, "ENDS", 3)
    for number in range(10):
        publish(hub, f"job:{number}", "done", end=True)
    assert len(hub._log._ends) == 3
    client = Client(hub, "job:9")
    client.poll()
    assert client.has_ended


def test_h8_polled_stream_is_closed_by_its_tag(hub: MemoryHub) -> None:
    """Its next answer is the end; one with another tag goes on, and so does a new one."""
    clients = [Client(hub, "a", tags=(tag,)) for tag in ("user:7", "user:8")]
    for client in clients:
        client.poll()
    publish(hub, "a", "before")
    hub.close_streams("user:7")
    publish(hub, "a", "after")
    assert [client.poll() for client in clients] == [["before"], ["before", "after"]]
    assert [client.has_ended for client in clients] == [True, False]
    new = Client(hub, "a", tags=("user:7",))
    new.poll()
    assert not new.has_ended


def test_h8_view_that_ran_before_the_closing_opens_nothing(hub: MemoryHub) -> None:
    """A newcomer whose view let it in just before gets what came before the end, and the end."""
    seen = hub.position()
    publish(hub, "a", "good-bye")
    hub.close_streams("user:7")
    publish(hub, "a", "secret")
    parser = Parser()
    events = parser.feed(hub.fetch(Fetch(("a",), seen, tags=("user:7",))))
    assert [each.data for each in events] == ["good-bye"]
    assert is_end(parser.last_event_id, ("a",))


def test_h8_one_channel_of_several_is_taken_from_an_answer_on_its_way(hub: MemoryHub) -> None:
    """The view ran before; what it allowed then is not sent any more."""
    seen = hub.position()
    publish(hub, "a", "for everybody")
    publish(hub, "team", "secret")
    hub.close_streams("user:7", ("team",))
    parser = Parser()
    events = parser.feed(hub.fetch(Fetch(("a", "team"), seen, tags=("user:7",))))
    assert [each.data for each in events] == ["for everybody"]
    assert not is_end(parser.last_event_id, ("a", "team"))
