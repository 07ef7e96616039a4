"""Power of a training job, by who draws it.

Chips under training load run at their power limit (that is what lowers their sustained clock); hosts, fans and the
switches inside a unit are the rest of the unit's published power. Switches and optical modules between units are not in
that figure: three ports per chip of a two-tier fat tree at the power of a 64-port switch with active cables. Cooling
and distribution are what PUE adds.
"""

from __future__ import annotations

from dataclasses import dataclass

from taicang.hardware import Machine

PORT_W_PER_BYTES_PER_S = 1720.0 / 64.0 / 50e9
"""Of a 400 Gb/s port (data sheet of a 64-port InfiniBand switch, active cables)."""
PORTS_PER_CHIP = 3.0
"""Down from the leaf switch, up from it, down from the spine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Watts of a whole job."""

    chips_w: float
    hosts_w: float
    """Processors, fans, network cards and the fabric inside a unit."""
    network_w: float
    """Switches and modules between units."""
    cooling_w: float

    @property
    def total_w(self) -> float:
        """Of the facility."""
        return self.chips_w + self.hosts_w + self.network_w + self.cooling_w


def job_power(machine: Machine, chips: float) -> Power | None:
    """Power of a job on ``chips`` of the machine's chips; None without a public figure of the machine or its chips."""
    if machine.power_w is None or machine.chip.tdp_w is None:
        return None
    unit = machine.power_w / machine.chips * chips
    drawn = min(machine.chip.tdp_w * chips, unit)
    levels = machine.plane("scale_up").levels
    outside = len(levels) > 1 and levels[-1].name == "scale_out"
    port_w = levels[-1].bandwidth_bytes_per_s * machine.chip.dies * PORT_W_PER_BYTES_PER_S
    network = chips * PORTS_PER_CHIP * port_w if outside else 0.0
    return Power(
        chips_w=drawn,
        hosts_w=unit - drawn,
        network_w=network,
        cooling_w=(unit + network) * (machine.pue_ratio - 1.0),
    )
