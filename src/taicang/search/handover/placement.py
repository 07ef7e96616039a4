"""How one instance lies on nodes: equal shares of whole attention groups wherever that is possible."""

from __future__ import annotations

from dataclasses import dataclass

from taicang.errors import NotModelled
from taicang.hardware import Machine
from taicang.plans import ServePlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """``nodes`` nodes give ``devices`` devices each (a device is a rank: a GPU, or one die of an Ascend package)."""

    nodes: int
    devices: int


def place(plan: ServePlan, machine: Machine) -> Placement:
    """The fewest nodes that hold the instance in equal shares. Raises ``NotModelled`` where there is no such split.

    With attention data parallelism a node holds whole groups (their ranks in all stages), or a group fills whole nodes.
    """
    room = machine.chips_per_node * machine.chip.dies
    ranks, group = plan.ranks, plan.tp * plan.pp
    for nodes in range(-(-ranks // room), ranks + 1):
        if ranks % nodes == 0:
            share = ranks // nodes
            if plan.dp == 1 or share % group == 0 or (group > room and group % share == 0):
                return Placement(nodes=nodes, devices=share)
    raise NotModelled(f"{ranks} ranks in groups of {group} have no equal split on nodes of {room} devices")
