"""Fit what an engine costs beside its kernels, and how its kernels compare with the best known ones.

Per engine, on calibrated-on rows of all machines and models together: host time per step and per sequence, idle gap per
layer, launch costs, how closed loops keep in step, and one ratio per family of kernels (per format where an engine
chose its kernels by format and enough rows tell). Schedulers are the engines' defaults, not fitted. The loss is the
logarithm of predicted over measured TPOT, rounded off beyond ten percent so that rows that contradict themselves do not
steer it; TTFT counts a tenth (it decides the burst ratio).
Constants are pulled weakly towards "no overhead, best kernels".

What rows would be predicted to take, had the fit never seen their like, is at the end. Times are sums of kernels and
gaps, so almost linear in a stack's constants: the slopes of every row are taken once, at the fitted constants, and for
each group that is left out (a model, a chip, a version...) the fit is solved anew over the linear times of the others.
A chip that is left out is also priced with the kernels of another: one of its own generation, and one of another
generation. An engine that is left out has neutral constants.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from taicang.catalog import calibration
from taicang.errors import TaicangError
from taicang.evidence.fitting import Fitted, declared_fits
from taicang.evidence.measured import attempt
from taicang.evidence.served import Row
from taicang.evidence.suite_served import predict, rows
from taicang.evidence.systems import units_of
from taicang.evidence.tables import held_out
from taicang.models.types import routed
from taicang.stacks import Stack

Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Times: TypeAlias = Callable[[Floats], Floats]
"""From constants to [TTFT or TPOT, row], predicted over measured."""
DECLARED: Mapping[str, Any] = declared_fits()["stacks"]
FAMILIES = ("gemm", "attend", "collective", "experts")
ENOUGH_ROWS = 20
HOST: tuple[str, ...] = tuple(DECLARED["constants"])
START, LOW, HIGH, SCALE, NEUTRAL = zip(*DECLARED["constants"].values(), strict=True)
RATIO_START, RATIO_LOW, RATIO_HIGH, RATIO_SCALE, RATIO_NEUTRAL = DECLARED["ratio"]
VERSION_HIGH = 2.5
"""A version may run a format without tuned kernels."""
APART = 0.15
"""Median error of a version's rows from which its kernels count as different."""
NOTHING = 1e-3
"""Constants below this many prior widths are written as zero."""
PRIOR = 5.0
"""A constant one width off weighs as the square of this, in rows of ten percent error. Chosen, with the width of the
ratios, by leaving out each model in turn: rows of one model are not independent, so a weaker prior fits the models at
hand and errs for others (at 1 and widths of 0.2: 17.1 % of aggregated TPOT, here 12.5 %)."""
ROUNDS = 2
STEP = 0.2
"""Change that slopes are taken over, in prior widths."""
TTFT_WEIGHT = 0.1
BEND = 0.1
"""Error at which a row's pull stops growing."""
LEAST = 0.02
"""Least ratio of predicted to measured time that a linear time may fall to."""


def ratios_of(chosen: list[Row]) -> tuple[str, ...]:
    """Kernel ratios that these rows can tell."""
    seen = dict.fromkeys(DECLARED["formats"], 0)
    for row in chosen:
        quant = row.decode.plan.quant
        kind = routed(row.net)
        for key in {f"experts/{quant.experts}" if kind else "", f"gemm/{quant.dense}"}:
            seen[key] = seen.get(key, 0) + 1
    return FAMILIES + tuple(key for key in DECLARED["formats"] if seen[key] >= ENOUGH_ROWS)


def neutral(engine: str, names: Sequence[str]) -> Floats:
    """What the constants of ``engine`` are drawn to; ``names`` are the kernel ratios at its end."""
    own = dict(zip(HOST, NEUTRAL, strict=True)) | DECLARED["neutral"].get(engine, {})
    return np.array([*own.values(), *(RATIO_NEUTRAL for _ in names)])


def bounds(engine: str, names: tuple[str, ...]) -> tuple[Floats, Floats]:
    """Least and most of the constants of ``engine``."""
    given, many = DECLARED["given"].get(engine, {}), len(names)
    low = [given.get(name, least) for name, least in zip(HOST, LOW, strict=True)]
    high = [
        0.0 if name.startswith("draft_") and engine not in DECLARED["serial"] else given.get(name, most)
        for name, most in zip(HOST, HIGH, strict=True)
    ]
    return np.array(low + [RATIO_LOW] * many), np.array(high + [RATIO_HIGH] * many) + 1e-12


def constants(engine: str, names: tuple[str, ...], values: Floats) -> dict[str, Any]:
    """The vector of the fit as fields of ``Stack``; ``names`` are the kernel ratios at its end."""
    named = {
        name: float(value) if value > NOTHING * width else 0.0
        for name, value, width in zip(HOST, values, SCALE, strict=False)
    }
    ratios = {name: float(value) for name, value in zip(names, values[len(HOST) :], strict=True)}
    return {"scheduler": DECLARED["scheduler"][engine], **named, "kernel_ratio": ratios}


def times(chosen: list[Row], fields: Mapping[str, Any]) -> Floats:
    """Predicted over measured TTFT, then TPOT, of rows whose stacks have these constants; one where one is refused."""
    found = np.ones((2, len(chosen)))
    for index, row in enumerate(chosen):
        try:
            steady = predict(row, replace(row.stack, **fields))
        except TaicangError:
            continue
        found[:, index] = steady.ttft_s / row.ttft_s, steady.tpot_s / row.tpot_s
    return found


def pulls(ttft: Floats, tpot: Floats) -> list[Floats]:
    """Residuals of logarithms whose squares are the pseudo-Huber loss, in units of its bend."""

    def bent(logs: Floats) -> Floats:
        return np.sign(logs) * np.sqrt(2.0 * (np.sqrt(1.0 + np.square(logs / BEND)) - 1.0))

    return [bent(tpot), bent(ttft / 3.0) * np.sqrt(TTFT_WEIGHT)]


def widths(names: Sequence[str]) -> Floats:
    """Of the prior of each constant."""
    return np.array(SCALE + (RATIO_SCALE,) * len(names))


def nearest(engine: str, names: tuple[str, ...], times: Times, start: Floats) -> Floats:
    """Constants of ``engine`` that bring ``times`` (of constants: TTFT and TPOT over measured) nearest to one."""
    width = widths(names)
    drawn = neutral(engine, names) / width
    low, high = (each / width for each in bounds(engine, names))

    def residuals(x: Floats) -> Floats:
        return np.concatenate([*pulls(*np.log(np.maximum(times(x * width), LEAST))), (x - drawn) * PRIOR])

    found: Floats = least_squares(residuals, np.clip(start / width, low, high), bounds=(low, high)).x * width
    return found


def fit_engine(engine: str, chosen: list[Row]) -> Floats:
    """Constants of one engine over its rows.

    Times are sums of kernels and gaps, so almost linear in the constants: each round takes their slopes and minimises
    the loss of the linear times.
    """
    names = ratios_of(chosen)
    step, (low, high) = STEP * widths(names), bounds(engine, names)

    def nearer(at: Floats) -> Floats:
        change = np.where(at + step <= high, step, -step)
        base, slopes = sloped(lambda now: times(chosen, constants(engine, names, now)), at, change)
        return nearest(engine, names, lambda now: base + slopes @ (now - at), at)

    values: Floats = np.clip(START + (RATIO_START,) * len(names), low, high)
    for _ in range(ROUNDS):
        values = nearer(values)
    return values


def sloped(times: Times, at: Floats, change: Floats) -> tuple[Floats, Floats]:
    """Times at the constants ``at`` [constant] or [row, constant] and their slopes there, of those that ``change``."""
    base = times(at)
    slopes = np.zeros((*base.shape, change.size))
    for i in np.flatnonzero(change):
        moved = at.copy()
        moved[..., i] += change[i]
        slopes[..., i] = (times(moved) - base) / change[i]
    return base, slopes


def moved(ratio: float, median: Callable[[str, float], float], models: Iterable[str]) -> float:
    """A version's ratio of kernels, from ``ratio``; ``median`` tells the median error (log) of a model's rows at one.

    It moves where ``ENOUGH_ROWS`` rows say by more than ``APART`` that these kernels are slower or faster, and only as
    far as the model that asks least for it: what another asks beyond is that model's own, and what one contradicts is
    no kernel's.
    """
    wanted = []
    for model in models:
        now = median(model, ratio)
        slope = (median(model, ratio * 1.1) - now) / np.log(1.1)
        wanted.append(-now / max(slope, 0.1) if abs(now) >= APART else 0.0)
    least = min(wanted, key=abs) if min(wanted) * max(wanted) > 0.0 else 0.0
    return float(np.clip(ratio * np.exp(least), RATIO_LOW, VERSION_HIGH)) if least else ratio


def version_ratios(chosen: list[Row], fitted: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Experts' ratios of versions whose kernels for a format differ: version -> all ratios that it runs with."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in chosen:
        if routed(row.net):
            key = f"experts/{row.decode.plan.quant.experts}"
            groups.setdefault((row.stack.version, key), []).append(row)
    found: dict[str, dict[str, float]] = {}
    for (version, key), members in groups.items():
        if len(members) < ENOUGH_ROWS:
            continue
        ratios: dict[str, float] = dict(found.get(version, fitted["kernel_ratio"]))
        start = ratios.get(key) or ratios["experts"]

        def median(
            model: str, ratio: float, members: list[Row] = members, ratios: dict[str, float] = ratios, key: str = key
        ) -> float:
            trial = {**fitted, "kernel_ratio": ratios | {key: ratio}}
            return float(np.median(np.log(times([row for row in members if row.model == model], trial)[1])))

        ratio = moved(start, median, dict.fromkeys(row.model for row in members))
        if ratio != start:
            found[version] = ratios | {key: ratio}
    return found


def fit(folder: Path) -> Fitted:
    """Constants of every engine from its calibrated-on rows."""
    known = [row for row in rows(folder) if not held_out("served", *row.key)]
    profiles = {}
    for engine in DECLARED["scheduler"]:
        chosen = [row for row in known if row.engine == engine]
        fitted = constants(engine, ratios_of(chosen), fit_engine(engine, chosen))
        profiles[engine] = {"constants": fitted}
        for version, ratios in version_ratios(chosen, fitted).items():
            profiles[f"{engine}@{version}"] = {"constants": {"kernel_ratio": ratios}}
    return Fitted(files={"stacks": profiles}, rows=len(known))


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """Rows of one engine whose times are linear in its constants: [TTFT or TPOT, row(, constant)], over measured."""

    rows: Sequence[Row]
    names: tuple[str, ...]
    """Of the kernel ratios after the host's constants."""
    at: Floats
    """The fitted constants."""
    own: Floats
    """[row, constant]: those that a row's version runs with."""
    base: Floats
    slopes: Floats

    @property
    def known(self) -> Flags:
        """Rows that a fit may see."""
        return np.array([not held_out("served", *row.key) for row in self.rows])

    def times(self, values: Floats) -> Floats:
        """With other constants in all rows (or [row, constant])."""
        found: Floats = np.maximum(self.base + np.einsum("tri,ri->tr", self.slopes, values - self.own), LEAST)
        return found


def of_stack(stack: Stack, names: Sequence[str], fields: Collection[str] = HOST) -> Floats:
    """Constants that a stack runs with: ``fields``, then ratios of kernels by ``names``."""
    ratios = stack.kernel_ratio
    host = [float(getattr(stack, name)) for name in fields]
    return np.array([*host, *(ratios.get(name, ratios.get(name.partition("/")[0], 1.0)) for name in names)])


def with_values(stack: Stack, names: Sequence[str], values: Floats, fields: Collection[str] = HOST) -> Stack:
    """``stack`` with other constants: ``fields``, then ratios of kernels by ``names``."""
    host = dict(zip(fields, map(float, values), strict=False))
    ratios = dict(stack.kernel_ratio) | dict(zip(names, map(float, values[len(fields) :]), strict=True))
    return replace(stack, kernel_ratio=MappingProxyType(ratios), **host)  # type: ignore[arg-type]


def ratios(row: Row, stack: Stack | None = None, lent: str = "") -> tuple[float, float]:
    """Predicted over measured (TTFT, TPOT); NaN where refused."""
    found, _ = attempt(partial(predict, row, stack, lent))
    nothing = (float("nan"), float("nan"))
    return nothing if found is None else (float(found.ttft_s) / row.ttft_s, float(found.tpot_s) / row.tpot_s)


def linear(engine: str, rows: Sequence[Row]) -> Linear:
    """The rows of ``engine`` that can be predicted."""
    mine = [row for row in rows if row.engine == engine and np.isfinite(ratios(row)[0])]
    names = ratios_of([row for row in mine if not held_out("served", *row.key)])
    own = np.array([of_stack(row.stack, names) for row in mine])
    plain = next((row for row in mine if f"{engine}@{row.stack.version}" not in _apart()), mine[0])

    def times(values: Floats) -> Floats:
        made = zip(mine, values, strict=True)
        return np.array([ratios(row, with_values(row.stack, names, each)) for row, each in made]).T

    base, slopes = sloped(times, own, widths(names) * STEP)
    return Linear(rows=mine, names=names, at=of_stack(plain.stack, names), own=own, base=base, slopes=slopes)


def _apart() -> Mapping[str, object]:
    profiles: Mapping[str, object] = calibration.read("stacks")["profiles"]
    return profiles


def without(found: Linear, out: Flags) -> Floats:
    """Times of the rows ``out`` over measured, with constants fitted on what else the fit may see."""
    seen = found.known & ~out
    others = replace(found, base=found.base[:, seen], slopes=found.slopes[:, seen], own=found.own[seen])
    values = nearest(found.rows[0].engine, found.names, others.times, found.at)
    return found.times(_versions(found, seen, np.tile(values, (len(found.rows), 1))))[:, out]


def _versions(found: Linear, seen: Flags, values: Floats) -> Floats:
    """``values`` [row, constant] with the experts' ratios of versions whose kernels differ, as ``fit_stacks`` has."""
    keys = [(row.stack.version, f"experts/{row.decode.plan.quant.experts}") for row in found.rows]
    models, values = np.array([row.model for row in found.rows]), values.copy()
    for version, key in {keys[i] for i, row in enumerate(found.rows) if routed(row.net)}:
        at = len(HOST) + found.names.index(key if key in found.names else "experts")
        every = np.array([each == (version, key) for each in keys])
        members = every & seen
        if members.sum() < ENOUGH_ROWS:
            continue

        def median(model: str, ratio: float, every: Flags = every, at: int = at, members: Flags = members) -> float:
            trial = values.copy()
            trial[every, at] = ratio
            return float(np.median(np.log(found.times(trial)[1][members & (models == model)])))

        values[every, at] = moved(float(values[every, at][0]), median, dict.fromkeys(models[members].tolist()))
    return values


def lent(found: Linear, donors: Mapping[str, str]) -> Floats:
    """Predicted over measured with kernels of another chip."""
    profile = {row.machine: units_of(row.machine, 1).chip.profile for row in found.rows}
    return np.array([ratios(row, None, donors[profile[row.machine]]) for row in found.rows]).T


def unknown(found: Linear) -> Floats:
    """Predicted over measured by an engine of which nothing is known."""
    plain = neutral(found.rows[0].engine, found.names)
    return np.array([ratios(row, with_values(row.stack, found.names, plain)) for row in found.rows]).T
