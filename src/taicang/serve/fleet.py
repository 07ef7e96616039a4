"""Several models on the instances of one cluster: each instance holds one, and changes it when another is asked for.

A request goes to the instances that hold its model. Where none does, the instance with the fewest requests (of equals
the one unused for the longest) takes no more, serves what it has, loads the weights and then serves the other model.
Where all that do are crowded, a model that has several instances gives up one that is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from taicang.serve.instance import Instance
from taicang.serve.weights import Weights


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
