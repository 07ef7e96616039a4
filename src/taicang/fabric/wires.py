"""Links as a cost model: what a rank gets through each level, from the loads of real routes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from taicang.errors import NotModelled
from taicang.fabric.collectives import Phase, collective, teams_of
from taicang.fabric.even import Net, size_of
from taicang.fabric.faults import fail
from taicang.fabric.routing import Routing, resources
from taicang.fabric.topology import Direct, Fabric, Ints, Wired, build
from taicang.hardware import Machine
from taicang.units import Count, Num

_TRAFFIC = {"all_to_all": "all_to_all", "send": "send"}
"""Traffic of a kind of collective; all others pass their shards around a ring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRates:
    """Rates per level under one routing, after faults; all groups of a machine run at once."""

    machine: Machine
    routing: Routing = "adaptive"
    seed: int = 0
    failed: Sequence[str] = ()
    stretch_ratio: float = 1.0
    """How much longer than an even exchange the fullest link is busy (skewed demand)."""
    placed: int | None = None
    """Seed of the random places of ranks."""
    nets: dict[str, Net] = field(default_factory=dict, repr=False, compare=False)
    known: dict[tuple[str, str, int, int], list[float]] = field(default_factory=dict, repr=False, compare=False)

    def net(self, plane: str) -> Net:
        """The links of a plane."""
        if plane not in self.nets:
            fabric = fail(build(self.machine, plane), self.failed if plane == "scale_up" else (), self.seed)
            self.nets[plane] = Net(fabric=fabric, found=resources(fabric, self.routing), seed=self.seed)
        return self.nets[plane]

    def rates(self, plane: str, kind: str, ranks: Count, stride: Count) -> list[Num]:
        """Bytes/s of one rank through every level of ``plane``; arrays give arrays."""
        kind = _TRAFFIC.get(kind, "all_gather")
        count, apart = np.broadcast_arrays(np.asarray(ranks, float), np.asarray(stride, float))
        pairs, inverse = np.unique(np.stack([count.ravel(), apart.ravel()]), axis=1, return_inverse=True)
        table = np.array(
            [self._rates(plane, kind, *pair) for pair in np.maximum(np.round(pairs), 1).astype(int).T.tolist()]
        )
        columns = table[inverse.ravel()].reshape(*count.shape, -1)
        return [columns[..., level] if count.shape else float(columns[level]) for level in range(columns.shape[-1])]

    def _rates(self, plane: str, kind: str, ranks: int, stride: int) -> list[float]:
        key = (plane, kind, ranks, stride)
        if key not in self.known:
            self.known[key] = [rate / self.stretch_ratio for rate in self._measured(*key)]
        return self.known[key]

    def _measured(self, plane: str, kind: str, ranks: int, stride: int) -> list[float]:
        net = self.net(plane)
        fabric = net.fabric
        stride = min(stride, max(fabric.ranks - 1, 1))
        ranks = min(ranks, -(-fabric.ranks // stride))
        if self.placed is None:
            copies = 1 if kind == "send" else min(stride, fabric.ranks - stride * (ranks - 1))
            teams = teams_of(ranks, stride, copies)
        else:  # whatever the order, its groups lie anywhere
            places = np.random.default_rng(self.placed).permutation(fabric.ranks)
            copies = 1 if kind == "send" else fabric.ranks // ranks
            teams = places[: copies * ranks].reshape(copies, ranks)
        phases = collective(net, kind, teams, 1.0)
        return [
            min(
                level.bandwidth_bytes_per_s,
                level_rate(net, index, phases, teams, kind, 0 if self.placed is not None else stride),
            )
            for index, level in enumerate(fabric.levels)
        ]


def level_rate(net: Net, level: int, phases: Sequence[Phase], teams: Ints, kind: str, stride: int = 0) -> float:
    """Bytes that a rank sends through a level, over the time that its fullest link needs; infinite if none.

    Of groups whose ranks lie ``stride`` apart, a rank of a full unit; otherwise in the mean.
    """
    fabric, found = net.fabric, net.found
    index = next(i for i, each in enumerate(fabric.networks) if level in each.levels)
    network = fabric.networks[index]
    carried = sum((phase.carried_bytes for phase in phases), np.zeros(len(found.capacity_bytes_per_s)))
    used = found.level == level
    if not carried[used].any():
        return np.inf
    if isinstance(network, Wired):
        raise NotModelled("a graph as the network of a machine's cost model")
    if isinstance(network, Direct):
        sent = _injected(fabric, network, teams, kind)
        return float(sent / (carried[used] / found.capacity_bytes_per_s[used]).max())
    sent, busy, port = 0.0, 0.0, network.port[teams.ravel()]
    low = fabric.levels[level - 1].ranks if level else 1
    width = size_of(np.repeat(np.arange(len(teams)), teams.shape[1]), teams.ravel() // low)
    some = np.ones(teams.size, dtype=bool)
    if stride and not low % stride:
        some = (width == width.max()) & (width < teams.shape[1])
    for depth, (stage, (up, down, each)) in enumerate(zip(network.stages, found.base[index], strict=True)):
        if stage.level != level:
            continue
        count = stage.things * each
        thing = np.unique((network.units(depth - 1)[port] if depth else port)[some])
        moved = carried[up : up + count].reshape(stage.things, each)[thing]
        sent = sent or float(moved.sum()) / (1 if kind == "send" else int(some.sum()))
        for first in (up, down):
            capacity = np.maximum(found.capacity_bytes_per_s[first : first + count], 1e-30)
            busy = max(busy, float((carried[first : first + count] / capacity).max()))
    return sent / busy if busy > 0 else np.inf


def _injected(fabric: Fabric, network: Direct, teams: Ints, kind: str) -> float:
    """Bytes per byte of payload that a rank puts on a mesh or torus, however many of its links they cross."""
    level = network.levels[0]
    inner = fabric.levels[level - 1].ranks if level else 1
    outer = fabric.levels[level].ranks
    ranks = teams.shape[1]
    if kind == "send":
        return 1.0
    team = np.repeat(np.arange(len(teams)), ranks)
    flat = np.sort(teams, axis=1).ravel()
    within, beside = size_of(team, flat // inner), size_of(team, flat // outer)
    if kind == "all_to_all":
        return float(np.mean(beside - within) / ranks)
    units = beside / within
    closed = beside == ranks
    edges = np.where(closed & (units > 1), 1.0, (units - 1.0) / units) / within
    return float(np.mean(edges) * (ranks - 1) / ranks)
