"""Parts of a supernode as machines of their own: the switches that a size takes, and what a stream of jobs leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taicang.errors import InvalidInput, NotModelled
from taicang.hardware import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Logical:
    """One logical machine."""

    chips: int
    nodes: int
    switch_boxes: int
    used_ratio: float
    """Ports of these switches that have a node at the other end."""


def logical(machine: Machine, chips: int) -> Logical:
    """The switches of a logical machine of ``chips``: racks of them are taken whole, as many as have the ports.

    Raises ``InvalidInput`` for a size that is no number of nodes or beyond the machine, ``NotModelled`` where the racks
    of the switches are not published.
    """
    level = next((each for each in machine.plane("scale_up").levels if each.switch_racks), None)
    if level is None or not level.switch_boxes:
        raise NotModelled(f"{machine.name}: how its switches are racked is not published")
    if chips < 1 or chips % machine.chips_per_node or chips * machine.chip.dies > level.ranks:
        most = level.ranks // machine.chip.dies
        raise InvalidInput(
            f"{chips} chips are no whole number of nodes of {machine.chips_per_node} up to {most}", where="--logical"
        )
    nodes, whole = chips // machine.chips_per_node, level.ranks // machine.chip.dies // machine.chips_per_node
    racks = -(-nodes * level.switch_racks // whole)
    return Logical(
        chips=chips, nodes=nodes, switch_boxes=racks * level.switch_boxes // level.switch_racks,
        used_ratio=nodes / (whole * racks / level.switch_racks),
    )  # fmt: skip


def allocated_ratio(nodes: int, sizes: Sequence[int], *, jobs: int = 20_000, seed: int = 0) -> float:
    """Mean share of ``nodes`` in use under a backlog of jobs of ``sizes`` nodes, in turn, each as long as any other.

    The first job that does not fit waits, and all behind it with it; memoryless lengths.
    """
    if not sizes or min(sizes) < 1 or max(sizes) > nodes:
        raise InvalidInput(f"sizes from 1 to {nodes} nodes, got {list(sizes)}", where="--jobs")
    rng = np.random.default_rng(seed)
    queue = rng.choice(np.asarray(sizes), jobs)
    running: list[int] = []
    free, used, time = nodes, 0.0, 0.0
    for size in queue.tolist():
        while size > free:
            span = 1.0 / len(running)
            used += (nodes - free) * span
            time += span
            free += running.pop(int(rng.integers(len(running))))
        running.append(size)
        free -= size
    return used / (time * nodes) if time else 1.0 - free / nodes
