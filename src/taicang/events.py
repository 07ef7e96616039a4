"""A heap of events. Events at one time come out in the order of their kind, then of their making."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import Any


class Events:
    """Times are integers; ``version`` lets a holder of an event call it off by counting on."""

    __slots__ = ("_made", "heap")

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, int, Any, int]] = []
        """(time, kind, number, what, version) of each; the first one leads."""
        self._made = count()

    def __len__(self) -> int:
        return len(self.heap)

    def push(self, time: int, kind: int, what: Any, version: int = 0) -> None:
        """Add an event."""
        heappush(self.heap, (time, kind, next(self._made), what, version))

    @property
    def next(self) -> int | None:
        """Time of the first event; None where there is none."""
        return self.heap[0][0] if self.heap else None

    def pop(self) -> tuple[int, int, int, Any, int]:
        """(time, kind, number, what, version) of the first event, taken out."""
        return heappop(self.heap)
