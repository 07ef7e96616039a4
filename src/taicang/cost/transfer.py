"""Price of a point-to-point move: set-up, latency of the tier that it crosses, bytes at that tier's bandwidth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from taicang.cost.collective import Fits, Line, Wires
from taicang.cost.collective_bound import pair_bytes_per_s
from taicang.cost.cost import Cost

if TYPE_CHECKING:
    from taicang.hardware import Level, Machine
    from taicang.ops import Transfer
    from taicang.units import Num

KEY = "transfer/read"
"""Line of a bulk move, pulled by its reader (KV caches, pooled memory): ``base_s`` once, ``hop_s`` per message."""


def _line(fits: Fits, level: Level, plane: str) -> tuple[Line, float]:
    """Constants and seconds per message: of the level, else of such a plane, else of a move in general."""
    found = fits.get(level.profile, {}).get(KEY)
    if found is not None:
        return found, max(found.hop_s, level.latency_s)
    assumed = fits["default"].get(f"{KEY}/{plane}") or fits["default"][KEY]
    return assumed, max(assumed.hop_s, level.latency_s)


def transfer(op: Transfer, machine: Machine, fits: Fits, wires: Wires | None = None) -> Cost:
    """Price ``op`` on its plane ("scale_up", "rdma", "vpc", "host"); fields may be floats or arrays.

    Ends that lie ``distance`` ranks apart meet in the innermost level with more ranks than that. ``messages`` are
    sent one after the other: each pays a latency. Never below bytes / line rate; zero for a distance of zero.
    Raises ``NotModelled`` without the plane.
    """
    levels = machine.plane(op.plane).levels
    distance = op.distance * 1.0
    seconds = 0.0 * distance
    wire = 0.0 * distance
    within = 0
    met: list[Num] = []
    rates = wires.rates(op.plane, "send", 2, op.distance) if wires else [None] * len(levels)
    for level, given in zip(levels, rates, strict=True):
        pair = pair_bytes_per_s(level, max(within, 1)) if op.plane == "scale_up" else level.bandwidth_bytes_per_s
        rate = pair if given is None else given
        reached = (distance >= within) * 1.0
        if level is not levels[-1]:
            reached = reached * (distance < level.ranks)
        met.append(reached * (distance > 0.0) * op.payload_bytes)
        line, message_s = _line(fits, level, op.plane)
        line_rate_s = op.payload_bytes / rate
        wire = wire + reached * line_rate_s
        seconds = seconds + reached * (line.base_s + message_s * op.messages + line_rate_s / line.efficiency_ratio)
        within = level.ranks
    moved = (distance > 0.0) * 1.0
    seconds, wire = seconds * moved, wire * moved
    return Cost(
        seconds=np.maximum(seconds, wire),
        network_s=wire,
        latency_s=seconds - wire,
        sent_bytes=op.payload_bytes * moved,
        level_bytes=tuple(met),
        origin=f"transfer/{op.plane}/{levels[0].profile or 'default'}",
    )
