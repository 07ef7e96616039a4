"""Everything that a centre says, as bands: each figure is drawn from its range, every result is made of the draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from taicang.centre import cost
from taicang.centre.cost import Values
from taicang.centre.draw import SAMPLES, Band, Case, Serving, band, draws, middles, mtoken, run_chip_hours, token_costs
from taicang.centre.figures import Figure
from taicang.centre.outage import broken
from taicang.errors import InvalidInput, MissingFigure
from taicang.units import Num

USES = (0.2, 0.3, 0.6, 0.8)
"""Utilisations that are set side by side."""
DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swing:
    """What one figure does to the result when the others stay in the middle."""

    key: str
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Costs in ``currency``; energy in kWh and carbon in kg of the whole centre."""

    name: str
    currency: str
    chips: int
    rented: bool
    utilisation: Band
    chip_hour: Band
    parts: Mapping[str, Band]
    used_chip_hour: Band
    output_mtoken: Band | None
    """Everything over the output tokens alone, per million: the price of output at which it pays, were input free."""
    tokens: Mapping[str, Band]
    """Per million input, cached and output tokens, by the chips' time that each takes."""
    monthly_tokens: float | None
    at_use: Mapping[str, Band]
    run: Band | None
    """One training run."""
    run_s: float | None
    even_utilisation: Band | None
    """From which an API's prices pay for the centre; above one: never."""
    rented_mtoken: Band | None
    """The same tokens on rented chips."""
    api_mtoken: Band | None
    """The same tokens at the API's prices, all over output."""
    bill_per_chip_month: Band | None
    power_kw: Band | None
    """Of the whole centre; the lessor's where chips are rented."""
    by_hour: tuple[Mapping[str, float], ...]
    by_month: tuple[Mapping[str, float], ...]
    cash: tuple[Mapping[str, float], ...]
    outage: Mapping[str, Band]
    tornado: tuple[Swing, ...]
    samples: int
    seed: int


def income(case: Case, values_of: Callable[[Case], Values]) -> Num | None:
    """Yuan that a used chip-hour earns at an API's prices; None where nothing has a price."""
    if case.mix:
        parts = [(share, income(part, values_of)) for share, part in case.mix]
        known = [share * each for share, each in parts if each is not None]
        return sum(known) if known else None
    return work_income(case, values_of(case))


def work_income(case: Case, values: Values) -> Num | None:
    """``income`` of one kind of work."""
    if case.serving is None or not case.prices:
        return None
    return case.serving.earned(case.prices) * values["error"]


def check(case: Case) -> None:
    """Raise for figures that nobody published and the user did not state."""
    if case.plant.rented and "rent" not in case.figures:
        raise InvalidInput(f"no rent of {case.plant.machine.name} is published; give --rent, e.g. '2 USD/h'")
    if not case.plant.rented:
        if "price" not in case.figures:
            said = "give --price, e.g. '2..3 MCNY' for the whole machine, or --rent, e.g. '2 USD/h' for a chip"
            raise InvalidInput(f"no price of {case.plant.machine.name} is published; {said}")
        if case.plant.machine.power_w is None:
            raise MissingFigure(case.plant.machine.name, "power.load")


def report(case: Case, *, currency: str = "CNY", samples: int = SAMPLES, seed: int = 0) -> Report:
    """Everything that ``case`` says."""
    check(case)
    plant, work = case.plant, case.serving
    values = draws(case.figures, case.name, samples, seed)
    unit: Num = values["rate"] if currency == "USD" else 1.0
    use = values["utilisation"]
    parts = cost.hour(plant, values, use)
    whole: Num = sum(parts.values())
    used = cost.used_hour(plant, values, use)
    prices: Mapping[str, Num] = case.prices
    mid = middles(case.figures)
    shown = mid["rate"] if currency == "USD" else 1.0
    earned = income(case, lambda part: draws(part.figures, part.name, samples, seed))
    month = cost.used_ratio(plant, mid, mid["utilisation"]) * 730.0
    chips = plant.machine.chips * case.count
    busy = () if plant.rented else cost.busy(plant, use)
    power: Num = sum(cost.power_kw(plant, values, each) for each in busy)
    return Report(
        name=case.name,
        currency=currency,
        chips=chips,
        rented=plant.rented,
        utilisation=band(use),
        chip_hour=band(whole / unit),
        parts={name: band(part / unit) for name, part in parts.items()},
        used_chip_hour=band(used / unit),
        output_mtoken=band(mtoken(case, values, use) / unit) if work else None,
        tokens=token_costs(work, used / values["error"] / unit) if work else {},
        monthly_tokens=float(work.output_tokens_per_chip_hour * month * chips) if work else None,
        at_use=_at_use(case, values, unit),
        run=None
        if case.training is None
        else band(used * run_chip_hours(case.training, case.name, samples, seed) / unit),
        run_s=None if case.training is None else case.training.seconds,
        even_utilisation=None if earned is None or plant.rented else band(cost.even_utilisation(plant, values, earned)),
        rented_mtoken=_rented(case, values, use, unit),
        api_mtoken=band(_listed(work, prices) / (values["rate"] if currency == "USD" else np.ones(1)))
        if work and prices
        else None,
        bill_per_chip_month=None if plant.rented else band(cost.electricity(plant, values, use) * 730.0 / unit),
        power_kw=None if plant.rented else band(power / 24.0 * chips),
        by_hour=_by_hour(case, mid, shown),
        by_month=_by_month(case, mid, shown),
        cash=_cash(case, mid, shown),
        outage=_outage(case, values, whole / unit, earned, unit, seed),
        tornado=_tornado(case, currency),
        samples=samples,
        seed=seed,
    )


def _at_use(case: Case, values: Values, unit: Num) -> dict[str, Band]:
    """Cost of a million output tokens, or of a used chip-hour, by utilisation."""
    made = {}
    for share in USES:
        found = mtoken(case, values, share) if case.serving else cost.used_hour(case.plant, values, share)
        made[f"{share:.0%}"] = band(found / unit)
    return made


def _rented(case: Case, values: Values, use: Num, unit: Num) -> Band | None:
    """The same tokens on chips rented by the hour, idle hours paid too."""
    if case.plant.rented or case.serving is None or "rent" not in case.figures:
        return None
    rate = case.serving.output_tokens_per_chip_hour * values["error"]
    return band(values["rent"] / cost.used_ratio(case.plant, values, use) / rate * 1e6 / unit)


def _listed(work: Serving, prices: Mapping[str, Num]) -> Num:
    return work.earned(prices) / work.output_tokens_per_chip_hour * 1e6


def _by_hour(case: Case, mid: Values, unit: Num) -> tuple[Mapping[str, float], ...]:
    """A day: load, power, tariff, bill and carbon of the whole centre by hour."""
    if case.plant.rented:
        return ()
    plant, chips, made = case.plant, case.plant.machine.chips * case.count, []
    for at, used in enumerate(cost.busy(plant, mid["utilisation"])):
        power = float(cost.power_kw(plant, mid, used) * chips)
        tariff = float(mid["tariff"] * plant.steps[at] / unit)
        row = {"hour": at, "used_ratio": float(used), "power_kw": power, "tariff": tariff, "bill": power * tariff}
        made.append(row | ({"carbon_kg": power * float(mid["carbon"])} if "carbon" in mid else {}))
    return tuple(made)


def _by_month(case: Case, mid: Values, unit: Num) -> tuple[Mapping[str, float], ...]:
    day = _by_hour(case, mid, unit)
    keys = [key for key in ("power_kw", "bill", "carbon_kg") if day and key in day[0]]
    names = {"power_kw": "energy_kwh"}
    return tuple(
        {"month": at + 1} | {names.get(key, key): days * sum(row[key] for row in day) for key in keys}
        for at, days in enumerate(DAYS)
        if day
    )


def _cash(case: Case, mid: Values, unit: Num) -> tuple[Mapping[str, float], ...]:
    """Purchase, running cost and, where an API has prices, what they would earn, by year; undiscounted."""
    plant = case.plant
    if plant.rented:
        return ()
    chips = plant.machine.chips * case.count
    parts = cost.hour(plant, mid, mid["utilisation"])
    running = float(sum(part for name, part in parts.items() if name != "capital")) * cost.HOURS_PER_YEAR * chips
    bought = float(mid["price"] * (1.0 + mid["network"]) * (1.0 + mid["spares"])) * case.count
    hourly = income(case, lambda part: middles(part.figures))
    used = float(cost.used_ratio(plant, mid, mid["utilisation"]))
    earned = 0.0 if hourly is None else float(hourly) * used * cost.HOURS_PER_YEAR * chips
    scale = float(unit)
    bought, running, earned = bought / scale, running / scale, earned / scale
    total, rows = -bought, [{"year": 0.0, "paid": bought, "earned": 0.0, "total": -bought}]
    for year in range(1, round(float(mid["years"])) + 1):
        total += earned - running
        rows.append({"year": float(year), "paid": running, "earned": earned, "total": total})
    return tuple(rows)


def _outage(case: Case, values: Values, whole: Num, earned: Num | None, unit: Num, seed: int) -> dict[str, Band]:
    """How often something fails, how many chips are away, and what an hour costs in which nothing runs."""
    machine, chips = case.plant.machine, case.plant.machine.chips * case.count
    found = broken(machine, case.count, mtbf_s=case.mtbf_s, spare_chips=case.spare_chips, crew=case.crew, seed=seed)
    still = {"hour": band(whole * chips)}
    if earned is not None:
        still["lost_income"] = band(earned * values["utilisation"] * values["availability"] * chips / unit)
    return still | {
        "hours_between_failures": band(1.0 / max(found.failures_per_s, 1e-30) / 3600.0),
        "chips_away": band(found.chips_away),
        "mean_chips_away": band(found.chips_away.mean()),
        "bandwidth_left": band(found.bandwidth_ratio),
        "repair_wait_hours": band(found.repair_wait_s / 3600.0),
        "parts_availability": band(1.0 - found.chips_away / chips),
    }


def _tornado(case: Case, currency: str) -> tuple[Swing, ...]:
    """Figures by how much they move the result, the largest first."""
    result: Callable[[Values], Num] = (
        (lambda values: mtoken(case, values, values["utilisation"]))
        if case.serving
        else (lambda values: cost.used_hour(case.plant, values, values["utilisation"]))
    )
    swings = []
    for key, figure in case.figures.items():
        ends = []
        for end in (figure.low, figure.high):
            if key == "error":
                values = middles(case.figures) | {
                    "error": 1.0 + end if end == figure.high else 1.0 / (1.0 + figure.high)
                }
            else:
                one = Figure(key=key, low=end, high=end, dimension=figure.dimension)
                values = middles({**case.figures, key: one})
            ends.append(float(result(values) / (values["rate"] if currency == "USD" else 1.0)))
        if ends[0] != ends[1]:
            swings.append(Swing(key=key, low=ends[0], high=ends[1]))
    return tuple(sorted(swings, key=lambda swing: -abs(swing.high - swing.low)))
