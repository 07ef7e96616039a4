"""Several models on the instances of one cluster: each instance holds one, and changes it when another is asked for.

A request goes to the instances that hold its model. Where none does, the instance with the fewest requests (of equals
the one unused for the longest) takes no more, serves what it has, loads the weights and then serves the other model.
Where all that do are crowded, a model that has several instances gives up one that is not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from taicang.serve.instance import Instance


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


class Fleet:
    """``models``: names of the cluster's pools, by the number that requests ask for them with. ``crowd``: requests from
    which an instance counts as crowded (0: none ever does); with half as many or less it can be given up."""

    __slots__ = ("_used", "crowd", "models", "weights")

    def __init__(self, models: Sequence[str], weights: Weights, crowd: int = 0) -> None:
        self.models = tuple(models)
        self.weights = weights
        self.crowd = crowd
        self._used: dict[Instance, int] = {}

    def crowded(self, pools: Mapping[str, list[Instance]], instance: Instance, now: int) -> Instance | None:
        """``instance`` is given a request: whoever is to take its model over, where all that hold it are crowded."""
        self._used[instance] = now
        if not self.crowd or instance.requests < self.crowd:
            return None
        pool = pools[instance.pool]
        if any(each.requests < self.crowd for each in pool):
            return None
        several = (each for each in pools.values() if each is not pool and len(each) > 1)
        return self.least(each for one in several for each in one if each.requests <= self.crowd // 2)

    def least(self, able: Iterable[Instance]) -> Instance | None:
        """Of ``able`` the one with the fewest requests, of equals the one unused for the longest."""
        return min(able, key=lambda each: (each.requests, self._used.get(each, -1), each.name), default=None)
