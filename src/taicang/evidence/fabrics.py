"""The fabrics under measured collectives and exchanges, from ``data/fabrics.yaml`` or the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any

from taicang import catalog
from taicang.catalog import files
from taicang.errors import UnknownName
from taicang.evidence import systems
from taicang.evidence.tables import CARRIED
from taicang.hardware import Level, Machine, Plane
from taicang.ops import CollectiveKind

KINDS: Mapping[str, CollectiveKind] = MappingProxyType(
    {
        "all_gather": "all_gather",
        "all_reduce": "all_reduce",
        "alltoall": "all_to_all",
        "reduce_scatter": "reduce_scatter",
    }
)
CONGESTED = "ib-ndr-congested"
"""The network of the eight-node runs of DeepEP normal: a third of the rate that four nodes of the same cluster reach,
and of what DeepSeek publishes for 64 GPUs. Constants of its own keep it from speaking for InfiniBand at large."""


@cache
def declared() -> Mapping[str, Mapping[str, Any]]:
    """The tables of ``data/fabrics.yaml``."""
    return files.read(CARRIED / "fabrics.yaml")


def system_of(system: str, version: str) -> str:
    """The system that a ``version`` of an engine was measured on, where a table's own name hides it."""
    return str(declared()["elsewhere"].get(system, {}).get(version, system))


@cache
def level(system: str, *, reduces: bool | None = None) -> Level:
    """The level that ``system`` of the tables was measured on; ``reduces`` switches in-switch reduction off or on.

    A chip that no table names was measured in the smallest machine of the catalogue that has it.
    """
    if system not in declared()["levels"]:
        machines = catalog.machines_with(systems.chip_of(system).name)
        if not machines:
            raise UnknownName("system of collectives", system, declared()["levels"])
        return catalog.machine(machines[0]).planes["scale_up"].levels[0]
    said = declared()["levels"][system]
    return Level(
        name="node",
        ranks=said["ranks"],
        bandwidth_bytes_per_s=said["gb_s"] * 1e9,
        latency_s=1e-6,
        topology=said.get("topology", "switch"),
        reduces=said.get("reduces", False) if reduces is None else reduces,
        profile=said["profile"],
    )


def scale_out(profile: str, ranks: int, bandwidth_bytes_per_s: float, *, reduces: bool = False) -> Level:
    """A scale-out tier that joins nodes into a cluster of ``ranks``."""
    return Level(
        name="scale_out",
        ranks=ranks,
        bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        latency_s=5e-6,
        topology="clos",
        reduces=reduces,
        profile=profile,
    )


def fabric_of(*levels: Level, plane: str = "scale_up") -> Machine:
    """A machine with one plane of these levels; the rest of it does not matter to a collective."""
    return replace(
        catalog.machine("hgx-h100"),
        name="measured",
        chips=levels[-1].ranks,
        chips_per_node=4 if levels[0].ranks == 72 else levels[0].ranks,  # a tray of the NVL72 runs four GPUs
        planes={plane: Plane(name=plane, levels=levels)},
    )


@cache
def exchange_machine(system: str, nodes: int, congested: bool = False) -> Machine:
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
