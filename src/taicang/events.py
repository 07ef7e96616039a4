"""A heap of events. Events at one time come out in the order of their kind, then of their making."""

from __future__ import annotations

import heapq
from typing import Any


class Events:
    """Times are integers; ``version`` lets a holder of an event call it off by counting on."""

    __slots__ = ("_heap", "_made")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Any, int]] = []
        self._made = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, time: int, kind: int, what: Any, version: int = 0) -> None:
        """Add an event."""
        self._made += 1
        heapq.heappush(self._heap, (time, kind, self._made, what, version))

    @property
    def next(self) -> int | None:
        """Time of the first event; None where there is none."""
        return self._heap[0][0] if self._heap else None

    def pop(self) -> tuple[int, int, int, Any, int]:
        """(time, kind, number, what, version) of the first event, taken out."""
        return heapq.heappop(self._heap)
