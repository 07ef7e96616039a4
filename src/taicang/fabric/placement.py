"""Which axis of a plan crosses which links, by the order of the axes or at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from taicang.errors import InvalidInput
from taicang.fabric.collectives import collective
from taicang.fabric.even import Net
from taicang.fabric.routing import meeting
from taicang.fabric.topology import Ints

EVEN = ("ep",)
"""Axes whose ranks exchange with all others; the rest pass shards around a ring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of a plan on a machine."""

    name: str
    ranks: int
    stride: int
    reached_ratio: Mapping[str, float]
    """Share of a rank's partners that it meets at each level."""
    wire_s: float
    """All groups of the axis at once."""
    shuffled_s: float
    """The same with ranks at random places."""


def teams(order: Mapping[str, int], name: str, ranks: int) -> Ints:
    """Groups of the axis ``name``; the first axis of ``order`` varies fastest."""
    total = int(np.prod(list(order.values())))
    if total > ranks:
        raise InvalidInput(
            f"{' x '.join(f'{k}={v}' for k, v in order.items())} are {total:,} ranks of {ranks:,}", where="--axes"
        )
    names = list(order)[::-1]
    grid = np.arange(total).reshape([order[axis] for axis in names])
    moved = np.moveaxis(grid, names.index(name), -1)
    return np.ascontiguousarray(moved.reshape(-1, order[name]))


def place(net: Net, order: Mapping[str, int], payload_bytes: float, seed: int = 0) -> tuple[Axis, ...]:
    """Every axis with ``payload_bytes`` per rank: in order, and with ranks at random places."""
    fabric = net.fabric
    places = np.random.default_rng(seed).permutation(fabric.ranks)
    found, stride = [], 1
    for name, size in order.items():
        groups = teams(order, name, fabric.ranks)
        kind = "all_to_all" if name in EVEN else "all_gather"
        times = [sum(p.wire_s for p in collective(net, kind, each, payload_bytes)) for each in (groups, places[groups])]
        met = meeting(fabric, *(each.ravel() for each in np.broadcast_arrays(groups[:, :1], groups[:, 1:])))
        share = np.bincount(met, minlength=len(fabric.levels)) / max(len(met), 1)
        reached = {level.name: float(part) for level, part in zip(fabric.levels, share, strict=True)}
        found.append(
            Axis(name=name, ranks=size, stride=stride, reached_ratio=reached, wire_s=times[0], shuffled_s=times[1])
        )
        stride *= size
    return tuple(found)
