"""Chips, fabrics and machines as plain numbers. A rank is one die (Ascend 910C) or one GPU; a chip is what one buys."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from taicang.errors import NotModelled

Topology: TypeAlias = Literal["switch", "mesh", "clos", "torus"]
NETWORKS = ("ib", "roce", "efa", "eth")
"""First words of the profiles of networks behind adapters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Device memory of one rank."""

    capacity_bytes: float
    bandwidth_bytes_per_s: float
    reach_ratio: float | None = None
    """Share of that bandwidth which data can have at best, as measured or by what error correction takes of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One accelerator package; all rates and sizes are per rank (die), dense peaks.

    ``profile`` names the calibrated kernel constants, ``measured`` whether they were measured on this very chip.
    """

    name: str
    vendor: str
    dies: int
    peak_flop_per_s: Mapping[str, float]
    vector_flop_per_s: float
    cores: int
    memory: Memory
    l2_bytes: float
    profile: str
    measured: bool
    tdp_w: float | None
    """Of the package."""
    idle_w: float | None
    sustained_ratio: float | None = None
    """Clock of dense products at the power limit over the nominal one, where its maker publishes that."""
    cube_share_ratio: float = 1.0
    """Share of the matrix cores that this stream may use (1 unless the stack partitions them)."""
    vector_share_ratio: float = 1.0
    l2_bytes_per_s: float = math.inf
    """What its cores together read from its L2; infinite where nobody measured it."""
    kernels: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    """Constants that a user measured, in place of the profile's: family -> key -> constant."""

    @property
    def ascend(self) -> bool:
        """Whether it is one of Huawei's, with their software."""
        return self.vendor.lower() == "huawei"

    def peak(self, key: str) -> float:
        """Dense arithmetic peak of one rank in FLOP/s for a peak key ("bf16", "fp8"...), after the core partition.

        A chip without bf16 runs what is in it in fp16.
        """
        if key == "bf16" and key not in self.peak_flop_per_s:
            key = "fp16"
        try:
            return self.peak_flop_per_s[key] * self.cube_share_ratio
        except KeyError:
            have = ", ".join(sorted(self.peak_flop_per_s))
            raise NotModelled(f"{self.name} has no {key} arithmetic (it has {have})") from None

    def partition(self, *, cube_ratio: float, vector_ratio: float, reach_ratio: float = math.inf) -> Chip:
        """This chip as seen by a stream that holds a share of its matrix and vector cores; memory stays shared.

        ``reach_ratio`` is the bandwidth that all cores together could ask for over the memory's (Little's law: each
        core has only so many requests in flight), so that a small share of them cannot fill the memory.
        """
        drawn = min(1.0, reach_ratio * max(cube_ratio, vector_ratio))
        memory = replace(self.memory, bandwidth_bytes_per_s=self.memory.bandwidth_bytes_per_s * drawn)
        return replace(self, cube_share_ratio=cube_ratio, vector_share_ratio=vector_ratio, memory=memory)


def is_network(level: str, profile: str) -> bool:
    """Whether a level of this name and profile is a network of adapters."""
    return level == "scale_out" or profile.partition("-")[0] in NETWORKS


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One tier of a plane. ``ranks`` share it; ``bandwidth_bytes_per_s`` is one rank's, one way, through this tier."""

    name: str
    ranks: int
    bandwidth_bytes_per_s: float
    latency_s: float
    topology: Topology
    reduces: bool = False
    """Switches add in flight (NVLink SHARP, InfiniBand SHARP)."""
    profile: str = ""
    """Name of calibrated collective constants ("" = derived from bandwidth and latency alone)."""
    switches: int = 0
    """Switch chips of one unit that its traffic spreads over (0: not published; one ideal switch)."""
    planes: int = 1
    """Groups of these switches, each of which meets only its own share of the switches below."""
    links_per_module: int = 0
    """Links that stop with one optical module (0: copper, or not published)."""
    adapters: int = 0
    """Network adapters of a node (0: one per rank)."""
    leaf: int = 0
    """Adapters behind one leaf switch (0: not published)."""
    rails: bool = False
    """A leaf switch serves the adapters of one number on many nodes, not all adapters of a few."""
    switch_boxes: int = 0
    """Boxes that hold these switches (0: not published)."""
    switch_racks: int = 0
    """Racks that hold the boxes, which a part of the machine takes whole."""
    dims: tuple[int, ...] = ()
    """Units along each dimension of a mesh or torus (none: a mesh of one dimension)."""

    @property
    def behind_adapters(self) -> bool:
        """Whether it is a network of adapters beside the chips' own links."""
        return is_network(self.name, self.profile)


def chained(low: Level, high: Level, dies: int) -> bool:
    """Whether ``high`` builds on the switches of ``low``, so that what crosses it leaves through the same ports.

    Adapters, the links between the dies of a package and those of a mesh or torus are ports of their own.
    """
    switched = low.topology in ("switch", "clos") and high.topology in ("switch", "clos")
    return switched and high.behind_adapters == low.behind_adapters and low.ranks > dies


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """An independent network: levels from the innermost out, each with more ranks than the one before."""

    name: str
    levels: tuple[Level, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """How messages find their way where links are priced one by one, and which parts have failed."""

    routing: Literal["closed", "adaptive", "striped", "ecmp"] = "adaptive"
    """Closed: by closed forms, not one by one."""
    seed: int = 0
    failed: tuple[str, ...] = ()
    stretch_ratio: float = 1.0
    """How much longer than these links need everything takes."""
    placed: int | None = None
    """Seed of the random places that ranks lie at (None: in their order)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine of ``chips`` equal chips.

    ``planes["scale_up"]`` carries tensor, expert and sequence parallel traffic across all its levels (its outer levels
    may be the scale-out network of a cluster); other planes have jobs of their own ("rdma" KV transfer, "vpc" storage,
    "host" CPU memory).
    """

    name: str
    chip: Chip
    chips: int
    chips_per_node: int
    planes: Mapping[str, Plane]
    host_memory_bytes: float
    """Pooled CPU memory of the whole machine (0 where it is not part of the machine)."""
    power_w: float | None
    """Whole machine under load, IT only."""
    pue_ratio: float
    price_usd: float | None
    status: str
    power_from: str = "a figure that was given, not predicted"
    """What ``power_w`` is: published, assumed..."""
    price_cny: float | None = None
    overlap_tax_ratio: float = 0.0
    """How much computing slows per second of communication beside it: the cores and memory bandwidth that a running
    collective takes (0 where engines of their own move the data, or where nobody measured it)."""
    chips_per_rack: int | None = None
    """Chips that share a rack's power and cooling, where it is published."""
    links: Links | None = None
    """Price the fabric link by link (None: by closed forms)."""

    @property
    def ranks(self) -> int:
        """Ranks in the machine: chips times dies."""
        return self.chips * self.chip.dies

    @property
    def chip_power_w(self) -> float | None:
        """One chip's share of the IT power under load."""
        return None if self.power_w is None else self.power_w / self.chips

    @property
    def domain(self) -> int:
        """Ranks of the largest level with scale-up bandwidth: the node of a cluster, the whole of a supernode."""
        levels = self.plane("scale_up").levels
        inner = max(level.bandwidth_bytes_per_s for level in levels)
        return max(level.ranks for level in levels if level.bandwidth_bytes_per_s >= 0.4 * inner)

    def plane(self, name: str) -> Plane:
        """The plane by name; ``NotModelled`` if the machine lacks it."""
        try:
            return self.planes[name]
        except KeyError:
            have = ", ".join(self.planes)
            raise NotModelled(f"{self.name} has no {name} plane (it has {have})") from None

    def degraded(self, name: str, share: float) -> Machine:
        """This machine with ``share`` of the bandwidth of a plane, or without the plane where nothing is left."""
        plane = self.plane(name)
        rest = {key: each for key, each in self.planes.items() if key != name}
        if share <= 0:
            return replace(self, planes=rest)
        levels = tuple(
            replace(level, bandwidth_bytes_per_s=level.bandwidth_bytes_per_s * share) for level in plane.levels
        )
        return replace(self, planes=rest | {name: replace(plane, levels=levels)})


def in_half(machine: Machine, form: str) -> Machine:
    """``machine`` for a job whose 16-bit products are in ``form``: kernels name them "bf16" whichever they are.

    Raises ``NotModelled`` where the chip has no such arithmetic, naming what it has.
    """
    peaks = machine.chip.peak_flop_per_s
    if form not in peaks:
        other = "fp16" if form == "bf16" else "bf16"
        says = f"use --dtype {other}" if other in peaks else f"it has {', '.join(sorted(peaks))}"
        raise NotModelled(f"{machine.chip.name} has no {form}: {says}")
    return replace(machine, chip=replace(machine.chip, peak_flop_per_s={**peaks, "bf16": peaks[form]}))
