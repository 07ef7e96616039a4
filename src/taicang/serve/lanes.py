"""Figures of an instance's attention groups as arrays: who is there, how many decode, with how much cache."""

from __future__ import annotations

from typing import Any

import numpy as np


class Lanes:
    """By group: ``load`` requests, ``sizes`` that decode, ``bases`` of their cache (see ``Group``), and sums."""

    __slots__ = ("alive", "base", "bases", "count", "here", "load", "sizes")

    def __init__(self, count: int) -> None:
        self.count = count
        self.load: Any = np.zeros(count, dtype=np.int64)
        self.sizes: Any = np.zeros(count, dtype=np.int64)
        self.bases: Any = np.zeros(count, dtype=np.int64)
        self.here = self.alive = self.base = 0

    def lightest(self) -> int:
        """The group with the fewest requests."""
        return int(self.load.argmin()) if self.count > 1 else 0

    def enter(self, at: int) -> None:
        """One request more in a group."""
        self.load[at] += 1
        self.here += 1

    def leave(self, at: int) -> None:
        """One request less."""
        self.load[at] -= 1
        self.here -= 1

    def decoding(self, at: int, sequences: int, base: int) -> None:
        """A group gains (or loses) decoding sequences with that base."""
        self.sizes[at] += sequences
        self.bases[at] += base
        self.alive += sequences
        self.base += base

    def largest(self, grow: int, steps: int, most: int) -> tuple[int, int, int, int]:
        """(sequences of the fullest group, most context of a group in grains, its growth per step, steps for which that
        group keeps the most, up to ``most``), at decode step ``steps`` with ``grow`` grains a sequence and step."""
        if self.count == 1:
            return self.alive, self.base + self.alive * grow * steps, self.alive * grow, most
        sizes = self.sizes
        contexts = self.bases + sizes * (grow * steps)
        at = int(contexts.argmax())
        n, mine, context = int(sizes[sizes.argmax()]), int(sizes[at]), int(contexts[at])
        if n > mine:
            faster = sizes > mine
            behind = (context - contexts[faster]) // ((sizes[faster] - mine) * grow) + 1
            most = min(most, int(behind.min()))
        return n, context, mine * grow, most
