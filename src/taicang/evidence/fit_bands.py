"""Fit the bands: what was measured near which runs, and how far predictions were off, with what left out.

Of each pool (metric, use, vendor) and axis the errors' median and how far below and above the prediction nine in ten
lie, in the pool and in its cells (an engine, with such models, of such a width). Rows that were left out together
count for one; a cell's own rows stand beside those of its parent, which count for a few groups.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from taicang.catalog import calibration
from taicang.catalog.grounds import Ground, size
from taicang.catalog.trust import AXES, BANDS, band, recorded
from taicang.catalog.trust_links import links_key, met
from taicang.cost.exchange import ExchangeFit
from taicang.evidence import kernels
from taicang.evidence.exchange_rows import exchange_parts, exchange_published, exchange_rows, exchange_seconds
from taicang.evidence.fitting import NINE, SPREAD, fingerprint, quantiles
from taicang.evidence.kernels import kernel_rows
from taicang.evidence.measured import Measured, attempt
from taicang.evidence.suite_collective import measured_s, predict_s, published, question
from taicang.evidence.systems import fabric_of, level
from taicang.evidence.trials import LABELS, Trial, trials
from taicang.hardware import Machine
from taicang.output import write_file
from taicang.search.collective import flavour
from taicang.units import Num

DRAW = 2.0
"""Groups that a parent's errors count for."""
NOISE = 0.015
"""What the same version of an engine measured twice differs by (TPOT of served rows): no band is narrower."""
GROUPS = 2
"""Groups that must be left out in turn before an axis says anything."""
FOLDS = 5
"""Parts of the rows that are known, for what bands cover of rows like their own."""
DEPTH = 4
"""Cells of a chain (``Ground.cells``)."""
SHOWN = ("model", "sibling", "source", "foreign", "version", "form", "size", "kind", "layout", "engine")
"""Axes of the record of what was left out, the scoreboard's first."""
KNOWN = ("source", "version", "kind", "model", "form", "chip", "generation", "size", "layout")


def fit(folder: Path) -> Path:
    """Fit all bands on an evidence folder, and record how they cover rows that were left out whole."""
    found = pools_of(trials(folder))
    files = sorted(path for path in folder.glob("*.csv") if path.name.startswith(("served_e2e.", "published_")))
    document = {
        "written_by": "taicang fit bands; errors in metrics are logarithms: half and nine in ten of them are less",
        "fitted_on": {path.name: fingerprint(path) for path in files},
        "left_out": left_out(found),
        "metrics": rounded(_scaled(found)),
        "collectives": rounded(collectives(folder)),
    }
    write_file(BANDS, json.dumps(document, indent=1) + "\n", "fit")
    recorded.cache_clear()
    return BANDS


def left_out(pools: Sequence[Pool]) -> dict[str, dict[str, dict[str, Any]]]:
    """Suite -> what was left out -> rows, mean error, share of rows in the others' bands, share left unvalidated.

    "nothing": rows kept from the fits, in the bands of the others.
    """
    made: dict[str, dict[str, dict[str, Any]]] = {one.suite: {} for pool in pools for one in pool.trials}
    for axis in ("nothing", *SHOWN):
        rows: dict[str, list[tuple[float, bool | None]]] = {}
        for pool in pools:
            for one, log, hit in covered(pool, axis):
                rows.setdefault(one.suite, []).append((log, hit))
        for suite, each in rows.items():
            said = [hit for _, hit in each if hit is not None]
            made[suite][axis] = {
                "rows": len(each),
                "mape_ratio": round(float(np.mean(np.abs(np.expm1([log for log, _ in each])))), 4),
                "covered_ratio": round(float(np.mean(said)), 4) if said else None,
                "unvalidated_ratio": round(1.0 - len(said) / len(each), 4),
            }
    return {suite: axes for suite, axes in made.items() if axes}


def _scaled(pools: Sequence[Pool]) -> dict[str, Any]:
    table = fitted(pools)
    for pool in pools:
        table[pool.metric][pool.name]["scale"] = scales(pool)
    return table


def rounded(value: Any) -> Any:
    """Plain data with numbers of four places."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


Floats: TypeAlias = NDArray[np.float64]
Tried: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Rows of one metric, use and vendor as columns."""

    metric: str
    name: str
    trials: Sequence[Trial]
    runs: Sequence[Ground]
    """All that differ."""
    run: NDArray[np.int64]
    """Of each row, an index of ``runs``."""
    groups: Mapping[str, NDArray[np.int64]]
    """Axis -> the group of each row."""
    cells: Mapping[tuple[str, ...], NDArray[np.bool_]]
    """Chain of cells -> the rows in its last, wide ones first."""
    logs: Mapping[str, Floats]
    """Axis -> logarithms of measured over predicted."""
    ranked: Mapping[str, tuple[NDArray[np.int64], Floats, NDArray[np.int64], Floats]] = field(init=False)
    """Axis -> order and values of the logarithms beside their mirror images, and of their sizes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranked", {axis: _ranked(logs) for axis, logs in self.logs.items()})


def _ranked(logs: Floats) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64], Floats]:
    both, sizes = np.concatenate([logs, -logs]), np.abs(logs)
    order, rising = np.argsort(both), np.argsort(sizes)
    return order, both[order], rising, sizes[rising]


def pools_of(trials: Iterable[Trial]) -> list[Pool]:
    """The pools of all rows."""
    found: dict[tuple[str, str], list[Trial]] = {}
    for one in trials:
        found.setdefault((one.metric, one.run.pool), []).append(one)
    made = []
    for (metric, name), members in sorted(found.items()):
        runs = list(dict.fromkeys(one.run for one in members))
        place = {run: number for number, run in enumerate(runs)}
        run = np.array([place[one.run] for one in members])
        logs = {axis: -np.array([one.logs.get(axis, np.nan) for one in members]) for axis in ("seen", *AXES)}
        # without its only publisher an engine is another that nobody knows
        logs["source"][~_twice([one.run for one in members])] = np.nan
        groups = {axis: _codes([label(each) for each in runs])[run] for axis, label in LABELS.items()}
        names = [each.cells for each in runs]
        chains = dict.fromkeys(sorted((each[: n + 1] for each in names for n in range(DEPTH)), key=len))
        made.append(
            Pool(
                metric=metric, name=name, trials=members, runs=runs, run=run, logs=logs, groups={"seen": run} | groups,
                cells={chain: np.array([each[: len(chain)] == chain for each in names])[run] for chain in chains},
            )
        )  # fmt: skip
    return made


def _twice(runs: Sequence[Ground]) -> NDArray[np.bool_]:
    """Whether several published rows of a run's engine."""
    known: dict[str, set[str]] = {}
    for run in runs:
        known.setdefault(run.engine, set()).add(run.source)
    return np.array([len(known[run.engine]) > 1 for run in runs])


def _codes(names: Sequence[str]) -> NDArray[np.int64]:
    place = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([place[name] for name in names])


def fitted(pools: Iterable[Pool], keep: Callable[[Pool], NDArray[np.bool_]] | None = None) -> dict[str, Any]:
    """Metric -> pool -> engines and cells, as ``catalog.trust.band`` reads them, of the rows to ``keep``."""
    made: dict[str, Any] = {}
    for pool in pools:
        mask = np.ones(pool.run.size, bool) if keep is None else keep(pool)
        if mask.any():
            runs = [pool.runs[i] for i in np.unique(pool.run[mask])]
            rows = len({one.id for one, kept in zip(pool.trials, mask.tolist(), strict=True) if kept})
            cells = {"rows": rows, "engines": _engines(runs), "cells": _cells(pool, mask)}
            made.setdefault(pool.metric, {})[pool.name] = cells
    return made


def _engines(runs: Sequence[Ground]) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, set[str]]] = {}
    for run in runs:
        near = found.setdefault(run.engine, {axis: set() for axis in KNOWN})
        for axis in KNOWN:
            near[axis].add(size(run) if axis == "size" else getattr(run, axis))
    return {engine: {axis: sorted(names) for axis, names in near.items()} for engine, near in sorted(found.items())}


def _cells(pool: Pool, mask: NDArray[np.bool_]) -> dict[str, dict[str, list[float]]]:
    made: dict[str, dict[str, list[float]]] = {}
    counted: dict[tuple[str, ...], dict[str, Floats]] = {(): {}}
    for chain, members in pool.cells.items():
        inside, above = members & mask, counted.get(chain[:-1], {})
        own = {axis: _counts(pool, inside, axis, above.get(axis)) for axis in ("seen", *AXES)}
        told = {axis: counts for axis, counts in own.items() if counts is not None}
        if inside.any():
            counted[chain] = {**above, **told}
            made[chain[-1]] = {axis: _reach(pool, axis, counts) for axis, counts in told.items()}
    return made


def _counts(pool: Pool, inside: NDArray[np.bool_], axis: str, above: Floats | None) -> Floats | None:
    """How many groups each row counts for in a cell: its share of its own, since what is new about a run is one more
    group, and those of the cell ``above`` that are not in it as a few; None where there is nothing to tell.

    Of rows like those of the fits ("seen") the next one is one more: each counts for itself.
    """
    some, groups = inside & np.isfinite(pool.logs[axis]), pool.groups[axis]
    sizes = np.bincount(groups[some], minlength=1)
    many = np.count_nonzero(sizes)
    if not many or (above is None and axis != "seen" and many < GROUPS):
        return None
    counts = np.zeros(some.size)
    counts[some] = 1.0 if axis == "seen" else 1.0 / sizes[groups[some]]
    if above is not None:
        others = np.where(inside, 0.0, above)
        counts += others * (DRAW / max(float(others.sum()), DRAW))
    return counts


def _reach(pool: Pool, axis: str, counts: Floats) -> list[float]:
    """Half of the errors are less; nine in ten measurements lie from so far below to so far above the prediction.

    Which way errors lie is not known of few groups: their mirror images count for a few. Of few groups the reach is
    told larger, about as Student's t.
    """
    order, ends, rising, sizes = pool.ranked[axis]
    many = float(counts.sum())
    share = np.cumsum(np.concatenate([counts, counts * min(DRAW / many, 1.0)])[order])
    low = ends[np.searchsorted(share, (0.5 - NINE / 2.0) * share[-1], side="right")]
    high = ends[np.searchsorted(share, (0.5 + NINE / 2.0) * share[-1])]
    half = np.cumsum(counts[rising])
    wider = 1.0 + SPREAD / many
    below, above = (max(float(each) * wider, NOISE) for each in (-low, high))
    return [float(sizes[np.searchsorted(half, 0.5 * half[-1])]), below, above]


def covered(pool: Pool, axis: str) -> Iterator[tuple[Trial, float, bool | None]]:
    """Of each row its error (a logarithm) and whether it lies in the band that rows without its group give it, scaled
    as their own bands ask for; None where they leave it unvalidated."""
    named = "seen" if axis == "nothing" else axis
    members, groups, shares = tried(pool, axis)
    for group in np.unique(groups):
        kinds = np.array([pool.runs[run].feed for run in pool.run[members]])
        for kind in np.unique(kinds[groups == group]):
            scale = _scale(groups, shares, (groups != group) & (kinds == kind))
            mine = (groups == group) & (kinds == kind)
            for i, share in zip(members[mine], shares[mine], strict=True):
                one = pool.trials[int(i)]
                yield one, one.logs[named], None if np.isnan(share) else bool(share <= scale)


def scales(pool: Pool) -> dict[str, dict[str, float]]:
    """Kind of models -> axis -> what its bands are to be multiplied by, so that they hold nine in ten of what was left
    out."""
    found = {axis: tried(pool, "nothing" if axis == "seen" else axis) for axis in ("seen", *AXES)}
    kinds = np.array([run.feed for run in pool.runs])[pool.run]
    return {
        kind: {
            axis: _scale(groups, shares, kinds[members] == kind) for axis, (members, groups, shares) in found.items()
        }
        for kind in dict.fromkeys(kinds.tolist())
    }


def tried(pool: Pool, axis: str) -> Tried:
    """Rows, the group that each is left out with, and its error as a share of the band that the others give (NaN where
    they leave it unvalidated). "nothing": rows kept from the fits, a fifth at a time."""
    if axis == "nothing":
        labels = np.array([zlib.crc32(one.id.encode()) % FOLDS for one in pool.trials])
        some, errors = np.array([one.held_out for one in pool.trials]), pool.logs["seen"]
    else:
        labels, errors = pool.groups[axis], pool.logs[axis]
        some = np.isfinite(errors)
    shares = np.full(errors.size, np.nan)
    for group in np.unique(labels[some]):
        out = labels == group
        table = fitted([pool], lambda _, out=out: ~out)  # type: ignore[misc]
        for run in np.unique(pool.run[out & some]):
            found = band(pool.metric, pool.runs[run], table)
            if found.low_ratio is not None and found.high_ratio is not None:
                mine = out & some & (pool.run == run)
                ends = np.log([found.low_ratio, found.high_ratio])
                shares[mine] = (errors[mine] / ends[:, None]).max(axis=0)
    return np.flatnonzero(some), labels[some], shares[some]


def _scale(groups: NDArray[np.int64], shares: Floats, some: NDArray[np.bool_]) -> float:
    """What makes nine in ten of ``some`` rows lie in the bands that others gave them, drawn to one: the fewer groups
    they count for, the nearer."""
    told = some & np.isfinite(shares)
    groups, shares = groups[told], shares[told]
    many = np.unique(groups).size
    if many < GROUPS:
        return 1.0
    return (many * float(np.quantile(shares, NINE)) + DRAW) / (many + DRAW)


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """One measured row that no fit has seen."""

    key: str
    """As ``catalog.trust_links.links_key``."""
    group: str
    """Rows of one source and system are one group."""
    ranks: int
    sent_bytes: float
    bytes_per_s: float
    """Of the links."""
    log_ratio: float
    """Logarithm of predicted over measured seconds."""


def collective_errors(folder: Path) -> Iterator[Error]:
    """Every held-out row of a collective or an exchange in the evidence ``folder`` that is predicted."""
    for suite in ("nccl", "allreduce"):
        for rows in kernel_rows(folder, suite):
            machine = attempt(partial(_node, rows))[0]
            if machine is not None:
                seconds = kernels.price(rows)
                name = kernels.flavour_of(rows)
                yield from _rows_of(rows, seconds, machine, rows.op.kind, name, rows.op.payload_bytes)
    for row, held in published(folder):
        if held and not row.doubtful and not row.eager:
            log = float(np.log(predict_s(row) / measured_s(row)))
            at = met(row.machine, row.ranks)
            yield Error(
                key=links_key(row.kind, at, flavour(question(row))), group=f"{row.source} {row.system}",
                ranks=row.ranks, sent_bytes=row.payload_bytes, bytes_per_s=at.bandwidth_bytes_per_s, log_ratio=log,
            )  # fmt: skip
    fits = calibration.fits("exchange", ExchangeFit)
    measured = exchange_rows(folder) if (folder / "kernels").is_dir() else []
    for part in exchange_parts([*measured, *exchange_published()]):
        if part.kind != "prepare":
            priced = attempt(partial(exchange_seconds, part, fits))[0]
            op = part.rows.op
            if priced is not None:
                yield from _rows_of(part.rows, priced, part.machine, part.kind, "", op.tokens * op.token_bytes)


def _node(rows: Measured[Any]) -> Machine:
    return fabric_of(level(rows.system))


def _rows_of(rows: Measured[Any], seconds: Num, machine: Machine, kind: str, name: str, sent: Any) -> Iterator[Error]:
    """Rows of one operator of arrays."""
    logs, ranks = np.log(seconds / rows.measured_s), np.broadcast_to(rows.op.ranks, rows.measured_s.shape)
    for i in np.flatnonzero(rows.held & np.isfinite(logs)):
        at = met(machine, float(ranks[i]))
        yield Error(
            key=links_key(kind, at, name), group=f"{rows.suite} {rows.system}", ranks=int(ranks[i]),
            sent_bytes=float(sent[i]), bytes_per_s=at.bandwidth_bytes_per_s, log_ratio=float(logs[i]),
        )  # fmt: skip


def collectives(folder: Path) -> dict[str, dict[str, Any]]:
    """Key -> rows, what was measured, and (median, ninth decile) of the errors, as ``catalog.trust`` reads them."""
    found: dict[str, list[Error]] = {}
    for one in collective_errors(folder):
        found.setdefault(one.key, []).append(one)
    return {
        key: {
            "rows": len(rows),
            "errors": quantiles(np.abs([one.log_ratio for one in rows]), len({one.group for one in rows})),
            **{name: [f(getattr(one, name) for one in rows) for f in (min, max)]
               for name in ("ranks", "sent_bytes", "bytes_per_s")},
        }
        for key, rows in sorted(found.items())
        if len(rows) > 1
    }  # fmt: skip
