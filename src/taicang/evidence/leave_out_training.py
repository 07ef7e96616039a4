"""What training steps would be predicted to take, had the fit of their constants never seen their like.

As ``leave_out`` does for served rows: logarithms of step times are almost linear in those of the three constants that a
row runs with (its chip's clock, its stack's ratio, its engine's host time or slowdown).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from taicang import catalog
from taicang.catalog.costing import kin_clock
from taicang.catalog.trust import Ground, size
from taicang.evidence import fit_training as fit
from taicang.evidence.measured import attempt
from taicang.evidence.suite_training import predict, run_of
from taicang.evidence.training_rows import Row, publisher, stack_of

Floats = NDArray[np.float64]


def errors(rows: Sequence[Row]) -> Iterator[tuple[Row, Ground, dict[str, float]]]:
    """Rows that can be predicted, each with its errors by what was left out."""
    mine = [row for row in rows if attempt(partial(predict, row))[0] is not None]
    runs = [replace(run_of(row), source=publisher(row)) for row in mine]
    chips, stacks = sorted({run.chip for run in runs}), sorted({fit.constant_of(row) for row in mine})
    at = np.array([_constants(row, run, chips, stacks) for row, run in zip(mine, runs, strict=True)])
    release = np.array([stacks.index(name) if (name := stack_of(row)) in stacks else -1 for row in mine])
    values = fit.present(chips, stacks)
    base = np.array([fit._error(row, *values[where]) for row, where in zip(mine, at, strict=True)])
    slopes = np.zeros((len(mine), 3))
    for i in range(3):
        moved = [
            fit._error(row, *(values[w] + fit.STEP * (np.arange(3) == i))) for row, w in zip(mine, at, strict=True)
        ]
        slopes[:, i] = (np.array(moved) - base) / fit.STEP
    usable = np.array([not row.held_out for row in mine])
    labels = {
        "model": [run.model for run in runs], "sibling": [run.chip for run in runs], "form": [run.form for run in runs],
        "foreign": [run.generation for run in runs], "version": [f"{r.engine} {r.version}" for r in runs],
        "engine": [run.engine for run in runs], "kind": [run.kind for run in runs],
        "size": [f"{run.engine} {size(run)}" for run in runs],
        "source": [f"{run.engine} {run.source}" for run in runs],
        "layout": [f"{run.engine} {run.layout}" for run in runs],
    }  # fmt: skip
    found = {"seen": base}
    for axis, names in labels.items():
        found[axis] = np.empty(len(mine))
        for name in set(names):
            out = np.array([each == name for each in names])
            seen = usable & ~out
            solved, used = _solved(base, slopes, at, values, seen, chips), at.copy()
            # a constant of a kind that no row is left of is that of the release, as stacks without one have it
            unknown = (release >= 0) & ~np.isin(at[:, 1], at[seen, 1])
            used[unknown, 1] = len(chips) + release[unknown]
            found[axis][out] = (base + (slopes * (solved[used] - values[at])).sum(axis=1))[out]
    for i, (row, run) in enumerate(zip(mine, runs, strict=True)):
        yield row, run, {axis: float(each[i]) for axis, each in found.items()}


def _constants(row: Row, run: Ground, chips: list[str], stacks: list[str]) -> tuple[int, int, int]:
    """Places of a row's clock, ratio and engine's constant in the vector."""
    shared = len(chips) + len(stacks)
    return chips.index(run.chip), len(chips) + stacks.index(fit.constant_of(row)), shared + (run.engine in fit.SHARDED)


def _solved(
    base: Floats, slopes: Floats, at: NDArray[np.int64], values: Floats, seen: NDArray[np.bool_], chips: list[str]
) -> Floats:
    """Constants fitted on the rows ``seen``; of what none of them has, what ``costing.sustained`` would say of a chip
    by the clocks of the others, or nothing beside the best."""
    has = np.isin(np.arange(values.size), at[seen])
    count = len(chips)
    clocks = {name: float(np.exp(values[i])) for i, name in enumerate(chips) if has[i]}
    start = np.where(has, values, 0.0)
    start[:count] = [values[i] if has[i] else np.log(_clock(name, clocks)) for i, name in enumerate(chips)]
    free = np.flatnonzero(has)
    pull = np.where((free >= count) & (free < values.size - 2), fit.NOISE_RATIO / fit.PRIOR_RATIO, 0.0)

    def residuals(x: Floats) -> Floats:
        trial = start.copy()
        trial[free] = x
        off = base[seen] + (slopes[seen] * (trial[at[seen]] - values[at[seen]])).sum(axis=1)
        return np.concatenate([off, pull * x])

    solved = start.copy()
    low, high = (each[free] for each in fit.bounds(count, values.size))
    first = np.clip(start[free], low + fit.STEP, high - fit.STEP)
    solved[free] = least_squares(residuals, first, bounds=(low, high), loss="soft_l1", f_scale=fit.NOISE_RATIO).x
    return solved


def _clock(name: str, clocks: Mapping[str, float]) -> float:
    """What is said of a chip that nobody trained on, beside those of ``clocks``."""
    chip = catalog.chip(name)
    return chip.sustained_ratio or kin_clock(chip, clocks) or float(np.median(list(clocks.values())))
