"""Paged cache of one attention group: pages of running requests, and prompt blocks that requests share.

A block's id stands for the block and all before it, so the prefix tree is a flat map. Blocks that nobody uses stay
until their pages are needed; they go by the rule of ``eviction``, the deepest of a prompt first.
"""

from __future__ import annotations

from taicang.serve.evict import Eviction, order
from taicang.serve.request import Request


class Cache:
    """``pages`` pages of ``page`` tokens; prompt blocks of ``block`` tokens (a whole number of pages) are shared."""

    __slots__ = ("_idle", "_users", "block", "evicted", "eviction", "free", "page", "pages", "per_block", "tokens")

    def __init__(self, pages: int, page: int, block: int = 0, eviction: Eviction = "lru") -> None:
        self.pages = self.free = pages
        self.page = page
        self.tokens = pages * page
        self.block = block or page
        self.per_block = max(self.block // page, 1)
        self._users: dict[int, int] = {}
        self.eviction = eviction
        self._idle = order(eviction)
        self.evicted = 0

    @property
    def spare(self) -> int:
        """Pages that are free or hold blocks that nobody uses."""
        return self.free + len(self._idle) * self.per_block

    @property
    def blocks(self) -> int:
        """Shared blocks that are held."""
        return len(self._users)

    def emptied(self) -> Cache:
        """A cache of the same size with nothing in it."""
        return Cache(self.pages, self.page, self.block, self.eviction)

    def hit(self, request: Request) -> int:
        """Leading blocks of the prompt that are here; the last token is always computed."""
        users = self._users
        most = min(len(request.blocks), (request.need - 1) // self.block)
        count = 0
        for block in request.blocks:
            if count >= most or block not in users:
                break
            count += 1
        return count

    def admit(self, request: Request, tokens: int, keep: int = 0) -> bool:
        """Take pages for ``tokens`` tokens of ``request``, sharing what is here; False (and nothing taken) if less than
        ``keep`` pages would be left."""
        hits = self.hit(request) if request.blocks else 0
        want = -(-tokens // self.page) - hits * self.per_block
        idle = self._idle
        mine = request.blocks[:hits]
        if self.free < want + keep:
            held = sum(1 for block in mine if block in idle) if idle else 0
            if self.free + (len(idle) - held) * self.per_block < want + keep:
                return False
        for block in mine:
            self._users[block] += 1
            idle.pop(block, None)
        self.claim(want)
        request.pages = want
        request.nodes = hits
        request.done = max(hits * self.block, request.loaded)
        return True

    def claim(self, pages: int) -> None:
        """Take ``pages`` pages; the caller has checked ``spare``."""
        while self.free < pages:
            block, _ = self._idle.popitem(last=False)
            del self._users[block]
            self.free += self.per_block
            self.evicted += 1
        self.free -= pages

    def publish(self, request: Request) -> None:
        """The prompt is computed: its whole blocks become shared; copies of blocks that are here already are freed."""
        blocks = request.blocks
        whole = min(len(blocks), request.input // self.block)
        users, per = self._users, self.per_block
        for block in blocks[request.nodes : whole]:
            if block in users:
                users[block] += 1
                self._idle.pop(block, None)
                self.free += per
            else:
                users[block] = 1
            request.pages -= per
        request.nodes = max(whole, request.nodes)

    def release(self, request: Request) -> None:
        """Give back all pages; shared blocks stay as long as there is room."""
        self.free += request.pages
        request.pages = 0
        if request.nodes:
            users, idle = self._users, self._idle
            for block in reversed(request.blocks[: request.nodes]):
                left = users[block] = users[block] - 1
                if left == 0:
                    idle[block] = 0
            request.nodes = 0
