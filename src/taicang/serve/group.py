"""One attention group of an instance: its queue, its prompts in progress, its decoding sequences and its pages.

A decoding sequence takes a new page whenever its length is a whole number of pages. Pages of a stretch of steps are
handed out when it is over, by counting the sequences by the step, modulo the page size, at which they need one.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from taicang.serve.cache import Cache
from taicang.serve.request import FOREVER, Request


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


class Group:
    """``reserve``: pages for whole answers are taken at admission, so that none are needed later."""

    __slots__ = (
        "base", "cache", "limit", "n", "prefilling", "promised", "reserve", "residues", "running", "swapped", "synced",
        "waiting",
    )  # fmt: skip

    def __init__(self, cache: Cache, *, reserve: bool = False, step: int = 0) -> None:
        self.cache = cache
        self.reserve = reserve
        self.waiting: deque[Request] = deque()
        self.prefilling: list[Request] = []
        self.running: dict[Request, None] = {}
        self.n = 0
        self.base = 0
        """Cache grains of the decoding sequences, less what each has grown since step 0."""
        self.residues = [0] * cache.page
        """Sequences by the step, modulo the page size, at which they need a new page."""
        self.synced = step
        """Decode step up to which pages have been handed out."""
        self.limit = FOREVER
        """Decode step up to which pages suffice for sure."""
        self.promised = 0
        """Pages that sequences on their way here will take."""
        self.swapped = 0
        """Tokens of waiting sequences that lie in host memory."""

    def sync(self, upto: int) -> None:
        """Hand out the pages of the steps made since the last time (none where ``reserve`` took them)."""
        steps = upto - self.synced
        if steps <= 0:
            return
        if self.n and not self.reserve:
            page = self.cache.page
            whole, rest = divmod(steps, page)
            pages = whole * self.n
            for x in range(self.synced, self.synced + rest):
                pages += self.residues[x % page]
            self.cache.claim(pages)
        self.synced = upto

    def watch(self) -> int:
        """Look again until which step the pages suffice for sure; returns it."""
        cache, n = self.cache, self.n
        self.limit = self.synced + cache.spare // n * cache.page if n and not self.reserve else FOREVER
        return self.limit

    def look(self, step: int) -> None:
        """Find exactly until which step the pages suffice, at least for the next one."""
        page, left, x = self.cache.page, self.cache.spare, step
        whole = left // max(self.n, 1)
        left, x = left - whole * self.n, x + whole * page
        while left >= self.residues[x % page] and x < step + (whole + 1) * page:
            left -= self.residues[x % page]
            x += 1
        self.limit = max(x, step + 1) if self.n else FOREVER

    def short(self, step: int) -> bool:
        """Whether the next step needs more pages than there are."""
        return self.residues[step % self.cache.page] > self.cache.spare

    def join(self, request: Request, step: int) -> None:
        """``request`` decodes from ``step`` on; its ``base`` is set."""
        self.base += request.base
        self.n += 1
        self.running[request] = None
        if not self.reserve:
            self.residues[(step - request.need) % self.cache.page] += 1

    def drop(self, request: Request, step: int, *, keep: bool = True) -> None:
        """``request`` decodes no more and gives back its pages; what they hold stays (``keep``) while there is room."""
        cache = self.cache
        length = request.need + step - request.last
        self.base -= request.base
        self.n -= 1
        del self.running[request]
        if not self.reserve:
            request.pages = -(-length // cache.page) - request.nodes * cache.per_block
            self.residues[(step - length) % cache.page] -= 1
        kept = keep and (not self.reserve or request.named > request.input)
        cache.release(request, length if kept else 0)
