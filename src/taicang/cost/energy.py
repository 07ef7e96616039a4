"""Power of a chip from what it does: arithmetic, memory traffic and network injection, each at its share of the peak.

A chip whose clocks are up for work draws ``base_ratio`` of its limit before anything moves; arithmetic, memory and
network add in proportion to how busy they are (energy per FLOP and per byte are constant at one voltage, so power is
their rate times that energy). The limit caps the sum: the chip lowers its clocks to hold it.
Source of the form: the linear activity model of processor power (Isci and Martonosi, 2003).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from taicang.errors import MissingFigure
from taicang.hardware import Chip
from taicang.units import Num


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyFit:
    """Constants of one architecture, relative to the chip's power limit."""

    base_ratio: float
    """Drawn by a chip that is at work, whatever it does."""
    compute_ratio: float
    """Added by arithmetic units that are always busy."""
    memory_ratio: float
    """Added by device memory at its full bandwidth."""
    network_ratio: float
    """Added by the network at the full rate of the innermost link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Shares of the time that each unit of one rank would be busy at its peak; between 0 and 1."""

    compute_ratio: Num
    memory_ratio: Num
    network_ratio: Num


def chip_power_w(activity: Activity, chip: Chip, fit: EnergyFit) -> Num:
    """Power of one package in W, between idle and the limit; all its dies do the same.

    Raises ``MissingFigure`` for a chip whose power limit no public source gives.
    """
    if chip.tdp_w is None:
        raise MissingFigure(chip.name, "power.tdp")
    idle_w = chip.idle_w or 0.0
    drawn = (
        fit.base_ratio
        + fit.compute_ratio * np.clip(activity.compute_ratio, 0.0, 1.0)
        + fit.memory_ratio * np.clip(activity.memory_ratio, 0.0, 1.0)
        + fit.network_ratio * np.clip(activity.network_ratio, 0.0, 1.0)
    )
    return np.minimum(np.maximum(drawn * chip.tdp_w, idle_w), chip.tdp_w)
