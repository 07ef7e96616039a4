"""A plane of a machine as links: ports, switches and what joins them, in arrays.

A plane is a stack of networks. Switched levels that build on each other are one network (a Clos of as many stages);
meshes, tori and the links of adapters are networks of their own. Two ranks talk over the network of the innermost
level that holds both. Every link has two directions, which are two entries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from taicang.errors import MissingFigure, NotModelled
from taicang.hardware import Level, Machine, chained
from taicang.reliability import LEAF_CHIPS

Ints: TypeAlias = NDArray[np.integer[Any]]
Flags: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.floating[Any]]
MOST_LINKS = 20_000_000
"""One way; a machine with more is priced by its closed forms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One tier of switches. Each thing below (a port, or the switches of a unit) has ``fan`` links up to it."""

    level: int
    switch: str
    """Kind of its switches: l1-switch, l2-switch, leaf-switch, spine-switch."""
    unit: Ints
    """Unit that each thing below lies in."""
    units: int
    switches: int
    """Of one unit."""
    below: Ints
    """Of each link of a thing: which of its switches it leaves from (0 for a port)."""
    above: Ints
    """Of each link of a thing: which of the unit's switches it goes to."""
    plane: Ints
    """Of each link of a thing: which independent plane it is in."""
    up: int
    """First of its links that go up: thing * fan + link."""
    down: int

    @property
    def fan(self) -> int:
        """Links of one thing below."""
        return len(self.above)

    @property
    def things(self) -> int:
        """Ports, or units of the stage below."""
        return len(self.unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Switched:
    """A Clos network of one stage or more over ports; several ranks may share a port (an adapter)."""

    levels: tuple[int, ...]
    port: Ints
    """Port of each rank."""
    stages: tuple[Stage, ...]
    inside: Ints
    """Unit of each rank within which other networks carry the traffic."""
    planes: int
    adapters: bool

    def units(self, stage: int) -> Ints:
        """Unit of each port at ``stage``."""
        found = self.stages[0].unit
        for each in self.stages[1 : stage + 1]:
            found = each.unit[found]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Direct:
    """A full mesh (in each dimension) or a torus of units, without switches."""

    levels: tuple[int, ...]
    ranks: int
    """Of one unit (more than one: they share its links through a hub)."""
    dims: tuple[int, ...]
    torus: bool
    first: int
    """First of its links: unit * width + link."""
    units: int
    up: int
    """First link from a rank to its hub (-1 where units are ranks)."""
    down: int

    @property
    def widths(self) -> tuple[int, ...]:
        """Links of one unit along each dimension."""
        return tuple(min(d - 1, 2) if self.torus else d - 1 for d in self.dims)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wired:
    """Any graph of ranks and switches, as a user wrote it."""

    levels: tuple[int, ...]
    names: tuple[str, ...]
    """Of its nodes."""
    node: Ints
    """Node of each rank."""
    through: Ints
    """Of each rank: the node that its messages pass first, or -1."""
    tail: Ints
    """Node that each link leaves; links of one node lie side by side."""
    head: Ints
    first: int


Network: TypeAlias = Switched | Direct | Wired


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """Networks and links of one plane; ``capacity_bytes_per_s`` holds one entry per link and direction."""

    name: str
    machine: str
    ranks: int
    node_ranks: int
    levels: tuple[Level, ...]
    networks: tuple[Network, ...]
    capacity_bytes_per_s: Floats
    alive_ratio: Floats
    """What is left of each link: 0 where it, or a switch at its end, has failed."""
    notes: tuple[str, ...]
    """What had to be assumed."""

    def left_bytes_per_s(self) -> Floats:
        """Capacity of each link after faults."""
        return self.capacity_bytes_per_s * self.alive_ratio


class _Links:
    """Hands out link numbers and remembers capacities."""

    def __init__(self) -> None:
        self.parts: list[Floats] = []
        self.count = 0

    def add(self, count: int, capacity_bytes_per_s: float | Floats) -> int:
        first = self.count
        self.count += count
        if self.count > MOST_LINKS:
            raise NotModelled(f"a fabric of more than {MOST_LINKS:,} links is priced by its closed forms alone")
        self.parts.append(np.full(count, capacity_bytes_per_s))
        return first


def build(machine: Machine, plane: str = "scale_up") -> Fabric:
    """The links of a plane of ``machine``.

    Raises ``MissingFigure`` for a torus without dimensions, ``NotModelled`` where the levels do not nest or the plane
    does not join all ranks.
    """
    levels = machine.plane(plane).levels
    _check(machine, plane, levels)
    links, networks, notes = _Links(), list[Network](), list[str]()
    at = 0
    while at < len(levels):
        if levels[at].topology in ("mesh", "torus"):
            networks.append(_direct(machine, plane, at, links))
            at += 1
            continue
        end = at + 1
        while end < len(levels) and chained(levels[end - 1], levels[end], machine.chip.dies):
            end += 1
        networks.append(_switched(machine, levels, at, end, links, notes))
        at = end
    capacity = np.concatenate(links.parts)
    return Fabric(
        name=plane,
        machine=machine.name,
        ranks=machine.ranks,
        node_ranks=machine.chips_per_node * machine.chip.dies,
        levels=levels,
        networks=tuple(networks),
        capacity_bytes_per_s=capacity,
        alive_ratio=np.ones(len(capacity)),
        notes=tuple(dict.fromkeys(notes)),
    )


def _check(machine: Machine, plane: str, levels: Sequence[Level]) -> None:
    inner = 1
    for level in levels:
        if level.ranks % inner and level is not levels[-1]:
            raise NotModelled(
                f"{machine.name}: {level.ranks} ranks of {plane}.{level.name} are no whole number of units of {inner}"
            )
        inner = level.ranks
    if inner < machine.ranks:
        raise NotModelled(
            f"{machine.name}: the {plane} plane joins {inner:,} ranks of {machine.ranks:,}; "
            "what joins the rest is not known"
        )


def _switched(
    machine: Machine, levels: Sequence[Level], at: int, end: int, links: _Links, notes: list[str]
) -> Switched:
    first, ranks = levels[at], np.arange(machine.ranks)
    inner = levels[at - 1].ranks if at else 1
    adapters = first.behind_adapters
    node = min(machine.chips_per_node * machine.chip.dies, machine.ranks)
    planes = max(level.planes for level in levels[at:end])
    fan, each = max(first.switches, 1), first.bandwidth_bytes_per_s
    port, leaves = ranks, None
    if adapters:
        count = first.adapters or node
        fan = max(count // node, 1)
        shared = min(count, node)
        port = ranks // node * shared + ranks % node * shared // node
        each = first.bandwidth_bytes_per_s * node / shared
        if end - at == 1:
            leaves = _leaves(first, int(port[-1]) + 1, shared, notes)
    ports = int(port[-1]) + 1
    up, down = (links.add(ports * fan, each / fan) for _ in range(2))
    above = np.arange(fan) if not adapters else np.zeros(fan, dtype=np.int64)
    switches = 1 if adapters else fan
    if first.switches == 0 and not adapters:
        notes.append(f"{first.name}: number of switches not published, one ideal switch")
    # by the first rank of each port
    unit = leaves if leaves is not None else np.searchsorted(port, np.arange(ports)) // first.ranks
    stages = [
        Stage(
            level=at, switch="leaf-switch" if adapters else "l1-switch", unit=unit, units=int(unit.max()) + 1,
            switches=switches, below=np.zeros(fan, dtype=np.int64), above=above,
            plane=above * planes // switches % planes, up=up, down=down,
        )
    ]  # fmt: skip
    if leaves is not None and stages[0].units > 1:
        wide = first.leaf or int(LEAF_CHIPS)
        spines = first.switches or wide
        stages.append(
            _stage(at, "spine-switch", np.zeros(stages[0].units, dtype=np.int64), 1, spines, 1, each * wide, links)
        )
    for index in range(at + 1, end):
        level, low = levels[index], levels[index - 1]
        units = -(-machine.ranks // low.ranks)
        if level.switches == 0:
            notes.append(f"{level.name}: number of switches not published, as many as one ideal switch")
        name = "spine-switch" if adapters else f"l{index - at + 1}-switch"
        stages.append(
            _stage(index, name, np.arange(units) * low.ranks // level.ranks, stages[-1].switches,
                   max(level.switches, 1), level.planes, level.bandwidth_bytes_per_s * low.ranks, links)
        )  # fmt: skip
    return Switched(
        levels=tuple(range(at, end)), port=port, stages=tuple(stages), inside=ranks // inner, planes=planes,
        adapters=adapters,
    )  # fmt: skip


def _leaves(level: Level, ports: int, per_node: int, notes: list[str]) -> Ints:
    """Leaf switch of each adapter."""
    wide = level.leaf or int(LEAF_CHIPS)
    index = np.arange(ports)
    if not level.leaf and ports > wide:
        notes.append(f"{level.name}: {wide} adapters behind a leaf switch and as many links above it (assumed)")
    if level.rails and ports > wide:
        return index // per_node // wide * per_node + index % per_node
    return index // wide


def _stage(
    level: int, switch: str, unit: Ints, low: int, high: int, planes: int, width_bytes_per_s: float, links: _Links
) -> Stage:
    """Links from the ``low`` switches of each unit below to ``high`` switches, all to all within each plane."""
    if low % planes or high % planes:
        raise NotModelled(f"{low} switches below and {high} above do not divide into {planes} planes")
    share = high // planes
    fan, things = low * share, len(unit)
    up, down = (links.add(things * fan, width_bytes_per_s / fan) for _ in range(2))
    below = np.repeat(np.arange(low), share)
    plane = below // (low // planes)
    above = plane * share + np.tile(np.arange(share), low)
    return Stage(
        level=level, switch=switch, unit=unit, units=int(unit.max()) + 1, switches=high, below=below, above=above,
        plane=plane, up=up, down=down,
    )  # fmt: skip


def _direct(machine: Machine, plane: str, at: int, links: _Links) -> Direct:
    levels = machine.plane(plane).levels
    level, inner = levels[at], levels[at - 1].ranks if at else 1
    joined = level.ranks // inner
    dims = level.dims or (joined,)
    if level.topology == "torus" and not level.dims:
        raise MissingFigure(machine.name, f"planes.{plane}.{level.name}.dims")
    if math.prod(dims) != joined or level.ranks % inner:
        raise NotModelled(
            f"{machine.name}: dims {'x'.join(map(str, dims))} of {plane}.{level.name} are not its {joined} units"
        )
    torus = level.topology == "torus"
    units = -(-machine.ranks // inner)
    widths = [min(d - 1, 2) if torus else d - 1 for d in dims]
    # a torus deals its bandwidth over dimensions (two units of one share both of its links), a mesh over links
    parts = [len(dims) * w if torus else max(sum(widths), 1) for w in widths for _ in range(w)]
    each = level.bandwidth_bytes_per_s * inner / np.asarray(parts or [1])
    up = down = -1
    if inner > 1:
        up = links.add(machine.ranks, level.bandwidth_bytes_per_s)
        down = links.add(machine.ranks, level.bandwidth_bytes_per_s)
    first = links.count
    links.add(units * sum(widths), np.tile(each, units)[: units * sum(widths)])
    return Direct(levels=(at,), ranks=inner, dims=dims, torus=torus, first=first, units=units, up=up, down=down)
