"""Machines within a budget of chips, power or money."""

from __future__ import annotations

import math
import re
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


def read(text: str) -> Budget:
    """The budget of "384 chips", "500 kW", "10 MUSD" or "60 MCNY". Raises ``InvalidInput``."""
    budget = _read(text)
    if not (budget.amount > 0 and math.isfinite(budget.amount)):
        raise InvalidInput(f"a budget must be more than nothing and finite, got {text!r}", where="--budget")
    return budget


def _read(text: str) -> Budget:
    match = _CHIPS.match(text)
    if match:
        return Budget(text=text, basis="chips", amount=float(match[1]))
    dimensions: tuple[tuple[Basis, str], ...] = (("power", "w"), ("usd", "usd"), ("cny", "cny"))
    for basis, dimension in dimensions:
        try:
            return Budget(text=text, basis=basis, amount=parse(text, dimension))
        except InvalidInput:
            continue
    raise InvalidInput(
        f"expected such as '384 chips', '500 kW', '10 MUSD' or '60 MCNY', got {text!r}", where="--budget"
    )


def machines(budget: Budget, machine: Machine) -> int:
    """Whole machines that ``budget`` buys or feeds. Raises ``MissingFigure`` where the figure is not public."""
    match budget.basis:
        case "chips":
            each: float | None = float(machine.chips)
        case "power":
            each = machine.power_w
        case "usd":
            each = machine.price_usd
        case "cny":
            each = machine.price_cny
    if each is None:
        raise MissingFigure(machine.name, {"power": "power.load"}.get(budget.basis, f"price.{budget.basis}"))
    return int(budget.amount / each * (1.0 + 1e-12))
