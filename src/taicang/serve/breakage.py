"""Parts of the machine break under a serving system: which instances stop, and when they serve again.

Instances lie on the machine's ranks one after the other. Whatever takes a rank away takes down the instance that holds
it. It serves again when the part is repaired, or, where spare chips stand in, as soon as it has restarted on those.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from taicang.reliability import Component
from taicang.serve import trouble
from taicang.serve.cluster import Cluster
from taicang.serve.instance import Instance
from taicang.serve.request import FOREVER, SECOND


class Breakage:
    """``spans``: the ranks that each instance holds. ``spares``: ranks that stand by. Times in ticks."""

    def __init__(
        self, spans: Mapping[Instance, range], *, spares: int = 0, restart: int = 0, seed: int = 0, dies: int = 1
    ) -> None:
        self.spans = spans
        self.spares = spares
        self.restart = restart
        self.dies = dies
        """Ranks of a chip."""
        self.parts: Mapping[str, Component] = {}
        self._draw = random.Random(seed)
        self._until: dict[Instance, int] = {}
        self._ranks = max((span.stop for span in spans.values()), default=0)

    def strike(self, cluster: Cluster, ranks: range, down: int, now: int) -> None:
        """A part fails that holds ``ranks``; it is repaired ``down`` ticks later (``FOREVER``: not in this run)."""
        hit = [each for each, span in self.spans.items() if span.start < ranks.stop and ranks.start < span.stop]
        back = down
        if hit and len(ranks) <= self.spares:
            self.spares -= len(ranks)
            back = min(self.restart, down)
            if down < FOREVER:
                cluster.later(now + down, self._spared, len(ranks))
        self.take_down(cluster, hit, back, now)

    def take_down(self, cluster: Cluster, instances: list[Instance], down: int, now: int) -> None:
        """``instances`` fail; they serve again ``down`` ticks later, if nothing else holds them back."""
        until = now + down if down < FOREVER else FOREVER
        trouble.fail_together(cluster, instances, now)
        for each in instances:
            self._until[each] = max(self._until.get(each, 0), until)
            if until < FOREVER:
                cluster.later(until, self._back, each)

    def at_random(self, cluster: Cluster, parts: Mapping[str, Component]) -> None:
        """Let ``parts`` fail at their rates for as long as the run goes on."""
        self.parts = parts
        for name in parts:
            self._plan(cluster, name, 0)

    def _plan(self, cluster: Cluster, name: str, now: int) -> None:
        part = self.parts[name]
        rate = self._ranks / self.dies / float(part.chips_each) * part.failures_per_s
        if rate > 0:
            cluster.later(now + round(self._draw.expovariate(rate) * SECOND), self._break, name)

    def _break(self, cluster: Cluster, name: str, now: int) -> None:
        part = self.parts[name]
        at = self._draw.randrange(self._ranks)
        size = int(float(part.blast_chips) * self.dies)
        holder = next(each for each, span in self.spans.items() if at in span)
        if holder in cluster.down:  # what stands still does not fail again
            pass
        elif size:
            first = at // size * size
            self.strike(cluster, range(first, first + size), round(part.repair_s * SECOND) + self.restart, now)
        else:  # nothing to repair: whoever holds this rank starts again
            self.take_down(cluster, [holder], self.restart, now)
        if not self._hopeless(cluster):
            self._plan(cluster, name, now)

    def _hopeless(self, cluster: Cluster) -> bool:
        """Whether a pool is empty and nothing will bring one of its instances back."""
        pools = cluster.pools.values()
        empty = not any(pools) if cluster.fleet is not None else not all(pools)
        away = [*cluster.down, *cluster.drained, *cluster.leaving]
        return empty and all(self._until.get(each, 0) >= FOREVER for each in away)

    def _spared(self, cluster: Cluster, ranks: int, now: int) -> None:
        del cluster, now
        self.spares += ranks

    def _back(self, cluster: Cluster, instance: Instance, now: int) -> None:
        if now >= self._until[instance]:
            trouble.repair(cluster, instance, now)
