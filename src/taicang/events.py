"""A heap of events. Events at one time come out in the order of their kind, then of their making."""

from __future__ import annotations

import heapq
from typing import Any


class Events:
    """Times are integers; ``version`` lets a holder of an event call it off by counting on."""

    __slots__ = ("_made", "heap")

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, int, Any, int]] = []
        """(time, kind, number, what, version) of each; the first one leads."""
        self._made = 0

    def __len__(self) -> int:
        return len(self.heap)

    def push(self, time: int, kind: int, what: Any, version: int = 0) -> None:
        """Add an event."""
        self._made += 1
        heapq.heappush(self.heap, (time, kind, self._made, what, version))

    @property
    def next(self) -> int | None:
        """Time of the first event; None where there is none."""
        return self.heap[0][0] if self.heap else None

    def pop(self) -> tuple[int, int, int, Any, int]:
        """(time, kind, number, what, version) of the first event, taken out."""
        return heapq.heappop(self.heap)
