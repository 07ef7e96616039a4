"""Training rows that were collected later: one constant for each stack whose engine the first table does not have.

The constant is the time of matrix products over the best known kernels, drawn to one; clocks stay as they are, since a
few rows on one chip cannot tell the two apart. For engines that wait for the host at each layer it is that time, which
no number of ranks changes, so that rows of any size tell it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from taicang import catalog
from taicang.catalog.costing import sustained
from taicang.evidence import fit_training as fit
from taicang.evidence.fitting import write
from taicang.evidence.measured import attempt
from taicang.evidence.suite_training import predict, setup
from taicang.evidence.training_rows import FILE, Row, stack_of, training_rows

LATER = "published_training_2.csv"
WAITING = ("megatron-deepspeed",)
"""Engines whose device waits for the host at each layer of each microbatch (``Stack.layer_gap_s``)."""
GAP_S = 0.01
"""Start of the search for that time."""
TRIED = np.linspace(-0.25, 0.5, 7)
"""Logarithms of constants that each row is predicted with; between them errors are almost straight."""


def later_rows(folder: Path) -> list[Row]:
    """Rows of the later table that can be predicted."""
    path = folder / LATER
    listed = training_rows(path) if path.is_file() else []
    return [row for row in listed if attempt(partial(predict, row))[0] is not None]


def fit_later(folder: Path) -> list[Path]:
    """Write ``stacks_later.yaml`` from runs on up to ``SMALL_RANKS`` ranks."""
    ratios: dict[str, Any] = {}
    rows = 0
    for name, found in _groups(folder).items():
        if (engine := name.partition("@")[0]) in WAITING:
            ratios[engine] = {"constants": {"layer_gap_s": _gap_s([row for row, _ in found])}}
            rows += len(found)
            continue
        curves = [curve for row, curve in found if row.small]
        ratios[name] = {"constants": {"kernel_ratio": {fit.family(name): float(np.exp(_solved(curves)))}}}
        rows += len(curves)
    note = f"rows on at most 64 ranks; stacks drawn to one within {fit.PRIOR_RATIO:.0%}; scored by leaving models out"
    return [write("stacks_later", ratios, evidence=folder / LATER, rows=rows, note=note)]


def _gap_s(rows: Sequence[Row]) -> float:
    """Host time per layer and microbatch that brings ``rows`` nearest: a step's seconds are a straight line in it."""

    def seconds(row: Row, gap_s: float) -> float:
        return predict(row, replace(catalog.stack(stack_of(row)), layer_gap_s=gap_s)).seconds

    ends = [(seconds(row, 0.0) / row.step_s, seconds(row, GAP_S) / row.step_s) for row in rows]

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([np.log(none + (much - none) * x[0]) for none, much in ends])

    found = least_squares(residuals, [1.0], bounds=(0.0, np.inf), loss="soft_l1", f_scale=fit.NOISE_RATIO)
    return float(found.x[0]) * GAP_S


def left_out(folder: Path) -> Iterator[tuple[Row, float, float, float]]:
    """Rows of these stacks with the logarithms of predicted over measured: as fitted, had no row of their model been
    seen, and without a constant."""
    for found in _groups(folder).values():
        everything = _solved([curve for row, curve in found if row.small])
        for row, curve in found:
            others = [each for one, each in found if one.small and _model(one) != _model(row)]
            yield row, _at(curve, everything), _at(curve, _solved(others)), _at(curve, 0.0)


def _groups(folder: Path) -> dict[str, list[tuple[Row, NDArray[np.float64]]]]:
    """Stack -> its rows with their errors over ``TRIED``."""
    first = engines(folder)
    made: dict[str, list[tuple[Row, NDArray[np.float64]]]] = {}
    for row in later_rows(folder):
        if engine_of(row) not in first:
            clock = float(np.log(sustained(setup(row).machine.chip).clock_ratio))
            curve = np.array([fit._error(row, clock, float(x), 0.0) for x in TRIED])
            made.setdefault(setup(row).stack.name.partition(" ")[0], []).append((row, curve))
    return made


def engines(folder: Path) -> frozenset[str]:
    """Engines of the first table."""
    return frozenset(engine_of(row) for row in training_rows(folder / FILE) if attempt(partial(stack_of, row))[0])


def engine_of(row: Row) -> str:
    """The engine of a row."""
    return stack_of(row).partition("@")[0]


def _model(row: Row) -> str:
    return setup(row).model.name


def _at(curve: NDArray[np.float64], constant: float) -> float:
    return float(np.interp(constant, TRIED, curve))


def _solved(curves: Sequence[NDArray[np.float64]]) -> float:
    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        pull = fit.NOISE_RATIO / fit.PRIOR_RATIO * x[0]
        return np.array([*(_at(curve, float(x[0])) for curve in curves), pull])

    return float(least_squares(residuals, [0.02], loss="soft_l1", f_scale=fit.NOISE_RATIO).x[0])
