"""Paged cache of one attention group: pages of running requests, and prompt blocks that requests share.

A block's id stands for the block and all before it, so the prefix tree is a flat map. Blocks that nobody uses stay
until their pages are needed; they go by the rule of ``eviction``, the deepest of a prompt first. Answers stay like
prompts: where their blocks are known, the next turn of the conversation finds them; where not, only the request itself
does, if it has to start over.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import groupby
from typing import Literal, Protocol, TypeAlias

from taicang.serve.request import FOREVER, Request

Eviction: TypeAlias = Literal["lru", "lfu"]


class Lfu:
    """The block that was used least often goes first; of equals the one whose last use is longer ago.

    Uses are counted as long as the block is held: ``pop`` (it is in use again) keeps the count, ``popitem`` ends it.
    """

    __slots__ = ("_by_uses", "_uses", "_values")

    def __init__(self) -> None:
        self._values: dict[int, int] = {}
        self._uses: dict[int, int] = {}
        self._by_uses: dict[int, OrderedDict[int, None]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, block: int) -> bool:
        return block in self._values

    def __getitem__(self, block: int) -> int:
        return self._values[block]

    def __setitem__(self, block: int, value: int) -> None:
        uses = self._uses[block] = self._uses.get(block, 0) + 1
        self._values[block] = value
        self._by_uses.setdefault(uses, OrderedDict())[block] = None

    def pop(self, block: int, default: int | None = None) -> int | None:
        """Take ``block`` out, if it is here."""
        value = self._values.pop(block, default)
        self._take(block)
        return value

    def popitem(self, last: bool = False) -> tuple[int, int]:
        """(block, value) of the one that goes first."""
        del last
        block = next(iter(self._by_uses[min(self._by_uses)]))
        self._take(block)
        del self._uses[block]
        return block, self._values.pop(block)

    def _take(self, block: int) -> None:
        uses = self._uses.get(block, 0)
        equals = self._by_uses.get(uses)
        if equals is not None and block in equals:
            del equals[block]
            if not equals:
                del self._by_uses[uses]


Order: TypeAlias = OrderedDict[int, int] | Lfu


def order(eviction: Eviction) -> Order:
    """An empty order: by last use (``lru``) or by the number of uses (``lfu``)."""
    return OrderedDict() if eviction == "lru" else Lfu()


ANSWER = 1 << 80
"""Beyond all ids of blocks."""


class Watch(Protocol):
    """Hears of blocks that others find, and of those that they find no more."""

    def stored(self, request: Request, begin: int, end: int) -> None:
        """Blocks ``begin`` to ``end`` of ``request``."""

    def removed(self, block: int) -> None:
        """One that made room."""

    def cleared(self) -> None:
        """All of them."""


class Cache:
    """``pages`` pages of ``page`` tokens; prompt blocks of ``block`` tokens (a whole number of pages) are shared."""

    __slots__ = (
        "_idle",
        "_resting",
        "_users",
        "block",
        "evicted",
        "eviction",
        "free",
        "keeps",
        "page",
        "pages",
        "per_block",
        "tokens",
        "watch",
    )

    def __init__(self, pages: int, page: int, block: int = 0, eviction: Eviction = "lru") -> None:
        self.pages = self.free = pages
        self.page = page
        self.tokens = pages * page
        self.block = block or page
        self.keeps = block > 0
        """Whether anything is shared, or found again."""
        self.per_block = max(self.block // page, 1)
        self._users: dict[int, int] = {}
        self.eviction = eviction
        self._idle = order(eviction)
        """By block the pages that nobody uses; those of a request's answer are at ``ANSWER`` and its id."""
        self._resting = 0
        """Pages in it."""
        self.evicted = 0
        self.watch: Watch | None = None
        """Who hears of its blocks."""

    @property
    def spare(self) -> int:
        """Pages that are free or hold blocks that nobody uses."""
        return self.free + self._resting

    @property
    def blocks(self) -> int:
        """Shared blocks that are held."""
        return len(self._users)

    def emptied(self) -> Cache:
        """A cache of the same size with nothing in it."""
        made = Cache(self.pages, self.page, self.block if self.keeps else 0, self.eviction)
        if self.watch is not None:
            made.watch = self.watch
            made.watch.cleared()
        return made

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

    def admit(self, request: Request, tokens: int, keep: int = 0, budget: int = FOREVER) -> bool:
        """Take pages for ``tokens`` tokens of ``request``, sharing what is here; False (and nothing taken) if less than
        ``keep`` pages would be left. Of what is not here pages for ``budget`` tokens are taken, if that is less."""
        hits = self.hit(request) if request.blocks else 0
        idle, page, per = self._idle, self.page, self.per_block
        mine = request.blocks[:hits]
        answer, own = ANSWER + request.id, 0
        if request.made and hits == min(request.named, request.need - 1) // self.block and answer in idle:
            own = min(idle[answer], (request.need - 1) // page - hits * per)
        want = -(-tokens // page) - hits * per
        if self.free < want + keep:
            held = sum(map(idle.__contains__, mine)) if self._resting else 0
            if self.spare - held * per < want + keep:
                return False
        self._share(mine)
        if own:
            self.free += self._use(answer)
        request.nodes = hits
        here = hits * self.block + own * page
        # what was fetched lies behind what was here then: if some of that has gone, it begins nowhere
        request.done = max(here, request.loaded) if hits * self.block >= request.found else here
        if budget < tokens - request.done:
            want = -(-(request.done + budget) // page) - hits * per
        self.claim(want)
        request.pages = want
        return True

    def claim(self, pages: int) -> None:
        """Take ``pages`` pages; the caller has checked ``spare``."""
        if self.free < pages:
            self._evict(pages)
        self.free -= pages

    def _evict(self, pages: int) -> None:
        """Until so many pages are free."""
        idle, users, watch, free, blocks = self._idle, self._users, self.watch, self.free, len(self._users)
        first = idle.popitem
        while free < pages:
            block, held = first(False)
            if block < ANSWER:
                del users[block]
                if watch is not None:
                    watch.removed(block)
            elif held > pages - free and isinstance(idle, OrderedDict):  # the end of an answer goes first
                idle[block] = held - (pages - free)
                idle.move_to_end(block, last=False)
                held = pages - free
            free += held
        self.evicted += blocks - len(users)
        self._resting -= free - self.free
        self.free = free

    def grow(self, request: Request, tokens: int) -> bool:
        """Take the pages that ``request`` lacks for ``tokens`` tokens; False (and nothing taken) if too few."""
        more = max(-(-tokens // self.page) - request.nodes * self.per_block - request.pages, 0)
        if more > self.spare:
            return False
        self.claim(more)
        request.pages += more
        return True

    def publish(self, request: Request, upto: int) -> None:
        """The first ``upto`` tokens are computed: whole blocks that have ids become shared; copies of others are
        freed."""
        blocks = request.blocks
        whole = min(len(blocks), min(request.named, upto) // self.block)
        users, per = self._users, self.per_block
        if self.watch is not None:
            new = [i for i in range(request.nodes, whole) if blocks[i] not in users]
            for _, run in groupby(enumerate(new), lambda each: each[1] - each[0]):
                at = [i for _, i in run]
                self.watch.stored(request, at[0], at[-1] + 1)
        if whole <= request.nodes:
            return
        known = []
        for block in blocks[request.nodes : whole]:
            if block in users:
                known.append(block)
            else:
                users[block] = 1
        if known:
            self._share(known)
            self.free += per * len(known)
        request.pages -= per * (whole - request.nodes)
        request.nodes = whole

    def release(self, request: Request, length: int = 0) -> None:
        """Give back all pages; shared blocks stay as long as there is room, and what is whole of its first ``length``
        tokens."""
        if length and request.named > request.input:
            self.publish(request, length)
        whole = length // self.page - request.nodes * self.per_block if self.keeps else 0
        if whole > 0:
            request.pages -= whole
            answer = ANSWER + request.id
            self._idle[answer] = whole + self._use(answer)
            self._resting += self._idle[answer]
        self.free += request.pages
        request.pages = 0
        if request.nodes:
            users, idle, per, left = self._users, self._idle, self.per_block, 0
            for block in reversed(request.blocks[: request.nodes]):
                count = users[block]
                users[block] = count - 1
                if count == 1:
                    idle[block] = per
                    left += per
            self._resting += left
            request.nodes = 0

    def _share(self, blocks: Iterable[int]) -> None:
        """One more uses ``blocks``, which are here."""
        users = self._users
        for block in blocks:
            count = users[block]
            users[block] = count + 1
            if not count:  # else nobody finds it idle
                self._use(block)

    def _use(self, block: int) -> int:
        """Somebody uses ``block``; returns the pages that nobody used."""
        pages = self._idle.pop(block, 0) or 0
        self._resting -= pages
        return pages
