"""Machines of a centre side by side, for the same load; kinds of work in one, each with its share of the used hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from taicang.centre import cost
from taicang.centre.draw import SAMPLES, Band, Case, band, draws, middles, mtoken, run_chip_hours
from taicang.centre.report import check, work_income
from taicang.errors import InvalidInput
from taicang.units import Num


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One of several machines: per million output tokens, and at equal money, power and service."""

    name: str
    rented: bool
    output_mtoken: Band
    output_tokens_per_s_per_cny: float | None
    """Of used machines, over their price."""
    output_tokens_per_s_per_w: float | None
    """The same over the power of the facility."""
    machines_ratio: float
    """Machines that carry what the first one of the list carries."""
    yearly: Band
    """What these cost a year."""
    alike: tuple[str, ...]
    """Machines that the ranges cannot tell from it: cheaper in 5 to 95 of 100 draws."""


def compare(cases: Sequence[Case], *, currency: str, samples: int = SAMPLES, seed: int = 0) -> tuple[Row, ...]:
    """Machines that serve the same, side by side; figures that they share are drawn alike."""
    for case in cases:
        check(case)
    all_values = [draws(case.figures, case.name, samples, seed) for case in cases]
    costs = [mtoken(case, values, values["utilisation"]) for case, values in zip(cases, all_values, strict=True)]
    rows = []
    load = _machine_rate(cases[0])
    for case, values, each in zip(cases, all_values, costs, strict=True):
        unit: Num = values["rate"] if currency == "USD" else 1.0
        mid, machine = middles(case.figures), case.plant.machine
        rate, needed = _machine_rate(case), load / _machine_rate(case)
        hourly: Num = sum(cost.hour(case.plant, values, values["utilisation"]).values())
        power = 0.0 if case.plant.rented else float(cost.power_kw(case.plant, mid, 1.0)) * machine.chips * 1e3
        rows.append(
            Row(
                name=case.name,
                rented=case.plant.rented,
                output_mtoken=band(each / unit),
                output_tokens_per_s_per_cny=None if case.plant.rented else rate / float(mid["price"]),
                output_tokens_per_s_per_w=rate / power if power else None,
                machines_ratio=needed,
                yearly=band(hourly * machine.chips * needed * cost.HOURS_PER_YEAR / unit),
                alike=tuple(
                    other.name
                    for other, theirs in zip(cases, costs, strict=True)
                    if other is not case and 0.05 < float(np.mean(np.asarray(each) < np.asarray(theirs))) < 0.95
                ),
            )
        )
    return tuple(rows)


def _machine_rate(case: Case) -> float:
    """Output tokens per second of one machine that is used all the time."""
    assert case.serving is not None
    return case.serving.output_tokens_per_chip_hour / 3600.0 * case.plant.machine.chips


HOURS_PER_MONTH = cost.HOURS_PER_YEAR / 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One kind of work: what it costs, and what it makes in a month of the whole centre."""

    model: str
    trained: bool
    share_ratio: float
    """Of the used chip-hours."""
    output_mtoken: Band | None
    """A million output tokens, everything over them alone."""
    monthly_tokens: Band | None
    """Output tokens."""
    run: Band | None
    """One training run."""
    monthly_runs: Band | None
    monthly_cost: Band
    monthly_income: Band | None
    """At an API's prices."""


def combine(base: Case, parts: Sequence[tuple[float, Case]]) -> Case:
    """``base`` doing all work in ``parts``, each with its share of the used hours; its day is that of all together.

    Raises ``InvalidInput`` where the shares do not come to one.
    """
    total = sum(share for share, _ in parts)
    if abs(total - 1.0) > 1e-6:
        raise InvalidInput(f"shares come to {total:.4g}, not to 1", where="--mix")
    days = zip(*(part.plant.day for _, part in parts), strict=True)
    hours = tuple(sum(share * hour for (share, _), hour in zip(parts, each, strict=True)) for each in days)
    plant = replace(base.plant, day=hours)
    placed = []
    for at, (share, part) in enumerate(parts):
        errors = {key: figure for key, figure in part.figures.items() if key == "error"}
        name = f"{base.name}, work {at + 1}"
        placed.append((share, replace(part, name=name, plant=plant, figures={**base.figures, **errors})))
    return replace(base, plant=plant, mix=tuple(placed))


def shares(case: Case, *, currency: str, samples: int = SAMPLES, seed: int = 0) -> tuple[Share, ...]:
    """A row for every kind of work in ``case.mix``."""
    made = []
    for share, part in case.mix:
        values = draws(part.figures, part.name, samples, seed)
        unit: Num = values["rate"] if currency == "USD" else 1.0
        use = values["utilisation"]
        chips = case.plant.machine.chips * case.count
        used_h = share * cost.used_ratio(case.plant, values, use) * chips * HOURS_PER_MONTH
        hourly = cost.used_hour(case.plant, values, use)
        work, run = part.serving, part.training
        income = work_income(part, values)
        run_h = run_chip_hours(run, part.name, samples, seed) if run else 1.0
        made.append(
            Share(
                model=work.model if work else run.model if run else "",
                trained=run is not None,
                share_ratio=share,
                output_mtoken=band(mtoken(part, values, use) / unit) if work else None,
                monthly_tokens=band(work.output_tokens_per_chip_hour * values["error"] * used_h) if work else None,
                run=band(hourly * run_h / unit) if run else None,
                monthly_runs=band(used_h / run_h) if run else None,
                monthly_cost=band(hourly * used_h / unit),
                monthly_income=None if income is None else band(income * used_h / unit),
            )
        )
    return tuple(made)
