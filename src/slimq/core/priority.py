"""A priority queue with replacing and removing."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class PriorityQueue(Generic[K]):
    """A heap whose stale entries are dropped when they come up. Equal keys leave in the
    order they came."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[float, ...], int, K]] = []
        self._current: dict[K, int] = {}
        self._serial = 0

    def __len__(self) -> int:
        return len(self._current)

    def __contains__(self, item: K) -> bool:
        return item in self._current

    def push(self, item: K, key: tuple[float, ...]) -> None:
        self._serial += 1
        self._current[item] = self._serial
        heapq.heappush(self._heap, (key, self._serial, item))
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._current):
            self._heap = [entry for entry in self._heap if self._is_current(entry)]
            heapq.heapify(self._heap)

    def discard(self, item: K) -> None:
        self._current.pop(item, None)

    def least(self) -> tuple[float, ...] | None:
        while self._heap and not self._is_current(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop(self) -> K | None:
        if self.least() is None:
            return None
        _, _, item = heapq.heappop(self._heap)
        del self._current[item]
        return item

    def pop_until(self, key: tuple[float, ...]) -> list[K]:
        items: list[K] = []
        while (least := self.least()) is not None and least <= key:
            item = self.pop()
            assert item is not None, "what has a least item is not empty"
            items.append(item)
        return items

    def _is_current(self, entry: tuple[tuple[float, ...], int, K]) -> bool:
        return self._current.get(entry[2]) == entry[1]
