"""Memory beside the instances that keeps prompt blocks (of hosts, a pool of it, SSD): shelves, the nearest first.

What an instance computed is written to every shelf beside the computing; each shelf makes room by its own rule. A new
prompt fetches each leading block from the nearest shelf that has it, the shelves side by side, and takes it up to all
of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from taicang.serve.cache import Eviction, Order, order
from taicang.serve.pace import Link
from taicang.serve.request import FOREVER, Request


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


class Store:
    """``shelves`` of blocks of ``block`` tokens. ``answers``: instances that only decode write too."""

    __slots__ = ("answers", "block", "shelves")

    def __init__(self, shelves: Sequence[Shelf], block: int, *, answers: bool = False) -> None:
        self.shelves = tuple(shelves)
        self.block = block
        self.answers = answers

    def match(self, request: Request, place: int, now: int) -> list[Shelf]:
        """The shelf of each leading block of the prompt that is here; the last token is always computed."""
        found: list[Shelf] = []
        for block in request.blocks[: (request.need - 1) // self.block]:
            shelf = next((shelf for shelf in self.shelves if shelf.holds(block, place, now)), None)
            if shelf is None:
                break
            found.append(shelf)
        return found

    def load(self, request: Request, found: Sequence[Shelf], here: int, now: int) -> int:
        """When the blocks after the first ``here`` tokens have reached the instance that ``request`` goes to."""
        wanted = found[here // self.block :]
        end = now
        for shelf in self.shelves:
            blocks = sum(1 for each in wanted if each is shelf)
            if blocks:
                end = max(end, shelf.load(blocks, blocks * self.block, request.place, now))
        self._keep(request, len(found), now)
        return end

    def put(self, request: Request, now: int) -> None:
        """Keep the whole named blocks of what is computed, the first of them the longest."""
        self._keep(request, min(request.named, request.input + max(request.made, 1) - 1) // self.block, now)

    def _keep(self, request: Request, count: int, now: int) -> None:
        blocks = request.blocks[:count][::-1]
        for shelf in self.shelves:
            shelf.keep(blocks, request.place, now)

    def lose(self, place: int) -> None:
        """The instance ``place`` is lost."""
        for shelf in self.shelves:
            shelf.lose(place)
