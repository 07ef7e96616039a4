"""Several models on the instances of one cluster: each instance holds one, and changes it when another is asked for.

A request goes to the instances that hold its model. Where none does, the instance with the fewest requests (of equals
the one unused for the longest) takes no more, serves what it has, loads the weights and then serves the other model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from taicang.serve import trouble
from taicang.serve.instance import Instance
from taicang.serve.request import Request
from taicang.serve.weights import Weights

if TYPE_CHECKING:
    from taicang.serve.cluster import Cluster


class Fleet:
    """``models``: names of the cluster's pools, by the number that requests ask for them with."""

    __slots__ = ("_used", "models", "weights")

    def __init__(self, models: Sequence[str], weights: Weights) -> None:
        self.models = tuple(models)
        self.weights = weights
        self._used: dict[Instance, int] = {}

    def pool(self, cluster: Cluster, request: Request) -> list[Instance]:
        """Instances that hold the model of ``request`` and take requests."""
        return cluster.pools[self.models[request.model]]

    def used(self, instance: Instance, now: int) -> None:
        """``instance`` was given a request."""
        self._used[instance] = now

    def review(self, cluster: Cluster, now: int) -> None:
        """See to it that a parked request's model comes to some instance."""
        for model in dict.fromkeys(self.models[request.model] for request in cluster.parked):
            self._want(cluster, model, now)

    def _want(self, cluster: Cluster, model: str, now: int) -> None:
        target = cluster.pools[model]
        if target or any(pool is target for pool in cluster.leaving.values()):
            return
        able = [each for pool in cluster.pools.values() for each in pool]
        if able:
            chosen = min(able, key=lambda each: (each.requests, self._used.get(each, -1), each.name))
            trouble.change(cluster, chosen, target, now)
