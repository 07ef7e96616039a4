"""What fails in a cluster, how often, and how many chips stop with it.

Rates of chips, nodes and software are those of 54 days of Llama 3's run on 16,384 H100 (arXiv 2407.21783, table 5: 419
unexpected interruptions); those of links and switches are Alibaba's monthly ones (HPN, SIGCOMM 2024, section 2). Two
tiers of links per chip give the 35 network failures that Llama 3 saw. No rack failed in that run: half a failure among
its racks is Jeffreys' estimate. Repair times are assumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import numpy as np

from taicang.errors import InvalidInput, UnknownName
from taicang.hardware import Machine
from taicang.units import Count

LEAST_MTBF_S: Final = 1.0
HOUR: Final = 3600.0
DAY: Final = 24.0 * HOUR
MONTH: Final = 30.0 * DAY
PUBLISHED: Final[Mapping[str, float]] = MappingProxyType(
    {
        "Llama 3, 16,384 H100": 419.0 / 54.0 / 16384.0,
        "OPT-175B, 992 A100": 54.0 / 56.0 / 992.0,
        "Meta RSC-1, A100": 6.50 / 1000.0 / 8.0,
        "Meta RSC-2, A100": 2.34 / 1000.0 / 8.0,
    }
)
"""Failures per chip and day of clusters (arXiv 2407.21783; OPT-175B's logbook; arXiv 2410.21680)."""
SPREAD: Final = float(np.std(np.log(list(PUBLISHED.values())), ddof=1))
"""Standard deviation of the logarithm of failure rates between clusters."""
_LLAMA_CHIP_S: Final = 54.0 * DAY * 16384.0
_CHIP: Final = 148.0 + 72.0 + 19.0 + 17.0 + 6.0 + 6.0
"""Faulty GPU, its memory, SRAM, system processor, silent corruption, thermal interface."""
_NODE: Final = 32.0 + 7.0 + 3.0 + 3.0 + 2.0 + 2.0 + 2.0 + 2.0
"""Unplanned maintenance, network card, disk, power supply, chassis, expansion board, processor, memory."""
_SOFTWARE: Final = 54.0 + 7.0 + 2.0
"""Bugs, collective timeouts, dependencies."""
MODULES_PER_CHIP: Final = 4.0
"""Two ends of a link to the leaf switch and of one above it (non-blocking)."""
LEAF_CHIPS: Final = 64.0
"""Chips behind a leaf switch (assumed: half the ports of a 128-port switch)."""
RACK_NODES: Final = 4.0
"""Nodes of a rack where the machine does not say (assumed)."""
STORAGE_BYTES_PER_S: Final = 0.25e9
"""One chip's share of the checkpoint storage (assumed: 2 GB/s per node of 8)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A part that fails: how many chips share it, how often it fails, how many chips stop and for how long."""

    chips_each: Count
    """Chips per component: 1 a chip, 8 a host, 1/4 for four optical modules per chip."""
    failures_per_s: float
    """Of one component."""
    blast_chips: Count
    """Chips that leave the job with it (the node, the rack, all behind a switch)."""
    repair_s: float


def rack_chips(machine: Machine) -> Count:
    """Chips of a rack, assumed where the machine does not say."""
    return int(machine.chips_per_rack or RACK_NODES * machine.chips_per_node)


def components(machine: Machine) -> dict[str, Component]:
    """Parts of ``machine`` by class. A single node has no links, switches or racks to lose."""
    node = min(machine.chips_per_node, machine.chips)
    chip_rate, software_rate = _CHIP / _LLAMA_CHIP_S, _SOFTWARE / _LLAMA_CHIP_S
    parts = {
        "chip": Component(chips_each=1, failures_per_s=chip_rate, blast_chips=node, repair_s=DAY),
        "node": Component(chips_each=node, failures_per_s=_NODE / _LLAMA_CHIP_S * 8.0, blast_chips=node, repair_s=DAY),
        "software": Component(chips_each=1, failures_per_s=software_rate, blast_chips=0, repair_s=0.0),
    }
    if machine.chips <= machine.chips_per_node:
        return parts
    rack = rack_chips(machine)
    rack_rate = 0.5 / (16384.0 / 16.0 * 54.0 * DAY)
    month = 1.0 / MONTH
    return parts | {
        "rack": Component(
            chips_each=rack, failures_per_s=rack_rate, blast_chips=min(rack, machine.chips), repair_s=6.0 * HOUR
        ),
        "switch": Component(
            chips_each=LEAF_CHIPS, failures_per_s=0.00051 * month, blast_chips=min(LEAF_CHIPS, machine.chips),
            repair_s=4.0 * HOUR,
        ),
        "optical module": Component(
            chips_each=1.0 / MODULES_PER_CHIP, failures_per_s=0.00057 / 2.0 * month, blast_chips=node,
            repair_s=4.0 * HOUR,
        ),
    }  # fmt: skip


def with_mtbf(parts: Mapping[str, Component], mtbf_s: Mapping[str, float]) -> dict[str, Component]:
    """``parts`` with other mean times between failures of one component; ``UnknownName`` suggests the nearest class."""
    made = dict(parts)
    for name, seconds in mtbf_s.items():
        if name not in made:
            raise UnknownName("class of component", name, made)
        if seconds < LEAST_MTBF_S:
            raise InvalidInput(f"{name}={seconds:g} s: shorter than {LEAST_MTBF_S:g} s is no machine to run on")
        made[name] = replace(made[name], failures_per_s=1.0 / seconds)
    return made


def rates_per_s(parts: Mapping[str, Component], chips: float) -> dict[str, float]:
    """Failures per second of all components of each class in a job on ``chips`` chips."""
    return {name: float(chips / part.chips_each * part.failures_per_s) for name, part in parts.items()}


def missing_ratio(parts: Mapping[str, Component], chips: float) -> float:
    """Mean share of chips under repair: those whose own parts, or a neighbour's that stops them too, are.

    One part is up a share 1 / (1 + rate x repair) of the time; a chip is, while all that stop it are.
    """
    up = 1.0
    for part in parts.values():
        stops = chips / part.chips_each * min(part.blast_chips / chips, 1.0)
        up /= float(1.0 + part.failures_per_s * part.repair_s) ** float(stops)
    return 1.0 - up


def broken_chips(parts: Mapping[str, Component], chips: float) -> float:
    """Mean number of chips under repair (Little's law: rate x repair time x blast radius)."""
    total = 0.0
    for name, rate in rates_per_s(parts, chips).items():
        total += float(rate * parts[name].repair_s * parts[name].blast_chips)
    return total
