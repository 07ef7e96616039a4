"""What a chip sustains while it trains, against kernel benchmarks of a few microseconds.

A kernel benchmark runs a cool chip at its highest clock. A training step keeps every matrix unit busy for seconds, and
the power limit lowers the clock until the product of activity and frequency fits the board's budget. Only what the
clock drives slows down: arithmetic, not memory or networks. One ratio per chip, for all software.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

from taicang.cost.routing import expected_maximum_ratio
from taicang.hardware import Machine

AMPERE_PATH_RATIO = 0.62
"""Share of Hopper's and Blackwell's matrix peak that kernels written for Ampere's instructions reach (arXiv 2402.13499,
warp-level against warp-group products)."""
THROTTLED_SPREAD_RATIO = 0.04
"""Standard deviation of chips' speed over the share of the clock that the power limit takes (assumed).

Chips that hit the limit run at clocks that differ with their leakage (arXiv 2208.11035), others at the nominal one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sustained:
    """One chip under training load."""

    clock_ratio: float
    """Sustained clock of the arithmetic over that of kernel benchmarks."""


def under_load(machine: Machine, found: Sustained) -> Machine:
    """``machine`` with the arithmetic rates that its chips sustain; not twice, where a maker states its own."""
    chip = machine.chip
    peaks = MappingProxyType({key: rate * found.clock_ratio for key, rate in chip.peak_flop_per_s.items()})
    vector = chip.vector_flop_per_s * found.clock_ratio
    loaded = replace(chip, peak_flop_per_s=peaks, vector_flop_per_s=vector, sustained_ratio=None)
    return replace(machine, chip=loaded)


def straggling_ratio(ranks: int, clock_ratio: float) -> float:
    """What waiting for the slowest of ``ranks`` chips adds to a synchronous step."""
    spread = THROTTLED_SPREAD_RATIO * (1.0 - clock_ratio)
    return float(expected_maximum_ratio(float(ranks), spread)) - 1.0
