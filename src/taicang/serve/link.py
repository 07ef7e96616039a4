"""The way of a cache into or out of one instance."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Moves take ``base + tokens * per_token`` ticks, one after the other."""

    base: int
    per_token: int

    def ticks(self, tokens: int) -> int:
        """Of ``tokens`` tokens."""
        return self.base + self.per_token * tokens


NO_TIME = Link(base=0, per_token=0)
