"""One attention group of an instance: its queue, its prompts in progress, its decoding sequences and its pages.

A decoding sequence takes a new page whenever its length is a whole number of pages. Pages of a stretch of steps are
handed out when it is over, by counting the sequences by the step, modulo the page size, at which they need one.
"""

from __future__ import annotations

from collections import deque

from taicang.serve.cache import Cache
from taicang.serve.request import FOREVER, Request


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
