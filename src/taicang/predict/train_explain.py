"""Why a training step takes as long as it does: waterfall, sensitivity to each resource, timeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from taicang.catalog.costing import training_price
from taicang.hardware import Machine
from taicang.train.memory import MemoryUse
from taicang.train.placement import Traffic, traffic
from taicang.train.run import Run
from taicang.train.setup import Setup
from taicang.train.step import TrainStep, pipeline_run, stage_memory, train_step
from taicang.train.trace import trace
from taicang.train_plans.placement import RANDOM

WATERFALL: Final = (
    ("kernels", ("pointwise", "launch gaps", "optimizer", "host")),
    ("recompute", ("recompute",)),
    (
        "exposed communication",
        ("tensor", "context", "expert", "data", "gradient reduction", "parameter gather", "pipeline sends"),
    ),
    ("bubble", ("bubble",)),
    ("imbalance", ("uneven stages", "stragglers")),
)
"""Groups of the waterfall and their lines (``TrainStep.spent``), from the peak down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What ten per cent more of each resource would give, and the step's timeline."""

    gain_ratio: Mapping[str, float]
    """Resource -> share of the step that 10 % more of it saves."""
    trace: Mapping[str, Any]
    """The step as trace events (``train.trace``)."""
    traffic: tuple[Traffic, ...]
    """Bytes by axis and level."""
    random_s: float
    """The same step with ranks at random places."""
    stage_memory: tuple[MemoryUse, ...]
    """Of each pipeline rank."""
    setup: Setup = field(repr=False, compare=False, metadata={"plain": False})
    """What was explained, for traces."""


def waterfall(step: TrainStep, mfu_ratio: float, run: Run | None) -> dict[str, float]:
    """Shares of the time, from the time at peak to what is lost to each cause; they sum to one.

    With a run, what checkpoints, failures and missing chips cost comes on top of the step.
    """
    spent = step.spent
    shares = {
        "at peak": mfu_ratio,
        "kernels below peak": (spent["products"] + spent["attention"]) / step.seconds - mfu_ratio,
    }
    for _, lines in WATERFALL:
        shares |= {line: spent[line] / step.seconds for line in lines if spent.get(line, 0.0) > 0}
    if run is None:
        return shares
    shares = {name: share * run.goodput_ratio for name, share in shares.items()}
    lost = {"checkpoints": run.checkpoint_s, "failures": run.lost_s, "missing chips": run.waiting_s}
    return shares | {name: seconds / run.seconds for name, seconds in lost.items() if seconds > 0}


def explain(setup: Setup) -> Explained:
    """Sensitivity of the step of ``setup`` to each resource of its machine, and its timeline."""
    machine = setup.machine
    step = train_step(setup)
    gains = {}
    for name, better in _improved(machine):
        priced = replace(setup, machine=better, price=training_price(better, setup.stack))
        gains[name] = 1.0 - train_step(priced).seconds / step.seconds
    scattered = train_step(replace(setup, plan=replace(setup.plan, order=RANDOM))).seconds
    return Explained(
        gain_ratio=gains,
        trace=trace(pipeline_run(setup), step),
        traffic=traffic(setup, step),
        random_s=scattered,
        stage_memory=stage_memory(setup),
        setup=setup,
    )


def _improved(machine: Machine, by: float = 1.1) -> Iterator[tuple[str, Machine]]:
    """``machine`` with 10 % more of one resource after the other."""
    chip = machine.chip
    peaks = {key: rate * by for key, rate in chip.peak_flop_per_s.items()}
    yield "matrix arithmetic", replace(machine, chip=replace(chip, peak_flop_per_s=peaks))
    faster = replace(chip, vector_flop_per_s=chip.vector_flop_per_s * by)
    yield "vector arithmetic", replace(machine, chip=faster)
    memory = replace(chip.memory, bandwidth_bytes_per_s=chip.memory.bandwidth_bytes_per_s * by)
    yield "memory bandwidth", replace(machine, chip=replace(chip, memory=memory))
    plane = machine.plane("scale_up")
    for i, level in enumerate(plane.levels):
        wider = replace(level, bandwidth_bytes_per_s=level.bandwidth_bytes_per_s * by)
        levels = (*plane.levels[:i], wider, *plane.levels[i + 1 :])
        yield (
            f"network: {level.name}",
            replace(machine, planes={**machine.planes, "scale_up": replace(plane, levels=levels)}),
        )
