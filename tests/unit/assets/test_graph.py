"""A change to a file changes the names of those that lead to it, and of no other."""

from __future__ import annotations

import hashlib
import re
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sidearm.assets.folders import Folder
from sidearm.assets.graph import Asset, Graph

FILES = 6
LINKS = st.dictionaries(
    st.integers(0, FILES - 1), st.sets(st.integers(0, FILES - 1), max_size=3), max_size=FILES
)


def write(root: Path, number: int, links: dict[int, set[int]], comment: str = "") -> None:
    imports = "".join(f'import "./{each}.js";' for each in sorted(links.get(number, ())))
    (root / f"{number}.js").write_text(f"{imports}// {number} {comment}")


def hashed(root: Path, order: list[int]) -> dict[int, Asset]:
    """Every file's asset, as a fresh process has it that asks in an order."""
    graph = Graph(lambda: [Folder("static", str(root), "static/")], lambda *_: None)
    found = {number: graph.asset(("static", f"{number}.js")) for number in order}
    return {number: asset for number, asset in found.items() if asset is not None}


def reach(start: int, links: dict[int, set[int]]) -> set[int]:
    seen, waiting = set[int](), [start]
    while waiting:
        number = waiting.pop()
        if number not in seen:
            seen.add(number)
            waiting += links.get(number, ())
    return seen


@given(LINKS, st.integers(0, FILES - 1), st.permutations(range(FILES)))
def test_a1_exactly_those_change_that_lead_to_a_change(
    links: dict[int, set[int]], changed: int, order: list[int]
) -> None:
    """In whichever order they are asked for; with any circles among them."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number in range(FILES):
            write(root, number, links)
        before = hashed(root, list(range(FILES)))
        again = hashed(root, order)
        assert {n: a.hash for n, a in again.items()} == {n: a.hash for n, a in before.items()}
        assert len({asset.hash for asset in before.values()}) == FILES

        for number, asset in before.items():
            content = asset.content or (root / f"{number}.js").read_bytes()
            assert hashlib.sha384(content).digest() == asset.digest
            named = re.findall(r'"\./(\d\.\w{16}\.js)"', content.decode())
            children = [before[each].hashed_name for each in sorted(links.get(number, ()))]
            assert named == children

        write(root, changed, links, "changed")
        after = hashed(root, order)
        for number in range(FILES):
            is_new = after[number].hash != before[number].hash
            assert is_new == (changed in reach(number, links))
