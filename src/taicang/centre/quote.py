"""What tokens and runs cost on a machine whose price or rent is published: ``taicang centre`` with its own figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

from taicang.centre import cost
from taicang.centre.draw import SAMPLES, Band, band, draws, run_chip_hours, serving, token_costs, training
from taicang.centre.figures import Figure, kept, of_case
from taicang.hardware import Machine
from taicang.units import Num

if TYPE_CHECKING:
    from taicang.predict.prediction import Served
    from taicang.predict.train import TrainPrediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """Costs in ``currency``, each as its 5th, 50th and 95th percentile."""

    currency: str
    rented: bool
    used_chip_hour: Band
    utilisation: tuple[float, float]
    """Share of available hours that are used: what the others cost falls on those."""
    output_mtoken: Band | None = None
    """A million output tokens with everything else that their requests take."""
    tokens: Mapping[str, Band] | None = None
    """A million input and output tokens, by the chips' time that each takes."""
    run: Band | None = None
    """One training run."""


NOTHING: Mapping[str, Figure] = MappingProxyType({})


class Costs:
    """The costs of one machine; ``why`` says why there are none."""

    def __init__(
        self, spec: str, machine: Machine, sets: Sequence[str] = (), *, stated: Mapping[str, Figure] = NOTHING
    ) -> None:
        figures, place, rented, _ = of_case(spec, machine.chip.vendor, stated=stated, sets=sets)
        self.why = ""
        if "price" not in figures and not rented:
            self.why = f"no price and no rent of {machine.name} is published"
        elif not rented and machine.power_w is None:
            rented = "rent" in figures
            self.why = "" if rented else f"{machine.name} has a price, but no power is published"
        self.figures = kept(figures, rented=rented)
        money = figures.get("rent" if rented else "price")
        self.currency = "USD" if money is not None and money.dimension.startswith("usd") else "CNY"
        self._spec, self._plant = spec, cost.Plant(machine=machine, rented=rented, steps=place.steps, day=(1.0,) * 24)

    @cached_property
    def _bare(self) -> Num:
        """What an hour costs in which a chip works, in ``currency``, drawn."""
        values = draws(self.figures, self._spec, SAMPLES, 0)
        unit: Num = values["rate"] if self.currency == "USD" else 1.0
        return cost.used_hour(self._plant, values, values["utilisation"]) / unit

    def _off(self, error_ratio: float) -> Num:
        """What a prediction's error makes of its figure, drawn."""
        error = Figure(key="error", low=0.0, high=error_ratio)
        return draws({"error": error}, self._spec, SAMPLES, 0)["error"]

    def hour(self) -> Quote | None:
        """What a chip's hour costs; None where nothing is known."""
        if self.why:
            return None
        use = self.figures["utilisation"]
        return Quote(
            currency=self.currency, rented=self._plant.rented, used_chip_hour=band(self._bare),
            utilisation=(use.low, use.high),
        )  # fmt: skip

    def output(self, tokens_per_s_per_chip: float, error_ratio: float = 0.0) -> Quote | None:
        """A million output tokens of a plan that gives so many a second and chip."""
        found = self.hour()
        if found is None:
            return None
        cost_of = self._bare / self._off(error_ratio) / tokens_per_s_per_chip / 3600.0 * 1e6
        return replace(found, output_mtoken=band(cost_of))

    def tokens(self, found: Served) -> Quote | None:
        """Tokens of each kind, served so."""
        work = serving(None, self._plant.machine, found, 0.0)
        whole = self.output(work.output_tokens_per_chip_hour / 3600.0, work.error_ratio)
        if whole is None:
            return None
        return replace(whole, tokens=token_costs(work, self._bare / self._off(work.error_ratio)))

    def run(self, found: TrainPrediction) -> Quote | None:
        """A training run; None where the prediction was given no tokens."""
        hour, work = self.hour(), training(found)
        if hour is None or work is None:
            return None
        return replace(hour, run=band(self._bare * run_chip_hours(work, self._spec, SAMPLES, 0)))
