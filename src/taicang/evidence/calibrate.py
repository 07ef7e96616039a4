"""A user's rows as a profile of their own: the few constants of a stack that the rows can carry.

Constants are those of ``fit_stacks`` and ``fit_training``, and whole families of kernels at once. They are drawn to
what the stack has, as there to nothing. One after the other joins in: the one that explains most, where rows of
configurations that the fit has not seen come nearer with it. What no constant brings nearer stays as it is, and the
bands are the errors of rows that were left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from taicang import catalog
from taicang.catalog.grounds import Ground
from taicang.errors import InvalidInput
from taicang.evidence import (
    fit_bands,
    fit_stacks,
    served,
    suite_served,
    suite_training,
    training_rows,
    trials,
)
from taicang.evidence.intake import reason, table
from taicang.evidence.suites import Kind
from taicang.evidence.tables import parsed
from taicang.stacks import Stack

Floats = NDArray[np.float64]
RATIO = (1.0, 0.4, 2.5, 0.2)
"""Start, least, most and width of a ratio of kernels: of a user's machine more is possible than of the best of many."""
CONFIGURATIONS = 3
"""Fewer cannot be left out in turn."""
BANDED = 10
"""Rows below which nine in ten of them mean nothing."""
FOLDS = 10
BETTER_RATIO = 0.05
"""Share of the loss on rows that were left out by which another constant must lower it."""
BETTER = 1e-4
"""The same per row, an error of one part in a thousand: rows are rounded."""
MOST = 5
ACTIVE = 1e-3
"""A constant moves a row where its width changes a time by this share."""
ROUNDS = 2
PASSES = 3
MEDIAN_RATIO = 0.6745
"""Median absolute error over the standard deviation."""
LEAST_PULL = 0.1
"""Weight of the prior where rows agree to a tenth of the bend: how well they agree tells how far they may pull."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One row that can be predicted."""

    key: tuple[object, ...]
    """Its configuration: rows that differ in load alone share it."""
    row: Any
    run: Ground
    times: Callable[[Stack], tuple[float, float]]
    """Predicted over measured (TTFT or NaN, TPOT or step time) under a stack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Constants that may move: host fields of ``Stack``, then ratios of kernels; limits and widths of each."""

    fields: Mapping[str, tuple[float, float, float]]
    """Field -> least, most, width."""
    ratios: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All constants."""
        return (*self.fields, *self.ratios)

    @property
    def limits(self) -> Floats:
        """[constant, (least, most, width)]."""
        return np.array([*self.fields.values(), *(RATIO[1:] for _ in self.ratios)])

    def at(self, stack: Stack) -> Floats:
        """The constants that a stack has."""
        return fit_stacks.of_stack(stack, self.ratios, self.fields)

    def stack(self, base: Stack, values: Floats) -> Stack:
        """``base`` with these constants; itself where they are its own."""
        same = np.array_equal(values, self.at(base))
        return base if same else fit_stacks.with_values(base, self.ratios, values, self.fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What the rows say of a stack."""

    base: Stack
    items: tuple[Item, ...]
    configurations: int
    constants: Mapping[str, tuple[float, float]]
    """Those that the rows moved: was, now."""
    kept: tuple[str, ...]
    """Constants that these rows move too little, or not apart from those that moved."""
    before: Mapping[str, float]
    """Metric -> mean absolute error with the stack's own constants."""
    after: Mapping[str, float]
    """The same of each configuration with constants that the others gave."""
    bands: Mapping[str, Any]
    notes: tuple[str, ...]


def ratios_of(stack: Stack) -> tuple[str, ...]:
    """Ratios of kernels that a stack may have."""
    return (*fit_stacks.FAMILIES, *sorted(name for name in stack.kernel_ratio if "/" in name))


def calibrate(base: Stack, space: Space, items: Sequence[Item], *, measured: str) -> Profile:
    """The profile that ``items`` make of ``base``; ``measured`` names what the second time of each is."""
    keys = list(dict.fromkeys(item.key for item in items))
    found = _Linear.around(base, space, items, space.at(base), np.ones(len(space.names), bool))
    plain, notes, chosen = found, [], np.zeros((len(space.names), 0))
    if len(keys) < CONFIGURATIONS:
        notes.append(
            f"{len(keys)} of the {CONFIGURATIONS} configurations that it takes to leave one out: nothing moves"
        )
    else:
        folds = np.array(
            [keys.index(item.key) % FOLDS if len(keys) > FOLDS else keys.index(item.key) for item in items]
        )
        chosen = _chosen(found, folds)
    if chosen.shape[1]:
        for _ in range(ROUNDS):
            now = found.solved(chosen, np.ones(len(items), bool))
            found = _Linear.around(base, space, items, now, (chosen != 0.0).any(axis=1))
    banded = len(keys) >= CONFIGURATIONS and len(items) >= BANDED
    if not banded:
        notes.append(f"bands stay those of the package: they take {BANDED} rows of {CONFIGURATIONS} configurations")
    for axis, what in (("model", "model"), ("chip", "chip")):
        if banded and len({getattr(item.run, axis) for item in items}) == 1:
            notes.append(f"all rows are of one {what}: bands of others stay those of the package")
    values, was = found.at, plain.at
    moved = {name: (float(a), float(b)) for name, a, b in zip(space.names, was, values, strict=True) if a != b}
    left = np.log(plain.base) if len(keys) < CONFIGURATIONS else found.left_out(chosen, [item.key for item in items])
    return Profile(
        base=base, items=tuple(items), configurations=len(keys), notes=tuple(notes),
        constants=moved,
        kept=tuple(name for name in space.names if name not in moved),
        before=_errors(np.log(plain.base), measured), after=_errors(left, measured),
        bands=_bands(found, chosen, left, measured) if banded else {},
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Linear:
    """Times of all rows around the constants ``at``: they are sums of kernels and gaps, so almost linear in these."""

    space: Space
    items: Sequence[Item]
    own: Floats
    """Of the stack itself, which constants are drawn to."""
    at: Floats
    base: Floats
    """[TTFT or the other, row] over measured."""
    slopes: Floats
    """[TTFT or the other, row, constant]."""

    @classmethod
    def around(cls, base: Stack, space: Space, items: Sequence[Item], at: Floats, moving: NDArray[np.bool_]) -> _Linear:
        """The rows at ``at`` and their slopes there, those of the constants that are ``moving``."""

        def times(values: Floats) -> Floats:
            stack = space.stack(base, values)
            return np.array([item.times(stack) for item in items]).T

        _, most, width = space.limits.T
        step = fit_stacks.STEP * width
        here, slopes = fit_stacks.sloped(times, at, np.where(moving, np.where(at + step <= most, step, -step), 0.0))
        return cls(space=space, items=items, own=space.at(base), at=at, base=here, slopes=slopes)

    def logs(self, values: Floats, seen: NDArray[Any]) -> Floats:
        """Logarithms of predicted over measured of the rows ``seen``."""
        moved = self.base[:, seen] + self.slopes[:, seen] @ (values - self.at)
        return np.asarray(np.log(np.maximum(moved, fit_stacks.LEAST)))

    def solved(self, chosen: Floats, seen: NDArray[Any]) -> Floats:
        """All constants, those in the directions ``chosen`` [constant, direction] fitted to the rows ``seen``."""
        least, most, _ = self.space.limits.T

        def values(x: Floats) -> Floats:
            held = np.clip(self.own + chosen @ x, least, most)
            return np.where((chosen != 0.0).any(axis=1), held, self.own)

        def residuals(x: Floats, pull: float) -> Floats:
            return np.concatenate([_bent(self.logs(values(x), seen)), x * pull])

        x, pull, many = np.zeros(chosen.shape[1]), 1.0, chosen.shape[1]
        for _ in range(PASSES if many else 0):
            x = np.asarray(least_squares(residuals, x, args=(pull,)).x)
            off = np.abs(self.logs(values(x), seen)[1])
            spread = float(np.median(off)) * off.size / max(off.size - many, 1)
            pull = float(np.clip(spread / MEDIAN_RATIO / fit_stacks.BEND, LEAST_PULL, 1.0))
        return values(x)

    def loss(self, chosen: Floats, folds: NDArray[np.int64]) -> float:
        """Loss of rows that the fit has not seen."""
        logs = [self.logs(self.solved(chosen, folds != k), folds == k) for k in np.unique(folds)]
        return float(np.square(_bent(np.concatenate(logs, axis=1))).sum())

    def left_out(self, chosen: Floats, groups: Sequence[object]) -> Floats:
        """Logarithms of all rows, each by constants of rows outside its group."""
        made = np.full(self.base.shape, np.nan)
        for group in dict.fromkeys(groups):
            out = np.array([each == group for each in groups])
            made[:, out] = self.logs(self.solved(chosen, ~out) if chosen.shape[1] else self.at, out)
        return made


def _bent(logs: Floats) -> Floats:
    """Residuals of ``fit_stacks``; nothing where nothing was measured."""
    return np.nan_to_num(np.concatenate(fit_stacks.pulls(*logs)))


def _directions(found: _Linear) -> Floats:
    """[constant, direction]: each constant that moves any row, and each family of kernels that several do."""
    width = found.space.limits[:, 2]
    active = np.nan_to_num(np.abs(found.slopes)).max(axis=(0, 1)) * width > ACTIVE
    made = []
    for family in fit_stacks.FAMILIES:
        own = np.array([name.partition("/")[0] == family for name in found.space.names]) & active
        own[: len(found.space.fields)] = False
        if own.sum() > 1:
            made.append(np.where(own, found.own * RATIO[3], 0.0))
    made += [np.eye(width.size)[i] * width[i] for i in np.flatnonzero(active)]
    return np.array(made).T.reshape(width.size, -1)


def _chosen(found: _Linear, folds: NDArray[np.int64]) -> Floats:
    """Directions in the order in which they explain the rows, as long as unseen ones come nearer."""
    every, everything = _directions(found), np.ones(len(found.items), bool)
    chosen = np.zeros((every.shape[0], 0))
    loss = found.loss(chosen, folds)
    while chosen.shape[1] < min(MOST, every.shape[1]):
        trial = [np.column_stack([chosen, one]) for one in every.T]
        left = [float(np.square(_bent(found.logs(found.solved(each, everything), everything))).sum()) for each in trial]
        best = trial[int(np.argmin(left))]
        now = found.loss(best, folds)
        if now > min(loss * (1.0 - BETTER_RATIO), loss - BETTER * len(found.items)):
            break
        chosen, loss = best, now
    return chosen


def _errors(logs: Floats, measured: str) -> dict[str, float]:
    found = {}
    for name, each in (("ttft", logs[0]), (measured, logs[1])):
        if np.isfinite(each).any():
            found[name] = float(np.nanmean(np.abs(np.expm1(each))))
    return found


def _bands(found: _Linear, chosen: Floats, left: Floats, measured: str) -> Mapping[str, Any]:
    """As ``fit_bands`` makes them of all rows: errors of rows left out by configuration, by model, by chip..."""
    runs = [replace(item.run, own={}) for item in found.items]
    logs = {"seen": left}
    for axis, label in trials.LABELS.items():
        groups = [label(run) for run in runs]
        if len(set(groups)) > 1 and axis != "engine":
            logs[axis] = found.left_out(chosen, groups)
    made: list[trials.Trial] = []
    for i, (item, run) in enumerate(zip(found.items, runs, strict=True)):
        mine = {axis: each[:, i] for axis, each in logs.items()}
        if measured == "tpot":
            made += [one for one in trials.of_served(item.row, run, mine, "served", held=True)
                     if one.metric == "tpot" or np.isfinite(mine["seen"][0])]  # fmt: skip
        else:
            plain = {axis: float(each[1]) for axis, each in mine.items()}
            made.append(
                trials.Trial(id=item.row.id, suite="training", metric=measured, run=run, logs=plain, held_out=True)
            )
    return fit_bands.rounded(fit_bands.fitted(fit_bands.pools_of(made)))  # type: ignore[no-any-return]


HOST: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {n: (low, high, width) for n, low, high, width in zip(
        fit_stacks.HOST, fit_stacks.LOW, fit_stacks.HIGH, fit_stacks.SCALE, strict=True)}
)  # fmt: skip
"""Field of ``Stack`` -> least, most and width, of serving."""
TRAINED: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {"eager_kernel_s": (0.0, 2e-4, 2e-5), "overlap_tax_ratio": (0.0, 1.0, 0.1)}
)
"""The same of training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What a file gives."""

    base: Stack
    items: tuple[Item, ...]
    space: Space
    measured: str
    """ "tpot" or "step_time"."""
    refused: tuple[str, ...]
    """A line each: file, number and reason."""
    rows: int


def read(path: Path, base: str = "") -> Read:
    """Rows of serving or of training; those of other engines than ``base`` (else the first row's) are refused."""
    kinds, lines = table(path)
    kind = _kind(kinds, lines, path)
    served_rows = kind.file == suite_served.FILE
    items, refused = [], []
    stack = catalog.stack(base) if base else None
    for number, cells in enumerate(lines, start=2):
        where = f"{path}:{number}"
        try:
            if kind.says and cells["kind"] != kind.says:
                raise InvalidInput(f"rows of {cells['kind']!r} say nothing of a stack")
            silent = {"stack": base} if base and served_rows and not cells.get("backend") else {}
            item, own = (_served if served_rows else _trained)(cells | silent | {"line": str(number)})
            stack = stack or own
            if own.engine != stack.engine:
                raise InvalidInput(f"ran on {own.engine}, not {stack.engine}: --base names the stack")
            times = item.times(stack)
            if not any(math.isfinite(each) for each in times) or 0.0 in times:
                raise InvalidInput("states no positive measured time")
            items.append(replace(item, run=replace(item.run, engine=stack.engine, version=stack.version)))
        except Exception as error:  # a row that cannot be read must not take the others with it
            refused.append(f"{where}: {reason(error)}")
    if stack is None or not items:
        raise InvalidInput("; ".join(refused[:3]) or "no rows", where="" if refused else str(path))
    space = Space(fields=HOST if served_rows else TRAINED, ratios=_ratios(stack, items if served_rows else ()))
    return Read(
        base=stack, items=tuple(items), space=space, measured="tpot" if served_rows else "step_time",
        refused=tuple(refused), rows=len(lines),
    )  # fmt: skip


def _ratios(stack: Stack, items: Sequence[Item]) -> tuple[str, ...]:
    """Ratios of kernels that may move: of families, and of the formats that served rows are in."""
    formats = {str(getattr(item.row.decode.plan.quant, name)) for item in items for name in ("dense", "experts")}
    return tuple(name for name in ratios_of(stack) if not items or name.partition("/")[2] in ("", *formats))


def _kind(kinds: Sequence[Kind], lines: Sequence[Mapping[str, str]], path: Path) -> Kind:
    said = {line.get("kind", "") for line in lines}
    for kind in kinds:
        if kind.file == suite_served.FILE or (kind.file == training_rows.FILE and kind.says in said):
            return kind
    raise InvalidInput(
        f"rows of {kinds[0].file} tell nothing of a stack: it takes served end-to-end or training rows", where=str(path)
    )


def _served(cells: dict[str, str]) -> tuple[Item, Stack]:
    row = served.row_of(cells)
    if not row.tpot_s > 0.0:
        raise InvalidInput("states no positive silicon_tpot_ms")
    timed = row.ttft_s > 0.0

    def times(stack: Stack) -> tuple[float, float]:
        ttft, tpot = fit_stacks.ratios(row if timed else replace(row, ttft_s=math.nan), stack)
        return ttft, tpot

    suite_served.predict(row)  # says why, where it cannot be
    return Item(key=row.key, row=row, run=suite_served.run_of(row), times=times), row.stack


def _trained(cells: dict[str, str]) -> tuple[Item, Stack]:
    row = training_rows.row_of(parsed(cells))
    suite_training.predict(row)  # likewise
    own = catalog.stack(training_rows.stack_of(row))
    key = (row.model, row.chip, row.count, row.raw["dtype"], row.seq, str(row.raw["par"]))
    return Item(key=key, row=row, run=suite_training.run_of(row), times=partial(_step, row)), own


def _step(row: training_rows.Row, stack: Stack) -> tuple[float, float]:
    return math.nan, suite_training.predict(row, stack).seconds / row.step_s
