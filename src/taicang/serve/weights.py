"""The weights of several models, kept in the hosts' memory (model cache) before an object store."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping


class Weights:
    """``sizes`` in bytes, ``warm`` and ``cold`` in ticks by model: how long an instance loads it from memory, or from
    the store. The store serves one load after the other; what has come from it stays in ``capacity`` bytes of memory
    until models used more recently need the room.
    """

    __slots__ = (
        "_cached",
        "_cold",
        "_free_at",
        "_sizes",
        "_warm",
        "capacity",
        "cold_loads",
        "load_ticks",
        "warm_loads",
    )

    def __init__(
        self, sizes: Mapping[str, float], warm: Mapping[str, int], cold: Mapping[str, int], capacity: float = 0.0
    ) -> None:
        self._sizes, self._warm, self._cold = dict(sizes), dict(warm), dict(cold)
        self.capacity = capacity
        self._cached: OrderedDict[str, float] = OrderedDict()
        self._free_at = 0
        self.warm_loads = self.cold_loads = 0
        self.load_ticks = 0
        """From asking for weights to having them, waiting for the store included."""

    def load(self, model: str, now: int) -> int:
        """When an instance that asks for ``model`` now has its weights."""
        if model in self._cached:
            self.warm_loads += 1
            end = now + self._warm[model]
        else:
            self.cold_loads += 1
            end = self._free_at = max(now, self._free_at) + self._cold[model]
        self.load_ticks += end - now
        self.keep(model)
        return end

    def keep(self, model: str) -> None:
        """``model`` was used: it goes last, if it fits at all."""
        size = self._sizes[model]
        if size > self.capacity:
            return
        self._cached[model] = size
        self._cached.move_to_end(model)
        while sum(self._cached.values()) > self.capacity:
            self._cached.popitem(last=False)
