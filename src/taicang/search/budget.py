"""Machines within a budget of chips, power or money."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeAlias

from taicang.errors import InvalidInput, MissingFigure
from taicang.hardware import Machine
from taicang.units import Count, parse

Basis: TypeAlias = Literal["chips", "power", "usd", "cny"]
_CHIPS = re.compile(r"^\s*(\d+)\s*chips?\s*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """``amount`` of chips, watts, dollars or yuan."""

    text: str
    basis: Basis
    amount: Count


def read_budget(text: str) -> Budget:
    """The budget of "384 chips", "500 kW", "10 MUSD" or "60 MCNY". Raises ``InvalidInput``."""
    basis, amount = _read(text)
    if not (amount > 0 and math.isfinite(amount)):
        raise InvalidInput(f"a budget must be more than nothing and finite, got {text!r}", where="--budget")
    return Budget(text=text, basis=basis, amount=amount)


def _read(text: str) -> tuple[Basis, float]:
    if match := _CHIPS.match(text):
        return "chips", float(match[1])
    dimensions: tuple[tuple[Basis, str], ...] = (("power", "w"), ("usd", "usd"), ("cny", "cny"))
    for basis, dimension in dimensions:
        with suppress(InvalidInput):
            return basis, parse(text, dimension)
    said = f"expected such as '384 chips', '500 kW', '10 MUSD' or '60 MCNY', got {text!r}"
    raise InvalidInput(said, where="--budget")


def machines(budget: Budget, machine: Machine) -> int:
    """Whole machines that ``budget`` buys or feeds. Raises ``MissingFigure`` where the figure is not public."""
    of = {"chips": machine.chips, "power": machine.power_w, "usd": machine.price_usd, "cny": machine.price_cny}
    each = of[budget.basis]
    if each is None:
        raise MissingFigure(machine.name, {"power": "power.load"}.get(budget.basis, f"price.{budget.basis}"))
    return int(budget.amount / each * (1.0 + 1e-12))
