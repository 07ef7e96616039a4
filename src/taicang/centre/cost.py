"""Formulas of a centre: one chip's hour and what fills it. All money in yuan, floats or arrays of draws alike.

A machine is paid back over its years of use with interest, less what it is resold for (an annuity). Its power falls
from that under load to an idle share of it; cooling and distribution are what PUE adds. Utilisation is the share of
available hours that are used; what the others cost falls on those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from taicang.hardware import Machine
from taicang.reliability import RACK_NODES
from taicang.units import Num

Values: TypeAlias = Mapping[str, Num]
HOURS_PER_YEAR = 8760.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """What is paid for: ``machine`` is the unit that ``price`` is of."""

    machine: Machine
    rented: bool
    steps: tuple[float, ...]
    """Tariff of each hour of the day over its mean."""
    day: tuple[float, ...]
    """Load of each hour of the day over its mean."""

    @property
    def racks_per_chip(self) -> float:
        """Where the entry does not say: four nodes a rack."""
        machine = self.machine
        return 1.0 / (machine.chips_per_rack or RACK_NODES * machine.chips_per_node)


def annuity(interest_ratio: Num, years: Num) -> Num:
    """Share of a loan that is paid back a year, interest included."""
    free = np.asarray(interest_ratio) < 1e-9
    grown = np.expm1(years * np.log1p(interest_ratio))
    return np.where(free, 1.0 / years, interest_ratio * (1.0 + 1.0 / np.where(free, 1.0, grown)))


def hour(plant: Plant, values: Values, utilisation: Num) -> dict[str, Num]:
    """What an hour of an installed chip costs, by part."""
    if plant.rented:
        return {"rent": values["rent"]}
    machine, years, interest = plant.machine, values["years"], values["interest"]
    price = values["price"] / machine.chips
    bought = price * (1.0 + values["network"]) * (1.0 + values["spares"])
    left = price * values["residual"] / (1.0 + interest) ** years
    racks = plant.racks_per_chip
    return {
        "capital": (bought - left) * annuity(interest, years) / HOURS_PER_YEAR,
        "electricity": electricity(plant, values, utilisation),
        "support": price * values["support"] / HOURS_PER_YEAR,
        "staff": values["staff"] * racks / HOURS_PER_YEAR,
        "maintenance": values["maintenance"] * racks / HOURS_PER_YEAR,
    }


def busy(plant: Plant, utilisation: Num) -> list[Num]:
    """Utilisation in each hour of the day: the load's shape, of which what is beyond all chips is lost to them."""
    hours = {each: np.minimum(utilisation * each, 1.0) for each in set(plant.day)}
    return [hours[each] for each in plant.day]


def power_kw(plant: Plant, values: Values, utilisation: Num) -> Num:
    """Power of a chip's share of the facility when it is used for a share of the time."""
    power = (plant.machine.power_w or 0.0) / plant.machine.chips / 1e3
    used = values["availability"] * utilisation
    return power * (values["idle"] + (1.0 - values["idle"]) * used) * values["pue"]


def electricity(plant: Plant, values: Values, utilisation: Num) -> Num:
    """Yuan per hour of a chip, in the mean of a day whose tariff and load both change by the hour."""
    total: Num = 0.0
    alike = zip(plant.day, busy(plant, utilisation), strict=True)
    dear = {each: power_kw(plant, values, used) * values["tariff"] for each, used in dict(alike).items()}
    for step, each in zip(plant.steps, plant.day, strict=True):
        total = total + dear[each] * step
    return total / 24.0


def used_hour(plant: Plant, values: Values, utilisation: Num) -> Num:
    """What an hour costs in which a chip works."""
    total: Num = sum(hour(plant, values, utilisation).values())
    return total / used_ratio(plant, values, utilisation)


def used_ratio(plant: Plant, values: Values, utilisation: Num) -> Num:
    """Share of installed hours in which a chip works."""
    mean: Num = sum(busy(plant, utilisation)) / 24.0
    return mean * values["availability"]


def even_utilisation(plant: Plant, values: Values, earned: Num) -> Num:
    """Utilisation from which ``earned`` yuan per used hour pay for everything (above one: never)."""
    idle: Num = sum(hour(plant, values, 0.0).values())
    full: Num = sum(hour(plant, values, 1.0).values())
    margin = earned * values["availability"] - (full - idle)
    return np.where(margin > 0, idle / np.where(margin > 0, margin, 1.0), np.inf)
