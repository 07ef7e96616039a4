"""Axes of a study: listed values, or a range that is sampled between its ends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from taicang.errors import InvalidInput, UnknownName
from taicang.search import study_values
from taicang.search.study_values import Key
from taicang.units import Count, shorten, split

RANGE = ("from", "to", "steps", "scale")
SCALES = ("linear", "log")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Values of one key."""

    key: str
    values: tuple[Any, ...] = ()
    low: Count = 0.0
    """First end of the range, in ``unit``."""
    high: Count = 0.0
    unit: str = ""
    log: bool = False
    whole: bool = False
    """Rounded to whole numbers."""
    steps: int = 0

    def at(self, share: float) -> Any:
        """The value at ``share`` (0 to 1) of the axis."""
        if self.values:
            return self.values[min(int(share * len(self.values)), len(self.values) - 1)]
        if self.log:
            value = float(np.exp(np.log(self.low) + share * (np.log(self.high) - np.log(self.low))))
        else:
            value = float(self.low + share * (self.high - self.low))
        if self.whole:
            return round(value)
        return f"{value:.9g} {self.unit}" if self.unit else value

    @property
    def many(self) -> int:
        """Values of the axis in a grid: those listed, or ``steps`` of the range."""
        return len(self.values) or self.steps

    def grid(self) -> list[Any]:
        """All listed values, or ``steps`` of the range with both ends."""
        many = self.many
        return list(self.values) or [self.at(i / (many - 1)) for i in range(many)]


def axis(keys: Mapping[str, Key], key: str, value: Any, where: str) -> Axis:
    """The axis of ``key`` as a study writes it. Raises ``InvalidInput`` at ``where``."""
    if isinstance(value, list) and value:
        return Axis(key=key, values=tuple(study_values.read(keys, key, each, where) for each in value))
    if not isinstance(value, dict) or not {"from", "to"} <= value.keys():
        raise InvalidInput("expected a list of values, or a range {from, to, steps, scale}", where=where)
    for name in value:
        if name not in RANGE:
            raise UnknownName("key", str(name), RANGE, where=where)
    known = keys.get(key)
    if known and not known.ranges:
        raise InvalidInput("has no range; list its values", where=where)
    (low, unit), (high, other) = (_quantity(value[end], where) for end in ("from", "to"))
    if unit != other:
        raise InvalidInput(f"from and to need one unit, got {unit or 'none'!r} and {other or 'none'!r}", where=where)
    if (scale := value.get("scale", "linear")) not in SCALES:
        raise UnknownName("scale", str(scale), SCALES, where=where)
    if scale == "log" and min(low, high) <= 0:
        raise InvalidInput("a logarithmic range needs positive ends", where=where)
    steps = value.get("steps", 0)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise InvalidInput(f"needs a number of steps, got {steps!r}", where=where)
    for end in ("from", "to"):
        study_values.read(keys, key, value[end], where)
    whole = isinstance(value["from"], int) and isinstance(value["to"], int)
    if known and known.whole and not whole:
        raise InvalidInput(f"needs whole ends, got {value['from']!r} and {value['to']!r}", where=where)
    return Axis(key=key, low=low, high=high, unit=unit, log=scale == "log", whole=whole, steps=steps)


def _quantity(text: Any, where: str) -> tuple[float, str]:
    pair = split(str(text), where=where) if isinstance(text, (int, float, str)) and not isinstance(text, bool) else None
    if pair is None or not math.isfinite(float(pair[0])):
        raise InvalidInput(f"cannot read {shorten(text)} as a number", where=where)
    return float(pair[0]), pair[1]
