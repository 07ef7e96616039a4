"""What served rows would be predicted to take, had the fit of their engine never seen their like.

Times are sums of kernels and gaps, so almost linear in a stack's constants: the slopes of every row are taken once, at
the fitted constants, and for each group that is left out (a model, a chip, a version...) the fit of ``fit_stacks`` is
solved anew over the linear times of the others. A chip that is left out is also priced with the kernels of another:
one of its own generation, and one of another generation. An engine that is left out has neutral constants.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from taicang.evidence import fit_stacks as fit
from taicang.evidence.measured import attempt
from taicang.evidence.served import Row
from taicang.evidence.suite_served import predict
from taicang.evidence.tables import held_out
from taicang.models.types import routed
from taicang.stacks import Stack

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


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
        found: Floats = np.maximum(self.base + np.einsum("tri,ri->tr", self.slopes, values - self.own), fit.LEAST)
        return found


def of_row(row: Row, names: Sequence[str]) -> Floats:
    """Constants that the row's stack runs with."""
    ratios = row.stack.kernel_ratio
    host = [float(getattr(row.stack, name)) for name in fit.HOST]
    return np.array([*host, *(ratios.get(name, ratios.get(name.partition("/")[0], 1.0)) for name in names)])


def with_values(stack: Stack, names: Sequence[str], values: Floats, fields: Collection[str] = fit.HOST) -> Stack:
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
    names = fit.ratios_of([row for row in mine if not held_out("served", *row.key)])
    own = np.array([of_row(row, names) for row in mine])
    plain = next((row for row in mine if f"{engine}@{row.stack.version}" not in _apart()), mine[0])

    def times(values: Floats) -> Floats:
        made = zip(mine, values, strict=True)
        return np.array([ratios(row, with_values(row.stack, names, each)) for row, each in made]).T

    base, slopes = fit.sloped(times, own, fit.widths(names) * fit.STEP)
    return Linear(rows=mine, names=names, at=of_row(plain, names), own=own, base=base, slopes=slopes)


def _apart() -> Mapping[str, object]:
    from taicang.catalog import calibration  # noqa: PLC0415 - the file is read once

    profiles: Mapping[str, object] = calibration.read("stacks")["profiles"]
    return profiles


def without(found: Linear, out: Flags) -> Floats:
    """Times of the rows ``out`` over measured, with constants fitted on what else the fit may see."""
    seen = found.known & ~out
    base, slopes, own = found.base[:, seen], found.slopes[:, seen], found.own[seen]

    def times(values: Floats) -> Floats:
        return np.asarray(base + np.einsum("tri,ri->tr", slopes, values - own))

    values = fit.nearest(found.rows[0].engine, found.names, times, found.at)
    return found.times(_versions(found, seen, np.tile(values, (len(found.rows), 1))))[:, out]


def _versions(found: Linear, seen: Flags, values: Floats) -> Floats:
    """``values`` [row, constant] with the experts' ratios of versions whose kernels differ, as ``fit_stacks`` has."""
    keys = [(row.stack.version, f"experts/{row.decode.plan.quant.experts}") for row in found.rows]
    models, values = np.array([row.model for row in found.rows]), values.copy()
    for version, key in {keys[i] for i, row in enumerate(found.rows) if routed(row.net)}:
        at = len(fit.HOST) + found.names.index(key if key in found.names else "experts")
        every = np.array([each == (version, key) for each in keys])
        members = every & seen
        if members.sum() < fit.ENOUGH_ROWS:
            continue

        def median(model: str, ratio: float, every: Flags = every, at: int = at, members: Flags = members) -> float:
            trial = values.copy()
            trial[every, at] = ratio
            return float(np.median(np.log(found.times(trial)[1][members & (models == model)])))

        values[every, at] = fit.moved(float(values[every, at][0]), median, dict.fromkeys(models[members].tolist()))
    return values


def lent(found: Linear, donors: Mapping[str, str]) -> Floats:
    """Predicted over measured with kernels of another chip."""
    from taicang.evidence.systems import units_of  # noqa: PLC0415 - beside its only use

    profile = {row.machine: units_of(row.machine, 1).chip.profile for row in found.rows}
    return np.array([ratios(row, None, donors[profile[row.machine]]) for row in found.rows]).T


def neutral(found: Linear) -> Floats:
    """Predicted over measured by an engine of which nothing is known."""
    plain = fit.neutral(found.rows[0].engine, found.names)
    return np.array([ratios(row, with_values(row.stack, found.names, plain)) for row in found.rows]).T
