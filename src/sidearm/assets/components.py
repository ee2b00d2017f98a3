"""Strongly connected components, children first (Tarjan 1972), without recursion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Components(Generic[T]):
    """Finds what refers to one another, from one start.

    Args:
        children_of: What a node refers to; asked once for each.
    """

    def __init__(self, children_of: Callable[[T], Iterable[T]]) -> None:
        self._children_of = children_of
        self._order: dict[T, int] = {}
        self._low: dict[T, int] = {}
        self._open: dict[T, None] = {}  # in their order, as a stack
        self._work: list[tuple[T, Iterator[T]]] = []

    def find(self, start: T) -> Iterator[list[T]]:
        """Give the components that can be reached, each after those that it refers to.

        Args:
            start: The node to begin with.
        """
        self._visit(start)
        while self._work:
            node, children = self._work[-1]
            child = next((each for each in children if self._is_next(node, each)), None)
            if child is not None:
                self._visit(child)
                continue
            self._work.pop()
            if self._work:
                parent = self._work[-1][0]
                self._low[parent] = min(self._low[parent], self._low[node])
            if self._low[node] == self._order[node]:
                yield self._close(node)

    def _visit(self, node: T) -> None:
        self._order[node] = self._low[node] = len(self._order)
        self._open[node] = None
        self._work.append((node, iter(self._children_of(node))))

    def _is_next(self, node: T, child: T) -> bool:
        """Whether a child was not seen yet; one that is open lowers its parent."""
        if child in self._open:
            self._low[node] = min(self._low[node], self._order[child])
        return child not in self._order

    def _close(self, node: T) -> list[T]:
        together: list[T] = []
        while not together or together[-1] != node:
            together.append(self._open.popitem()[0])
        return together
