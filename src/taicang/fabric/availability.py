"""What is left of a fabric when its parts fail and are mended at random: many draws of the steady state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from taicang.fabric.collectives import teams_of
from taicang.fabric.even import Net, even_loads
from taicang.fabric.faults import parts, stopped
from taicang.fabric.routing import resources
from taicang.fabric.topology import Fabric, Floats, Ints
from taicang.reliability import Component

CLASSES: Mapping[str, str] = {
    "node": "node",
    "rank": "chip",
    "module": "optical module",
    "l1-switch": "switch",
    "l2-switch": "switch",
    "leaf-switch": "switch",
    "spine-switch": "switch",
}
"""Kinds of parts that fail at known rates -> their class; a failed chip or node takes its node out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """One entry per draw."""

    nodes_left: Ints
    bandwidth_ratio: Floats
    """Of an even exchange among the ranks that are left, over that of the whole fabric."""
    broken: Mapping[str, Ints]
    """Parts of each kind that are down."""


def down_ratio(part: Component) -> float:
    """Share of the time that one part is broken or being mended."""
    spent = float(part.failures_per_s * part.repair_s)
    return spent / (1.0 + spent)


def draw(fabric: Fabric, known: Mapping[str, Component], draws: int, seed: int, dies: int = 1) -> Draws:
    """``draws`` independent looks at the fabric in its steady state, each part broken as often as its class is."""
    rng = np.random.default_rng(seed)
    counts = {kind: number for kind, number in parts(fabric).items() if CLASSES.get(kind) in known}
    broken = {
        kind: rng.binomial(number // (dies if kind == "rank" else 1), down_ratio(known[CLASSES[kind]]), draws)
        for kind, number in counts.items()
    }
    net = Net(fabric=fabric, found=resources(fabric))
    carried = even_loads(net, teams_of(fabric.ranks), 1.0)
    whole = float((carried / np.maximum(net.found.capacity_bytes_per_s, 1e-30)).max())
    nodes = counts["node"]
    left, ratio = np.full(draws, nodes), np.ones(draws)
    for index in np.flatnonzero(sum(broken.values())).tolist():
        gone = set(rng.choice(nodes, broken["node"][index], replace=False).tolist())
        gone |= set((rng.choice(counts["rank"], broken["rank"][index], replace=False) // fabric.node_ranks).tolist())
        alive = np.ones(len(fabric.capacity_bytes_per_s))
        for kind, count in counts.items():
            if kind in ("node", "rank"):
                continue
            for number in rng.choice(count, broken[kind][index], replace=False).tolist():
                alive[stopped(fabric, kind, number)] = 0.0
        left[index] = nodes - len(gone)
        if not (alive == 1.0).all():
            capacity = np.bincount(net.found.group, weights=fabric.capacity_bytes_per_s * alive, minlength=len(carried))
            busy = carried / np.maximum(capacity, 1e-30)
            busy[_of_nodes(net, gone)] = 0.0
            ratio[index] = min(whole / float(busy.max()), 1.0)
    return Draws(nodes_left=left, bandwidth_ratio=ratio, broken=broken)


def _of_nodes(net: Net, nodes: set[int]) -> Ints:
    """Resources of nodes that are out: nobody waits for them."""
    groups = [net.found.group[stopped(net.fabric, "node", node)] for node in sorted(nodes)]
    return np.unique(np.concatenate(groups)) if groups else np.zeros(0, dtype=np.int64)
