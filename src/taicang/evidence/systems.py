"""Machines, fabrics and stacks under measured rows: what their names mean, by the catalogue and tables of ``data``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

from taicang import catalog
from taicang.catalog import files
from taicang.catalog.build import machines_with
from taicang.catalog.resolve import find, is_path
from taicang.catalog.rules import section
from taicang.errors import NotModelled, UnknownName
from taicang.evidence.tables import CARRIED
from taicang.hardware import Chip, Level, Machine, Plane
from taicang.ops import CollectiveKind

TRAINING = CARRIED / "rules" / "training.yaml"
"""The file of rules for rows of training."""


@cache
def fabric_tables() -> Mapping[str, Mapping[str, Any]]:
    """The tables of ``data/fabrics.yaml``."""
    return files.read(CARRIED / "fabrics.yaml")


MACHINES: Mapping[str, str] = fabric_tables()["machines"]
"""System of the tables -> machine of the catalogue."""
KINDS: Mapping[str, CollectiveKind] = fabric_tables()["kinds"]
"""Collective of the tables -> operator."""


def machine_named(system: str) -> str:
    """The machine of rows of ``system``: what is no such abbreviation is the catalogue's name itself, or that
    of a chip, whose smallest machine it is (as "8x H100" is)."""
    if system in MACHINES or is_path(system) or find("machine", system) or find("chip", system) is None:
        return MACHINES.get(system, system)
    return next(iter(machines_with(system)), system)


def chip_of(system: str) -> Chip:
    """The chip that rows of ``system`` ("h100_sxm", "gb200") were measured on; ``UnknownName`` for others."""
    own = catalog.own.find("chip", system)
    return catalog.chip(str(own)) if own else _chip_of(system)


@cache
def _chip_of(system: str) -> Chip:
    return catalog.chip(system.replace("-", "_").removesuffix("_sxm").replace("_", "-"))


@cache
def machine_of(system: str, units: int = 1) -> Machine:
    """``units`` machines of ``system`` on one network; KeyError for a system without one."""
    return units_of(MACHINES[system], units)


@cache
def units_of(name: str, units: int, links: bool = False) -> Machine:
    """``units`` of the catalogue's machine ``name`` on one network, or their ``links`` alone."""
    return catalog.machine(name if units == 1 else f"{name} x {units}", links=links)


def machine_for(name: str, ranks: int, links: bool = False) -> Machine:
    """As many of the catalogue's machine ``name`` as ``ranks`` need, or their ``links`` alone."""
    return units_of(name, -(-ranks // units_of(name, 1, links).ranks), links)


SIZE = re.compile(r"([-_ ](\d+ ?gb?|sxm\d?))+$")
"""End of a chip's name that says what it carries ("A800-80G", "H800-SXM5")."""


def machine_stated(system: str, chip: str, ranks: int, extra: Mapping[str, Any], *, links: bool = False) -> Machine:
    """The machines of a published row: those that carry its chip, else those that the catalogue knows by its system.

    ``extra`` is what the row says besides; where only ``links`` are asked about the chip may be known less well.
    """
    plain = SIZE.sub("", chip.lower())
    known = next((machines_with(each) for each in (chip.lower(), plain) if find("chip", each)), ())
    own, unbinned = (section(TRAINING, name).get(chip) for name in ("machines", "unbinned"))
    for name in (own, "-".join(system.lower().split()), unbinned, *known[:1]):
        with suppress(UnknownName):
            if name:
                on = _spread(machine_for(name, ranks, links), nodes_stated(system), ranks)
                return _cabled(on, system, extra)
    raise NotModelled(f"no machine of {chip or system} in the catalogue")


def nodes_stated(system: str) -> int:
    """Nodes that a row's own words count ("HGX H800, 2 nodes"); 1 where they say nothing."""
    said = re.search(r"\b(\d+) nodes\b", system)
    return int(said[1]) if said else 1


def _spread(machine: Machine, nodes: int, ranks: int) -> Machine:
    """``machine``, or one of as many smaller nodes where ``ranks`` on so many ``nodes`` leave a part of each idle."""
    each, rest = divmod(ranks, nodes)
    if nodes == 1 or rest or each >= machine.chips_per_node * machine.chip.dies or each % machine.chip.dies:
        return machine
    whole = units_of(machine.name.partition(" x ")[0], nodes, links=True)

    def kept(plane: Plane) -> Plane:
        sized = (replace(level, ranks=ranks if level.ranks == whole.ranks else each) for level in plane.levels)
        levels = tuple(level for level in sized if level.ranks > 1)
        return replace(plane, levels=levels)

    planes = {name: kept(plane) for name, plane in whole.planes.items() if plane.levels[-1].ranks == whole.ranks}
    per_node = each // machine.chip.dies
    return replace(machine, chips=per_node * nodes, chips_per_node=per_node, planes=planes)


PORTS = re.compile(r"\b(\d+) ?x ?(?:(\d+) ?G(?:bit/s|b/s|bps|bE|E)?|([EHNX]DR)\d*)\b")
PORT_GBIT = {"EDR": 100.0, "HDR": 200.0, "NDR": 400.0, "XDR": 800.0}


def _cabled(machine: Machine, system: str, extra: Mapping[str, Any]) -> Machine:
    """``machine`` with the network adapters that a row gives to each node: "8 x 100G a node" in its system, "nics" and
    "nic_gbit" besides."""
    found, node = PORTS.search(system), machine.chips_per_node * machine.chip.dies
    if not found and not extra.keys() & {"nics", "nic_gbit"}:
        return machine
    gbit = float(extra.get("nic_gbit") or (found and (found[2] or PORT_GBIT[found[3]])) or 0)

    def wired(level: Level) -> Level:
        if level.name not in ("scale_out", "cluster"):
            return level
        ports = float(extra.get("nics") or (found[1] if found else 0) or level.adapters or node)
        each = gbit / 8 * 1e9 if gbit else level.bandwidth_bytes_per_s * node / (level.adapters or node)
        adapters = int(ports) if ports < node else 0
        return replace(level, bandwidth_bytes_per_s=each * ports / node, adapters=adapters)

    planes = {
        name: replace(plane, levels=tuple(map(wired, plane.levels))) if name in ("scale_up", "rdma") else plane
        for name, plane in machine.planes.items()
    }
    return replace(machine, planes=planes)


def stack_named(software: str) -> str:
    """The catalogue's name of the stack that a row's software means: "nemo@25.04", "MindSpeed-LLM 2026-06".

    A month in place of a version is the newest release of that month or before, else the oldest known.
    """
    name, version, *_ = [*re.split(r"[@/\s]+", software.strip().partition(",")[0], maxsplit=1), ""]
    engine = catalog.stack(section(TRAINING, "software").get(name, name.lower())).name.partition("@")[0]
    known = {catalog.stack(each).epoch: each for each in catalog.names("stack") if each.partition("@")[0] == engine}
    if not re.match(r"20\d\d-\d\d", version) or f"{engine}@{version}" in known.values():
        return f"{engine}@{version}" if version else engine
    before = [epoch for epoch in sorted(known) if epoch <= version[:7]]
    return known[before[-1] if before else min(known)]


CONGESTED = "ib-ndr-congested"
"""The network of the eight-node runs of DeepEP normal: a third of the rate that four nodes of the same cluster reach,
and of what DeepSeek publishes for 64 GPUs. Constants of its own keep it from speaking for InfiniBand at large."""


def system_of(system: str, version: str) -> str:
    """The system that a ``version`` of an engine was measured on, where a table's own name hides it."""
    return str(fabric_tables()["elsewhere"].get(system, {}).get(version, system))


@cache
def level(system: str, *, reduces: bool | None = None) -> Level:
    """The level that ``system`` of the tables was measured on; ``reduces`` switches in-switch reduction off or on.

    A chip that no table names was measured in the smallest machine of the catalogue that has it.
    """
    if system not in fabric_tables()["levels"]:
        machines = catalog.machines_with(chip_of(system).name)
        if not machines:
            raise UnknownName("system of collectives", system, fabric_tables()["levels"])
        return catalog.machine(machines[0]).planes["scale_up"].levels[0]
    said = fabric_tables()["levels"][system]
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

    machine = machine_of(system.removesuffix("-nic"), nodes)
    levels = tuple(seen(level) for level in machine.planes["scale_up"].levels)
    return replace(machine, planes={"scale_up": Plane(name="scale_up", levels=levels)})
