"""Fit what an engine costs beside its kernels, and how its kernels compare with the best known ones.

Per engine, on calibrated-on rows of all machines and models together: host time per step and per sequence, idle gap per
layer, launch costs, how closed loops keep in step, and one ratio per family of kernels (per format where an engine
chose its kernels by format and enough rows tell). Schedulers are the engines' defaults, not fitted. The loss is the
logarithm of predicted over measured TPOT, rounded off beyond ten percent so that rows that contradict themselves do not
steer it; TTFT counts a tenth (it decides the burst ratio).
Constants are pulled weakly towards "no overhead, best kernels".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from taicang.errors import TaicangError
from taicang.evidence.fitting import Fitted, declared_fits
from taicang.evidence.served import Row
from taicang.evidence.suite_served import predict, rows
from taicang.evidence.tables import held_out
from taicang.models.types import routed

Floats: TypeAlias = NDArray[np.float64]
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
