"""Several models on the instances of one cluster: each instance holds one, and changes it when another is asked for.

A request goes to the instances that hold its model. Where none does, the instance with the fewest requests (of equals
the one unused for the longest) takes no more, serves what it has, loads the weights and then serves the other model.
Where all that do are crowded, a model that has several instances gives up one that is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from taicang.serve import trouble
from taicang.serve.instance import Instance
from taicang.serve.request import Request
from taicang.serve.weights import Weights

if TYPE_CHECKING:
    from taicang.serve.cluster import Cluster


class Fleet:
    """``models``: names of the cluster's pools, by the number that requests ask for them with. ``crowd``: requests from
    which an instance counts as crowded (0: none ever does); with half as many or less it can be given up."""

    __slots__ = ("_used", "crowd", "models", "weights")

    def __init__(self, models: Sequence[str], weights: Weights, crowd: int = 0) -> None:
        self.models = tuple(models)
        self.weights = weights
        self.crowd = crowd
        self._used: dict[Instance, int] = {}

    def pool(self, cluster: Cluster, request: Request) -> list[Instance]:
        """Instances that hold the model of ``request`` and take requests."""
        return cluster.pools[self.models[request.model]]

    def chosen(self, cluster: Cluster, instance: Instance, now: int) -> None:
        """``instance`` is given a request."""
        self._used[instance] = now
        if self.crowd and instance.requests >= self.crowd:
            pool = cluster.pools[instance.pool]
            if all(each.requests >= self.crowd for each in pool):
                several = (each for each in cluster.pools.values() if each is not pool and len(each) > 1)
                idle = (each for one in several for each in one if each.requests <= self.crowd // 2)
                self._take(cluster, pool, idle, now)

    def review(self, cluster: Cluster, now: int) -> None:
        """See to it that the models of all parked requests come to some instance."""
        for model in dict.fromkeys(request.model for request in cluster.parked):
            self.want(cluster, model, now)

    def want(self, cluster: Cluster, model: int, now: int) -> None:
        """See to it that ``model`` comes to some instance, if none holds it or is about to."""
        target = cluster.pools[self.models[model]]
        if not target:
            self._take(cluster, target, (each for pool in cluster.pools.values() for each in pool), now)

    def _take(self, cluster: Cluster, target: list[Instance], able: Iterable[Instance], now: int) -> None:
        """One of ``able`` goes over to ``target``, unless another is on its way there."""
        if any(pool is target for pool in cluster.leaving.values()):
            return
        chosen = min(able, key=lambda each: (each.requests, self._used.get(each, -1), each.name), default=None)
        if chosen is not None:
            trouble.change(cluster, chosen, target, now)
