"""Which block goes first when room is needed: orders that look like an ``OrderedDict``.

Putting a block in (after taking it out) marks a use; ``popitem(last=False)`` takes the one that goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, TypeAlias

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
