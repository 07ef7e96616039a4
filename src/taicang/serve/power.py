"""Power of a chip during a priced step."""

from __future__ import annotations

import numpy as np

from taicang.cost.energy import Activity, EnergyFit, chip_power_w
from taicang.hardware import Chip, Machine
from taicang.timeline import Timeline
from taicang.units import Num


def activity(timeline: Timeline, machine: Machine) -> Activity:
    """How busy arithmetic, memory and network of one rank are over the step.

    Arithmetic counts the time that its kernels alone would need (tiles that are padded burn energy all the same);
    memory and network count bytes at the peak rate.
    """
    compute: Num = 0.0
    moved: Num = 0.0
    sent: Num = 0.0
    for piece in timeline.slices:
        compute = compute + np.minimum(piece.cost.compute_s, piece.cost.seconds) * piece.repeat
        moved = moved + piece.cost.moved_bytes * piece.repeat
        sent = sent + piece.cost.sent_bytes * piece.repeat
    link = machine.plane("scale_up").levels[0].bandwidth_bytes_per_s
    seconds = np.maximum(timeline.seconds, 1e-12)
    return Activity(
        compute_ratio=np.minimum(compute / seconds, 1.0),
        memory_ratio=np.minimum(moved / machine.chip.memory.bandwidth_bytes_per_s / seconds, 1.0),
        network_ratio=np.minimum(sent / link / seconds, 1.0),
    )


def step_power_w(timeline: Timeline, machine: Machine, fit: EnergyFit) -> Num:
    """Mean power of one chip (all dies) over the step, in W. Raises ``MissingFigure`` without a power limit."""
    chip: Chip = machine.chip
    return chip_power_w(activity(timeline, machine), chip, fit)
