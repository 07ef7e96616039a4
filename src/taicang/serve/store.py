"""A memory pool beside the instances: prompt blocks that any of them can fetch (pooled CPU memory over a plane)."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from taicang.serve.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The move of a cache into or out of one instance, in ticks: ``base + tokens * per_token``, one after the other."""

    base: int
    per_token: int

    def ticks(self, tokens: int) -> int:
        """Of ``tokens`` tokens."""
        return self.base + self.per_token * tokens


NO_TIME = Link(base=0, per_token=0)


class Store:
    """``capacity`` blocks of ``block`` tokens; those that were used least recently go first.

    Loads of one instance share its link, one after the other; blocks are written back beside the computing.
    """

    __slots__ = ("_free_at", "_held", "block", "capacity", "evicted", "link", "loaded_tokens")

    def __init__(self, capacity: int, block: int, link: Link) -> None:
        self.capacity = capacity
        self.block = block
        self.link = link
        self.evicted = 0
        self.loaded_tokens = 0
        self._held: OrderedDict[int, None] = OrderedDict()
        self._free_at: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def match(self, request: Request) -> int:
        """Leading blocks of the prompt that are here; the last token is always computed."""
        held, count = self._held, 0
        for block in request.blocks[: (request.input - 1) // self.block]:
            if block not in held:
                break
            count += 1
        return count

    def load(self, place: int, tokens: int, now: int) -> int:
        """When ``tokens`` tokens have reached the instance ``place``."""
        start = max(now, self._free_at.get(place, 0))
        end = self._free_at[place] = start + self.link.ticks(tokens)
        self.loaded_tokens += tokens
        return end

    def put(self, request: Request) -> None:
        """Keep the whole blocks of a computed prompt, the first of them the longest."""
        held = self._held
        for block in reversed(request.blocks[: request.input // self.block]):
            held[block] = None
            held.move_to_end(block)
        while len(held) > self.capacity:
            held.popitem(last=False)
            self.evicted += 1
