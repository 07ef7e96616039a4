"""Machines of a centre side by side, for the same load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taicang.centre import cost
from taicang.centre.draw import SAMPLES, Band, Case, band, draws, middles, mtoken
from taicang.centre.report import check
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
