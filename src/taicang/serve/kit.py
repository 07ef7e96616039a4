"""What the instances of one pool are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from taicang.serve.cache import Cache
from taicang.serve.door import Door
from taicang.serve.scheduler import Limits
from taicang.serve.steptable import StepTable


@dataclass(slots=True, kw_only=True)
class Kit:
    """``table`` changes when the machine's links do."""

    table: StepTable
    limits: Limits
    cache: Cache
    """An empty one; each of ``groups`` attention groups has its like."""
    door: Door | None = None
    groups: int = 1
    draw: Callable[[int], Callable[[int], int] | None] = lambda _: None
    """By an instance's number: what draws the decode steps that some tokens need (None: as many steps as tokens)."""

    def caches(self) -> list[Cache]:
        """Those of a new instance."""
        return [self.cache.emptied() for _ in range(self.groups)]
