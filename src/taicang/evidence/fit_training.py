"""Fit what training adds to kernels measured alone: a sustained clock per chip, one constant per stack and epoch.

Rows: calibrated-on rows on at most ``SMALL_RANKS`` ranks. The stack's constant is the time of the kernels that matured
last in it over the best known ones: expert kernels (NeMo), the attention core (stacks with Ampere's attention kernels),
else matrix products. It is drawn to one, so that it only speaks where several rows agree; a chip's clock is free up to
that of the kernel benchmarks.
Two constants are common to an engine's epochs: NeMo's host time per launched kernel (microbatches of few tokens wait
for the host), and how much computing slows beside the collectives of sharded data parallelism.

What rows would be predicted to take, had the fit never seen their like, is at the end: logarithms of step times are
almost linear in those of the three constants that a row runs with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from taicang import catalog
from taicang.catalog.costing import kin_clock, sustained
from taicang.catalog.grounds import Ground, size
from taicang.cost.sustained import Sustained
from taicang.evidence.fitting import Fitted, declared_fits
from taicang.evidence.measured import attempt
from taicang.evidence.suite_training import predict, run_of, setup
from taicang.evidence.training_rows import FILE, Row, model_of, publisher, stack_of, training_rows
from taicang.models.types import routed

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
PRIOR_RATIO = 0.05
"""Spread of stacks' constants around one that needs no evidence."""
NOISE_RATIO = 0.05
"""Errors beyond this count linearly (soft L1)."""
STEP = 0.01
MOVES = STEP * np.eye(4, 3, -1)
"""Of a row's three constants: none, and each by itself."""
BIASED = "/biased"
"""End of the name of a constant of experts with biases, whose kernels are others than those of the rest."""
DECLARED: Mapping[str, Any] = declared_fits()["training"]
HOST_BOUND, SHARDED, LIKEWISE = (tuple(DECLARED[name]) for name in ("host_bound", "sharded", "likewise"))
LAUNCH_S = 20e-6
"""Start of the search for the host's time per kernel."""
TAX_RATIO = 0.15
"""Start of the search for the slowdown beside collectives."""


def fit_training(folder: Path) -> Fitted:
    """Clocks of chips and constants of stacks."""
    listed = [row for row in training_rows(folder / FILE) if not row.held_out]
    rows = [row for row in listed if attempt(partial(setup, row))[0] is not None]
    chips = sorted({setup(row).machine.chip.name for row in rows})
    stacks = sorted({constant_of(row) for row in rows})
    solved = _solve(rows, chips, stacks)
    clock = {name: {"clock": {"clock_ratio": float(np.exp(solved[i]))}} for i, name in enumerate(chips)}
    # chips that nobody trained on take the median of those whose kernels were measured
    measured = [clock[name]["clock"]["clock_ratio"] for name in chips if catalog.chip(name).measured]
    clock["default"] = {"clock": {"clock_ratio": float(np.median(measured))}}
    ratios: dict[str, Any] = {
        name: {"constants": {"kernel_ratio": {family(name): float(np.exp(solved[len(chips) + i]))}}}
        for i, name in enumerate(stacks)
    }
    for name in [name for name in ratios if name.endswith(BIASED)]:
        engine, ratio = name.removesuffix(BIASED), ratios.pop(name)["constants"]["kernel_ratio"]
        for of_version in [made for each, made in ratios.items() if each.startswith(f"{engine}@")]:
            of_version["constants"]["kernel_ratio"] |= ratio
    for engine in HOST_BOUND:
        ratios[engine] = {"constants": {"eager_kernel_s": float(np.exp(solved[-2])) * LAUNCH_S}}
    for engine in (*SHARDED, *LIKEWISE):
        made = ratios.setdefault(engine, {"constants": {}})["constants"]
        made["overlap_tax_ratio"] = float(np.exp(solved[-1])) * TAX_RATIO
    return Fitted(files={"sustained": clock, "stacks_training": ratios}, rows=len(rows))


def present(chips: list[str], stacks: list[str]) -> Floats:
    """The constants in use, as logarithms: where the search for new ones starts."""
    clocks = [np.log(sustained(catalog.chip(name)).clock_ratio) for name in chips]
    known = [catalog.stack(name.removesuffix(BIASED)) for name in stacks]
    ratios = [np.log(one.kernel_ratio.get(family(name), 1.0)) for one, name in zip(known, stacks, strict=True)]
    host = next((one.eager_kernel_s for one in known if one.engine in HOST_BOUND), LAUNCH_S)
    tax = next((one.overlap_tax_ratio for one in known if one.engine in SHARDED), TAX_RATIO)
    return np.array([*clocks, *ratios, np.log(host / LAUNCH_S), np.log(tax / TAX_RATIO)])


def constant_of(row: Row) -> str:
    """The stack whose constant a row has; one for all releases of NeMo where experts have biases."""
    name, experts = stack_of(row), routed(model_of(row))
    return f"nemo{BIASED}" if name.startswith("nemo@") and experts and experts.bias else name


def family(stack: str) -> str:
    """Whose kernels the stack's constant is about."""
    if stack.endswith(BIASED):
        return f"experts{BIASED}"
    if stack.startswith("nemo@"):
        return "experts"
    return "attend" if "ampere_attention" in catalog.stack(stack).fused else "gemm"


def _error(row: Row, clock: float, ratio: float, engine: float) -> float:
    constant = MappingProxyType({family(constant_of(row)): float(np.exp(ratio))})
    stack = replace(catalog.stack(stack_of(row)), kernel_ratio=constant)
    if stack.engine in HOST_BOUND:
        stack = replace(stack, eager_kernel_s=float(np.exp(engine)) * LAUNCH_S)
    if stack.engine in SHARDED:
        stack = replace(stack, overlap_tax_ratio=float(np.exp(engine)) * TAX_RATIO)
    seconds = predict(row, stack, Sustained(clock_ratio=float(np.exp(clock)))).seconds
    return float(np.log(seconds / row.step_s))


def _solve(rows: Sequence[Row], chips: list[str], stacks: list[str]) -> Floats:
    at = np.array([_places(row, chips, stacks) for row in rows])
    count = len(chips) + len(stacks) + 2
    weights = np.sqrt(1.0 / np.array([_alike(row, rows) for row in rows]))
    pull = np.array([0.0] * len(chips) + [1.0] * len(stacks) + [0.0, 0.0])

    def residuals(x: Floats) -> Floats:
        errors = np.array([_error(row, *x[where]) for row, where in zip(rows, at, strict=True)])
        return np.concatenate([weights * errors, pull * x * (NOISE_RATIO / PRIOR_RATIO)])

    def jacobian(x: Floats) -> Floats:
        made = np.zeros((len(rows) + count, count))
        np.put_along_axis(made[: len(rows)], at, weights[:, None] * _sloped(rows, at, x)[1], axis=1)
        made[len(rows) :] = np.diag(pull * (NOISE_RATIO / PRIOR_RATIO))
        return made

    low, high = bounds(len(chips), count)
    start = np.clip(present(chips, stacks), low + STEP, high - STEP)
    found: Any = least_squares(
        residuals, start, jacobian, bounds=(low, high), loss="soft_l1", f_scale=NOISE_RATIO, ftol=1e-5, max_nfev=30
    )
    solved: Floats = found.x
    return solved


def _places(row: Row, chips: list[str], stacks: list[str]) -> tuple[int, int, int]:
    """Where the three constants of a row are in the vector of all: clock, ratio, its engine's host time or slowdown."""
    own = len(chips) + len(stacks) + (engine_of(row) in SHARDED)
    return chips.index(setup(row).machine.chip.name), len(chips) + stacks.index(constant_of(row)), own


def _sloped(rows: Sequence[Row], at: Places, values: Floats) -> tuple[Floats, Floats]:
    """Errors of rows whose constants are ``values`` at the places ``at``, and their slopes [row, constant]."""
    made = [[_error(row, *(values[where] + move)) for move in MOVES] for row, where in zip(rows, at, strict=True)]
    base, *moved = np.array(made).T
    return base, np.stack([(each - base) / STEP for each in moved], axis=1)


def bounds(chips: int, count: int) -> tuple[Floats, Floats]:
    """Least and most of the logarithms of ``count`` constants, clocks of ``chips`` first."""
    high = [0.0] * chips + [np.log(3.0)] * (count - chips - 2) + [np.log(6.0)] * 2
    return np.full(count, np.log(0.2)), np.array(high)


def _alike(row: Row, rows: Sequence[Row]) -> float:
    """Rows of the same job on other epochs and by other submitters count together as a few."""
    job = attrgetter("model", "chip", "count", "batch", "seq", "source")
    return max(sum(job(each) == job(row) for each in rows) / 3.0, 1.0)


LATER = "published_training_2.csv"
GAP_S = 0.01
"""Start of the search for that time."""
TRIED = np.linspace(-0.25, 0.5, 7)
"""Logarithms of constants that each row is predicted with; between them errors are almost straight."""


def later_rows(folder: Path) -> list[Row]:
    """Rows of the later table that can be predicted."""
    path = folder / LATER
    listed = training_rows(path) if path.is_file() else []
    return [row for row in listed if attempt(partial(predict, row))[0] is not None]


def fit_later(folder: Path) -> Fitted:
    """Constants of stacks from rows that were collected later, of runs on up to ``SMALL_RANKS`` ranks.

    One constant for each stack whose engine the first table does not have: the time of matrix products over the best
    known kernels, drawn to one; clocks stay as they are, since a few rows on one chip cannot tell the two apart. For
    engines that wait for the host at each layer it is that time, which no number of ranks changes, so that rows of any
    size tell it.
    """
    ratios: dict[str, Any] = {}
    rows = 0
    for name, found in _groups(folder).items():
        if (engine := name.partition("@")[0]) in declared_fits()["stacks_later"]["waiting"]:
            ratios[engine] = {"constants": {"layer_gap_s": _gap_s([row for row, _ in found])}}
            rows += len(found)
            continue
        curves = [curve for row, curve in found if row.small]
        ratios[name] = {"constants": {"kernel_ratio": {family(name): float(np.exp(_solved(curves)))}}}
        rows += len(curves)
    return Fitted(files={"stacks_later": ratios}, rows=rows)


def _gap_s(rows: Sequence[Row]) -> float:
    """Host time per layer and microbatch that brings ``rows`` nearest: a step's seconds are a straight line in it."""

    def seconds(row: Row, gap_s: float) -> float:
        return predict(row, replace(catalog.stack(stack_of(row)), layer_gap_s=gap_s)).seconds

    ends = [(seconds(row, 0.0) / row.step_s, seconds(row, GAP_S) / row.step_s) for row in rows]

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([np.log(none + (much - none) * x[0]) for none, much in ends])

    found = least_squares(residuals, [1.0], bounds=(0.0, np.inf), loss="soft_l1", f_scale=NOISE_RATIO)
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
            curve = np.array([_error(row, clock, float(x), 0.0) for x in TRIED])
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
        pull = NOISE_RATIO / PRIOR_RATIO * x[0]
        return np.array([*(_at(curve, float(x[0])) for curve in curves), pull])

    return float(least_squares(residuals, [0.02], loss="soft_l1", f_scale=NOISE_RATIO).x[0])


def errors(rows: Sequence[Row]) -> Iterator[tuple[Row, Ground, dict[str, float]]]:
    """Rows that can be predicted, each with its errors by what was left out."""
    mine = [row for row in rows if attempt(partial(predict, row))[0] is not None]
    runs = [replace(run_of(row), source=publisher(row)) for row in mine]
    chips, stacks = sorted({run.chip for run in runs}), sorted({constant_of(row) for row in mine})
    at = np.array([_places(row, chips, stacks) for row in mine])
    release = np.array([stacks.index(name) if (name := stack_of(row)) in stacks else -1 for row in mine])
    values = present(chips, stacks)
    base, slopes = _sloped(mine, at, values)
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
            solved, used = _without(base, slopes, at, values, seen, chips), at.copy()
            # a constant of a kind that no row is left of is that of the release, as stacks without one have it
            unknown = (release >= 0) & ~np.isin(at[:, 1], at[seen, 1])
            used[unknown, 1] = len(chips) + release[unknown]
            found[axis][out] = (base + (slopes * (solved[used] - values[at])).sum(axis=1))[out]
    for i, (row, run) in enumerate(zip(mine, runs, strict=True)):
        yield row, run, {axis: float(each[i]) for axis, each in found.items()}


def _without(
    base: Floats, slopes: Floats, at: Places, values: Floats, seen: NDArray[np.bool_], chips: list[str]
) -> Floats:
    """Constants fitted on the rows ``seen``; of what none of them has, what ``costing.sustained`` would say of a chip
    by the clocks of the others, or nothing beside the best."""
    has = np.isin(np.arange(values.size), at[seen])
    count = len(chips)
    clocks = {name: float(np.exp(values[i])) for i, name in enumerate(chips) if has[i]}
    start = np.where(has, values, 0.0)
    start[:count] = [values[i] if has[i] else np.log(_clock(name, clocks)) for i, name in enumerate(chips)]
    free = np.flatnonzero(has)
    pull = np.where((free >= count) & (free < values.size - 2), NOISE_RATIO / PRIOR_RATIO, 0.0)

    def residuals(x: Floats) -> Floats:
        trial = start.copy()
        trial[free] = x
        off = base[seen] + (slopes[seen] * (trial[at[seen]] - values[at[seen]])).sum(axis=1)
        return np.concatenate([off, pull * x])

    solved = start.copy()
    low, high = (each[free] for each in bounds(count, values.size))
    first = np.clip(start[free], low + STEP, high - STEP)
    solved[free] = least_squares(residuals, first, bounds=(low, high), loss="soft_l1", f_scale=NOISE_RATIO).x
    return solved


def _clock(name: str, clocks: Mapping[str, float]) -> float:
    """What is said of a chip that nobody trained on, beside those of ``clocks``."""
    chip = catalog.chip(name)
    return chip.sustained_ratio or kin_clock(chip, clocks) or float(np.median(list(clocks.values())))
