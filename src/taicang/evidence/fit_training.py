"""Fit what training adds to kernels measured alone: a sustained clock per chip, one constant per stack and epoch.

Rows: calibrated-on rows of dense models (pre-training and fine-tuning) on at most ``SMALL_RANKS`` ranks. The stack's
constant is the time of its matrix products over the best known kernels' (casts, transposes, layouts); for stacks with
Ampere's attention kernels it is that of the attention core instead, which dominates them. A stack's constant is drawn
to one, so that it only speaks where several rows agree; a chip's clock is free, save where arithmetic cannot go faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from taicang import catalog
from taicang.cost.sustained import Sustained
from taicang.errors import TaicangError
from taicang.evidence.fitting import write
from taicang.evidence.suite_training import predict, setup
from taicang.evidence.training_rows import FILE, Row, read, stack_of

Floats = NDArray[np.float64]
SUITES = ("training_dense", "training_lora", "training_megatron")
PRIOR_RATIO = 0.05
"""Spread of stacks' constants around one that needs no evidence."""
NOISE_RATIO = 0.05
"""Errors beyond this count linearly (soft L1)."""
STEP = 0.01


def fit(folder: Path) -> list[Path]:
    """Write ``sustained.yaml`` and ``stacks_training.yaml``."""
    path = folder / FILE
    rows = [row for row in read(path) if _usable(row)]
    chips = sorted({setup(row).machine.chip.name for row in rows})
    stacks = sorted({stack_of(row) for row in rows})
    solved = _solve(rows, chips, stacks)
    clock = {name: {"clock": {"clock_ratio": float(np.exp(solved[i]))}} for i, name in enumerate(chips)}
    ratios = {
        name: {"constants": {"kernel_ratio": {family(name): float(np.exp(solved[len(chips) + i]))}}}
        for i, name in enumerate(stacks)
    }
    note = f"dense rows on at most 64 ranks; {len(rows)} rows; stacks drawn to one within {PRIOR_RATIO:.0%}"
    return [
        write("sustained", clock, evidence=path, rows=len(rows), note=note),
        write("stacks_training", ratios, evidence=path, rows=len(rows), note=note),
    ]


def family(stack: str) -> str:
    """Whose kernels the stack's constant is about."""
    return "attend" if "ampere_attention" in catalog.stack(stack).fused else "gemm"


def _usable(row: Row) -> bool:
    if row.held_out or row.suite not in SUITES:
        return False
    try:
        setup(row)
    except TaicangError:
        return False
    return True


def _error(row: Row, clock: float, ratio: float) -> float:
    name = stack_of(row)
    stack = replace(catalog.stack(name), kernel_ratio=MappingProxyType({family(name): float(np.exp(ratio))}))
    seconds = predict(row, stack, Sustained(clock_ratio=float(np.exp(clock)))).seconds
    return float(np.log(seconds / row.step_s))


def _solve(rows: Sequence[Row], chips: list[str], stacks: list[str]) -> Floats:
    at = [(chips.index(setup(row).machine.chip.name), len(chips) + stacks.index(stack_of(row))) for row in rows]
    count = len(chips) + len(stacks)
    weights = np.sqrt(1.0 / np.array([_alike(row, rows) for row in rows]))
    # the attention constant of old kernels is free; others are drawn to zero
    pull = np.array([0.0] * len(chips) + [0.0 if family(name) == "attend" else 1.0 for name in stacks])

    def residuals(x: Floats) -> Floats:
        errors = np.array([_error(row, x[c], x[s]) for row, (c, s) in zip(rows, at, strict=True)])
        return np.concatenate([weights * errors, pull * x * (NOISE_RATIO / PRIOR_RATIO)])

    def jacobian(x: Floats) -> Floats:
        made = np.zeros((len(rows) + count, count))
        for i, (row, (c, s)) in enumerate(zip(rows, at, strict=True)):
            here = _error(row, x[c], x[s])
            made[i, c] = weights[i] * (_error(row, x[c] + STEP, x[s]) - here) / STEP
            made[i, s] = weights[i] * (_error(row, x[c], x[s] + STEP) - here) / STEP
        made[len(rows) :] = np.diag(pull * (NOISE_RATIO / PRIOR_RATIO))
        return made

    start = np.array([np.log(0.8)] * len(chips) + [0.0] * len(stacks))
    found: Any = least_squares(
        residuals, start, jacobian, bounds=(np.log(0.2), np.log(3.0)), loss="soft_l1", f_scale=NOISE_RATIO, max_nfev=30
    )
    solved: Floats = found.x
    return solved


def _alike(row: Row, rows: Sequence[Row]) -> float:
    """Rows of the same job on other epochs and by other submitters count together as a few."""
    same = [r for r in rows if (r.model, r.chip, r.count, r.batch, r.seq, r.source) == _job(row)]
    return max(len(same) / 3.0, 1.0)


def _job(row: Row) -> tuple[object, ...]:
    return (row.model, row.chip, row.count, row.batch, row.seq, row.source)
