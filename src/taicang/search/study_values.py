"""What the keys of a study may hold, listed or as a range that is sampled between its ends.

A value that no point can use is refused before any point runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from taicang import catalog
from taicang.errors import InvalidInput, MissingFigure, NotModelled, TaicangError, UnknownName
from taicang.search.evaluate import Evaluate
from taicang.units import Count, shorten, split

Read: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """How a value of one key is read."""

    read: Read
    """Gives the value that a point holds. Raises ``InvalidInput`` without a place."""
    ranges: bool = True
    """Whether an axis of it may be a range."""
    whole: bool = False
    empty: bool = False
    """Whether null leaves it open."""


def named(find: Callable[[str], Any], *, empty: bool = False) -> Key:
    """A name that ``find`` knows. What is known but lacks a figure or a kernel is a result, not a mistake."""

    def read(value: Any) -> str:
        if isinstance(value, (list, dict)):
            raise InvalidInput(f"expected a name, got {shorten(value)}")
        with suppress(MissingFigure, NotModelled):
            find(str(value))
        return str(value)

    return Key(read=read, ranges=False, empty=empty)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asks:
    """What the points of a study ask: their keys, the figures of their rows, and who answers."""

    keys: Mapping[str, Key]
    figures: Sequence[str]
    """The last is what a search through the points looks for unless it is told."""
    evaluate: Evaluate
    needs: Sequence[str]
    """Keys that no point can do without; the last names the machine."""


def read(keys: Mapping[str, Key], key: str, value: Any, where: str) -> Any:
    """``value`` as points hold it. Raises ``InvalidInput`` that begins with ``where``."""
    if key not in keys:
        return value  # catalogue fields are tried on the study's machines
    if value is None and keys[key].empty:
        return None
    try:
        return keys[key].read(value)
    except InvalidInput as error:
        raise _placed(error, where) from None


def fields(keys: Mapping[str, Iterable[Any]], machines: Sequence[str], where: Callable[[str], str]) -> None:
    """Try each value of each catalogue field in ``keys``: one that every machine refuses is a mistake.

    ``where`` gives the place of a key. Raises ``InvalidInput``.
    """
    for key, values in keys.items():
        for value in values:
            refused = None
            for name in machines:
                refused = _refused(name, f"{key}={value}")
                if refused is None:
                    break
            if refused is not None:
                raise _placed(refused, where(key))


def _refused(machine: str, text: str) -> InvalidInput | None:
    try:
        catalog.machine(machine, [text])
    except InvalidInput as error:
        return error
    except TaicangError:
        pass
    return None


def _placed(error: InvalidInput, where: str) -> InvalidInput:
    """``error`` at the place in the study instead of the option that a command would have it from."""
    return InvalidInput(str(error).removeprefix(f"{error.where}: "), where=where)


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
        return Axis(key=key, values=tuple(read(keys, key, each, where) for each in value))
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
        read(keys, key, value[end], where)
    whole = isinstance(value["from"], int) and isinstance(value["to"], int)
    if known and known.whole and not whole:
        raise InvalidInput(f"needs whole ends, got {value['from']!r} and {value['to']!r}", where=where)
    return Axis(key=key, low=low, high=high, unit=unit, log=scale == "log", whole=whole, steps=steps)


def _quantity(text: Any, where: str) -> tuple[float, str]:
    pair = split(str(text), where=where) if isinstance(text, (int, float, str)) and not isinstance(text, bool) else None
    if pair is None or not math.isfinite(float(pair[0])):
        raise InvalidInput(f"cannot read {shorten(text)} as a number", where=where)
    return float(pair[0]), pair[1]
