"""One kind of memory that keeps prompt blocks beyond the device's own: host memory, a pool of it, SSD."""

from __future__ import annotations

from collections.abc import Iterable

from taicang.serve.evict import Eviction, Order, order
from taicang.serve.link import Link
from taicang.serve.request import FOREVER


class Shelf:
    """``capacity`` blocks behind ``link``, which every instance has to itself: its loads go one after the other.

    ``own``: each instance has a shelf of that capacity to itself; otherwise all share one. Blocks go when they have not
    been used for ``ttl`` ticks, and by the rule of ``eviction`` when room is needed.
    """

    __slots__ = (
        "_free_at",
        "_held",
        "capacity",
        "evicted",
        "eviction",
        "expired",
        "link",
        "load_ticks",
        "loaded_blocks",
        "loads",
        "name",
        "own",
        "plane",
        "ttl",
    )  # fmt: skip

    def __init__(
        self, name: str, capacity: int, link: Link, *, plane: str = "", eviction: Eviction = "lru", ttl: int = FOREVER,
        own: bool = False,
    ) -> None:  # fmt: skip
        self.name = name
        self.capacity = capacity
        self.link = link
        self.plane = plane
        self.eviction = eviction
        self.ttl = ttl
        self.own = own
        self.evicted = self.expired = 0
        """Blocks that went for room, and for age (noticed when somebody looks for them)."""
        self.loads = self.loaded_blocks = self.load_ticks = 0
        """Loads, their blocks, and the time from asking to having them, waiting for the link included."""
        self._held: dict[int, Order] = {}
        self._free_at: dict[int, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    def _of(self, place: int) -> Order:
        key = place if self.own else -1
        found = self._held.get(key)
        if found is None:
            found = self._held[key] = order(self.eviction)
        return found

    def holds(self, block: int, place: int, now: int) -> bool:
        """Whether the instance ``place`` finds ``block`` here."""
        held = self._of(place)
        if block not in held:
            return False
        if now - held[block] > self.ttl:
            held.pop(block, None)
            self.expired += 1
            return False
        return True

    def keep(self, blocks: Iterable[int], place: int, now: int) -> None:
        """Blocks of one prompt, the first to go first, were used by the instance ``place``."""
        held = self._of(place)
        for block in blocks:
            held.pop(block, None)
            held[block] = now
        while len(held) > self.capacity:
            held.popitem(last=False)
            self.evicted += 1

    def load(self, blocks: int, tokens: int, place: int, now: int) -> int:
        """When ``blocks`` blocks of ``tokens`` tokens in all have reached the instance ``place``."""
        end = self._free_at[place] = max(now, self._free_at.get(place, 0)) + self.link.ticks(tokens)
        self.loads += 1
        self.loaded_blocks += blocks
        self.load_ticks += end - now
        return end

    def lose(self, place: int) -> None:
        """The instance ``place`` is lost, and with it what only it could reach."""
        if self.own:
            self._held.pop(place, None)
