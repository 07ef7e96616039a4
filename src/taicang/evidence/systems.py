"""Names that measured tables give to machines, as entries of the catalogue."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from types import MappingProxyType

from taicang import catalog
from taicang.catalog.build import machines_with
from taicang.catalog.resolve import find, is_path
from taicang.errors import NotModelled, UnknownName
from taicang.evidence import recipes
from taicang.hardware import Chip, Machine, Plane

MACHINES: Mapping[str, str] = MappingProxyType(
    {
        "a100_sxm": "hgx-a100",
        "h100_sxm": "hgx-h100",
        "h200_sxm": "hgx-h200",
        "b200_sxm": "hgx-b200",
        "b300_sxm": "hgx-b300",
        "gb200": "gb200-nvl72",
        "gb300": "gb300-nvl72",
        "l40s": "l40s-pcie",
        "h800": "hgx-h800",
        "cloudmatrix384": "cloudmatrix384",
    }
)


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
def units_of(name: str, units: int) -> Machine:
    """``units`` of the catalogue's machine ``name`` on one network."""
    return catalog.machine(name if units == 1 else f"{name} x {units}")


def machine_for(name: str, ranks: int) -> Machine:
    """As many of the catalogue's machine ``name`` as ``ranks`` need."""
    return units_of(name, -(-ranks // units_of(name, 1).ranks))


def machine_stated(system: str, chip: str, ranks: int) -> Machine:
    """The machines of a published row: those that carry its chip, else those that the catalogue knows by its system."""
    said = recipes.declared()
    for name in (said["machines"].get(chip), "-".join(system.lower().split()), said["unbinned"].get(chip)):
        with suppress(UnknownName):
            if name:
                return with_adapters(machine_for(name, ranks), system)
    raise NotModelled(f"no machine of {chip or system} in the catalogue")


def with_adapters(machine: Machine, system: str) -> Machine:
    """``machine`` with the network adapters that a row's own words give to a node ("8 x A100 and 4 x 100G a node")."""
    said = re.search(r"(\d+) x (\d+)G\b.* a node", system)
    if said is None:
        return machine
    node = machine.chips_per_node * machine.chip.dies
    each = float(said[1]) * float(said[2]) * 1e9 / 8.0 / node

    def seen(plane: Plane) -> Plane:
        levels = (
            replace(level, bandwidth_bytes_per_s=each) if level.name in ("scale_out", "cluster") else level
            for level in plane.levels
        )
        return replace(plane, levels=tuple(levels))

    return replace(machine, planes={name: seen(plane) for name, plane in machine.planes.items()})


def stack_named(software: str) -> str:
    """The catalogue's name of the stack that a row's software means: "nemo@25.04", "MindSpeed-LLM 2026-06".

    A month in place of a version is the newest release of that month or before, else the oldest known.
    """
    name, version, *_ = [*re.split(r"[@/\s]+", software.strip().partition(",")[0], maxsplit=1), ""]
    engine = catalog.stack(recipes.declared()["engines"].get(name, name.lower())).name.partition("@")[0]
    known = {catalog.stack(each).epoch: each for each in catalog.names("stack") if each.partition("@")[0] == engine}
    if not re.match(r"20\d\d-\d\d", version) or f"{engine}@{version}" in known.values():
        return f"{engine}@{version}" if version else engine
    before = [epoch for epoch in sorted(known) if epoch <= version[:7]]
    return known[before[-1] if before else min(known)]
