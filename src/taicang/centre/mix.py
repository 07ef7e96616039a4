"""Several kinds of work in one centre, each with its share of the hours that are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from taicang.centre import cost
from taicang.centre.draw import SAMPLES, Band, Case, band, draws, mtoken, run_chip_hours
from taicang.centre.report import work_income
from taicang.errors import InvalidInput
from taicang.units import Num

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
