"""Figures of an instance's attention groups as arrays: who is there, how many decode, with how much cache."""

from __future__ import annotations

from typing import Any

import numpy as np


class Lanes:
    """By group: ``load`` requests, ``sizes`` that decode, ``bases`` of their cache (see ``Group``), and sums.

    Which group has the most cache is remembered: hundreds of groups, of which each step changes a few.
    """

    __slots__ = (
        "_bases", "_by_size", "_first", "_fuller", "_load", "_sizes", "_until", "alive", "base", "bases", "count",
        "here", "load", "most", "sizes",
    )  # fmt: skip

    def __init__(self, count: int) -> None:
        self.count = count
        arrays: Any = [np.zeros(count, dtype=np.int64) for _ in range(3)]
        self._load, self._sizes, self._bases = arrays
        # single figures are read and written through views, several times faster than through arrays
        self.load, self.sizes, self.bases = (memoryview(each) for each in arrays)
        self.here = self.alive = self.base = 0
        self.most = 0
        """Sequences that decode in the fullest group."""
        self._by_size = [count]
        """Groups by their number of sequences."""
        self._first = -1
        """The group with the most cache, as far as known (-1), up to decode step ``_until``; ``_fuller`` groups have
        gained since then."""
        self._until = 0
        self._fuller: list[int] = []

    def lightest(self) -> int:
        """The group with the fewest requests."""
        return int(self._load.argmin()) if self.count > 1 else 0

    def enter(self, at: int) -> None:
        """One request more in a group."""
        self.load[at] += 1
        self.here += 1

    def leave(self, at: int) -> None:
        """One request less."""
        self.load[at] -= 1
        self.here -= 1

    def joined(self, at: int, base: int) -> None:
        """A sequence with that base decodes in a group."""
        self.alive += 1
        self.base += base
        if self.count > 1:
            size = self.sizes[at] = self.sizes[at] + 1
            self.bases[at] += base
            self._by_size[size - 1] -= 1
            if size == len(self._by_size):
                self._by_size.append(0)
            self._by_size[size] += 1
            self.most = max(self.most, size)
            self._fuller.append(at)

    def left(self, at: int, base: int) -> None:
        """It does so no more."""
        self.alive -= 1
        self.base -= base
        if self.count > 1:
            size = self.sizes[at] = self.sizes[at] - 1
            self.bases[at] -= base
            self._by_size[size + 1] -= 1
            self._by_size[size] += 1
            if size + 1 == self.most and not self._by_size[size + 1]:
                self.most = size
            if at == self._first:
                self._first = -1

    def largest(self, grow: int, steps: int, most: int) -> tuple[int, int, int, int]:
        """(sequences of the fullest group, most context of a group in grains, its growth per step, steps for which that
        group surely keeps the most, up to ``most``), at decode step ``steps`` with ``grow`` grains a sequence and step.
        """
        if self.count == 1:
            return self.alive, self.base + self.alive * grow * steps, self.alive * grow, most
        if self._first < 0 or steps >= self._until or not self._leads(grow, steps):
            self._find(grow, steps)
        self._fuller.clear()
        at = self._first
        mine = self.sizes[at] * grow
        return self.most, self.bases[at] + mine * steps, mine, min(most, self._until - steps)

    def _leads(self, grow: int, steps: int) -> bool:
        """Whether the first group is still ahead of those that have gained; shortens for how long it is."""
        sizes, bases, at = self.sizes, self.bases, self._first
        mine = sizes[at]
        context = bases[at] + mine * grow * steps
        for other in self._fuller:
            size = sizes[other]
            behind = context - bases[other] - size * grow * steps
            if behind < 0:
                return False
            if size > mine:
                self._until = min(self._until, steps + behind // ((size - mine) * grow) + 1)
        return True

    def _find(self, grow: int, steps: int) -> None:
        sizes = self._sizes
        contexts = self._bases + sizes * (grow * steps)
        at = self._first = int(contexts.argmax())
        mine = self.sizes[at]
        self._until = FAR
        if self.most > mine:
            faster = (sizes > mine).nonzero()[0]
            behind = (contexts[at] - contexts[faster]) // ((sizes[faster] - mine) * grow)
            self._until = steps + int(behind[behind.argmin()]) + 1


FAR = 1 << 62
"""Beyond all decode steps."""
