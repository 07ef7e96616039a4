"""The machines under the exchange tables, by the tables' names."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from taicang.evidence import systems
from taicang.hardware import Level, Machine, Plane

CONGESTED = "ib-ndr-congested"
"""The network of the eight-node runs of DeepEP normal: a third of the rate that four nodes of the same cluster reach,
and of what DeepSeek publishes for 64 GPUs. Constants of its own keep it from speaking for InfiniBand at large."""


@cache
def machine_of(system: str, nodes: int, congested: bool = False) -> Machine:
    """``nodes`` machines of ``system``; the constants of H800's NVLink are H100's.

    "h800-nic" is the first DeepEP, which sent every copy through the NIC: no two ranks share a domain.
    """

    def seen(level: Level) -> Level:
        if level.profile == "nvlink-h800":
            return replace(level, profile="nvlink-h100", ranks=1 if system == "h800-nic" else level.ranks)
        return replace(level, profile=CONGESTED) if congested and level.name == "scale_out" else level

    machine = systems.machine_of(system.removesuffix("-nic"), nodes)
    levels = tuple(seen(level) for level in machine.planes["scale_up"].levels)
    return replace(machine, planes={"scale_up": Plane(name="scale_up", levels=levels)})
