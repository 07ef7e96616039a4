"""Measured runs with what is known of each and how far predictions of it were off, by what the fits had not seen.

Served rows are predicted anew with constants of fits that leave their like out (``fit_stacks``); the replayed ones are
off by as much more as their closed form is then. Constants of published and Ascend serving are one to four for many
rows, or fixed by ablations, and training's are drawn to one: of these, rows that no fit has seen stand for all that is
new, and rows that one has seen only for what is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.catalog.grounds import Ground, size
from taicang.evidence import (
    ascend_steps,
    fit_published,
    fit_stacks,
    fit_training,
    suite_served,
    suite_training,
    training_rows,
)
from taicang.evidence.board import metric_of
from taicang.evidence.fit_stacks import Linear
from taicang.evidence.fitting import declared_fits
from taicang.evidence.measured import attempt
from taicang.evidence.score import Outcome
from taicang.evidence.served import Row
from taicang.evidence.suites import sources
from taicang.evidence.training_rows import publisher

Labels = Mapping[str, Callable[[Ground], str]]
LABELS: Labels = {
    "source": lambda run: f"{run.engine} {run.source}",
    "version": lambda run: f"{run.engine} {run.version}",
    "kind": lambda run: f"{run.engine} {run.kind}",
    "model": lambda run: f"{run.engine} {run.model}",
    "form": lambda run: f"{run.engine} {run.form}",
    "sibling": lambda run: f"{run.engine} {run.chip}",
    "foreign": lambda run: f"{run.engine} {run.generation}",
    "size": lambda run: f"{run.engine} {size(run)}",
    "layout": lambda run: f"{run.engine} {run.layout}",
    "engine": lambda run: run.engine,
}
"""Axis -> the group of a run that is left out with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One measured figure."""

    id: str
    suite: str
    metric: str
    run: Ground
    logs: Mapping[str, float]
    """Axis (or "seen") -> logarithm of predicted over measured, with that left out of the fits; NaN where refused."""
    held_out: bool


def trials(folder: Path) -> Iterator[Trial]:
    """All measured runs of an evidence folder and of the carried tables."""
    yield from served(folder)
    yield from published_trials(folder)
    yield from ascend_trials()
    yield from training_trials(folder)


def served(folder: Path) -> Iterator[Trial]:
    """TPOT, TTFT and throughput of closed loops, in closed form and replayed."""
    listed = suite_served.rows(folder)
    for engine in dict.fromkeys(row.engine for row in listed):
        found = fit_stacks.linear(engine, listed)
        runs = [replace(suite_served.run_of(row), source=row.source) for row in found.rows]
        logs = _left_out(found, runs)
        replayed = [attempt(partial(suite_served.replayed, row))[0] for row in found.rows]
        for i, (row, run) in enumerate(zip(found.rows, runs, strict=True)):
            mine = {axis: each[:, i] for axis, each in logs.items()}
            yield from of_served(row, run, mine, "served", held=not found.known[i])
            if (said := replayed[i]) is not None:
                shift = np.log(np.array(said) / (row.ttft_s, row.tpot_s)) - mine["seen"]
                yield from of_served(
                    row, run, {a: v + shift for a, v in mine.items()}, "replay", held=not found.known[i]
                )


def _left_out(found: Linear, runs: list[Ground]) -> dict[str, NDArray[np.float64]]:
    """Axis -> [TTFT or TPOT, row]."""

    def solved(label: Callable[[Ground], str]) -> NDArray[np.float64]:
        names = np.array([label(run) for run in runs])
        made = np.full(found.base.shape, np.nan)
        for name in dict.fromkeys(names.tolist()):
            made[:, names == name] = np.log(fit_stacks.without(found, names == name))
        return made

    with np.errstate(invalid="ignore"):
        logs = {axis: solved(label) for axis, label in LABELS.items() if axis != "engine"}
        logs["seen"] = np.log(found.base)
        logs["engine"] = np.log(fit_stacks.unknown(found))
        for axis, donors in declared_fits()["stacks"]["donors"].items():
            logs[axis] += np.log(fit_stacks.lent(found, donors)) - logs["seen"]
    return logs


def of_served(row: Row, run: Ground, logs: Mapping[str, Any], route: str, *, held: bool) -> Iterator[Trial]:
    """The three figures of a row with the errors of its (TTFT, TPOT) by axis."""
    way = "disagg" if row.disaggregated else "agg"
    answer = row.output_tokens * row.length_ratio

    def rate(errors: NDArray[np.float64]) -> float:
        """Of requests per second, by Little's law: as many are in flight as there are clients."""
        ttft, tpot = np.exp(errors) * (row.ttft_s, row.tpot_s)
        return float(np.log((row.ttft_s + answer * row.tpot_s) / (ttft + answer * tpot)))

    first = "ttft" if route == "served" else "replayed_ttft"
    for metric, suite, pick in (
        (first, "ttft", lambda e: float(e[0])), ("tpot", "tpot", lambda e: float(e[1])), ("throughput", "rate", rate),
    ):  # fmt: skip
        yield Trial(
            id=row.id, suite=f"{route}_{suite}_{way}", metric=metric, run=run,
            logs={axis: pick(each) for axis, each in logs.items()}, held_out=held,
        )  # fmt: skip


def _plain(one: Outcome, source: str = "") -> Iterator[Trial]:
    """The trial of an outcome whose row no fit has seen, or one has: that speaks for what is known alone."""
    if one.run is None or one.predicted is None:
        return
    off = float(np.log(one.predicted / one.measured))
    logs = dict.fromkeys(("seen", *(LABELS if one.held_out else ())), off)
    run = replace(one.run, source=source or one.suite)
    yield Trial(id=one.id, suite=one.suite, metric=metric_of(one), run=run, logs=logs, held_out=one.held_out)


def published_trials(folder: Path) -> Iterator[Trial]:
    """Throughput, latencies and power as vendors and projects publish them."""
    for one in sources()["published"].told(folder):
        if not one.suite.endswith("_context"):
            yield from _plain(one)


def ascend_trials() -> Iterator[Trial]:
    """Published serving and reference steps on Ascend, these also with constants that have not seen their model."""
    rows = {row.id: row for row in ascend_steps.rows() if not row.image}
    seen = [row for row in rows.values() if not row.held]
    for one in fit_published.launch_outcomes():
        yield from _plain(one)
    for one in (*sources()["ascend_serving"].told(), *sources()["ascend_steps"].told()):
        row = rows.get(one.id)
        if row is None or row.held:
            yield from _plain(one)
            continue
        values = fit_published.step_constants([each for each in seen if each.net != row.net])
        stack = fit_published.with_constants(fit_published.bare(ascend_steps.STACK), values)
        off = replace(one, predicted=ascend_steps.predict_s(row, stack), held_out=True)
        yield from (replace(each, held_out=False) for each in _plain(off))


def training_trials(folder: Path) -> Iterator[Trial]:
    """Step times, and memory where it is stated; the second table's constants are fitted apart (``fit_training``)."""
    for row, run, logs in fit_training.errors(training_rows.training_rows(folder / training_rows.FILE)):
        yield Trial(id=row.id, suite=row.suite, metric="step_time", run=run, logs=logs, held_out=row.held_out)
    for row, seen, model, neutral in fit_training.left_out(folder):
        logs = (
            dict.fromkeys(LABELS, neutral)
            | dict.fromkeys(("model", "kind", "form", "size", "layout"), model)
            | {"seen": seen}
        )
        run = replace(suite_training.run_of(row), source=publisher(row))
        yield Trial(id=row.id, suite="training_2", metric="step_time", run=run, logs=logs, held_out=not row.small)
    yield from _later(folder)


def _later(folder: Path) -> Iterator[Trial]:
    """Later rows of stacks that the first table knows, which no fit has seen, and the memory that any states."""
    first = fit_training.engines(folder)
    for row in fit_training.later_rows(folder):
        step = suite_training.predict(row)
        one = Outcome(
            id=row.id, suite="training_2", group="", measured=row.step_s, predicted=step.seconds, unit="s",
            held_out=True, run=suite_training.run_of(row),
        )  # fmt: skip
        if fit_training.engine_of(row) in first:
            yield from _plain(one, publisher(row))
        if stated := row.raw["extra"].get("mem_gb"):
            size = float(step.memory.total_bytes)
            suite = "training_2_memory"
            memory = replace(one, suite=suite, unit="B", predicted=size, measured=float(stated) * 1e9)
            yield from _plain(memory, publisher(row))
