"""E5: which node of a Cluster has the log, whatever the nodes know of their own names."""

from __future__ import annotations

from typing import Any

import pytest

from sidearm.brokers.redis_places import Cluster

SEED, OTHER = 6379, 7777


@pytest.mark.parametrize(
    ("told", "host"),
    [(b"10.0.0.7", "10.0.0.7"), (None, "seed"), (b"", "seed"), (b"?", "seed")],
)
def test_e5_a_node_without_a_name_is_where_it_was_asked(
    monkeypatch: pytest.MonkeyPatch, told: bytes | None, host: str
) -> None:
    """With the port that the answer tells: that of the node which has the slot."""
    place = Cluster(f"redis+cluster://seed:{SEED}", "{shop}")
    rows: list[Any] = [[0, 16_383, [told, OTHER, b"id"]]]
    monkeypatch.setattr(place, "_asked", lambda: iter([("seed", SEED, rows)]))
    assert place._look().startswith(f"redis://{host}:{OTHER}/")
