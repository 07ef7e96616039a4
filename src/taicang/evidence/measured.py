"""Measured rows of one kernel as one operator of arrays, and their outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from taicang.errors import TaicangError
from taicang.evidence.score import Outcome
from taicang.evidence.systems import chip_of
from taicang.evidence.tables import Array
from taicang.hardware import Chip
from taicang.units import Num

Op = TypeVar("Op")
T = TypeVar("T")
UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Generic[Op]):
    """Rows of one suite, system and kernel; ``ids``, all arrays and those in ``op`` have one element per row."""

    suite: str
    system: str
    kernel: str
    """What else tells these rows from others of the suite: formats, operation, library."""
    op: Op
    ids: tuple[str, ...]
    measured_s: Array
    held: NDArray[np.bool_]
    """Kept from every fit."""
    by_engine: Mapping[str, Array] = field(default_factory=dict)
    """Seconds in each engine that has a column of its own, NaN where a row was not measured in it."""
    given: Chip | None = None
    """In place of the system's chip."""

    @property
    def chip(self) -> Chip:
        """The chip of the system; ``UnknownName`` where the catalogue lacks it."""
        return self.given or chip_of(self.system)

    def where(self, keep: NDArray[np.bool_]) -> Measured[Op]:
        """The rows that ``keep`` marks."""
        return replace(
            self,
            op=pick(self.op, keep),
            ids=tuple(name for name, kept in zip(self.ids, keep, strict=True) if kept),
            measured_s=self.measured_s[keep],
            held=self.held[keep],
            by_engine={engine: its_s[keep] for engine, its_s in self.by_engine.items()},
        )

    def of_engine(self, engine: str) -> Measured[Op]:
        """The rows that were measured in ``engine``, with its seconds."""
        its_s = self.by_engine[engine]
        return replace(self, measured_s=its_s).where(np.isfinite(its_s))

    def fitted(self) -> Measured[Op]:
        """The rows that a fit may see."""
        return self.where(~self.held)

    def outcomes(self, price: Callable[[], Num], *, unit: str = "s") -> list[Outcome]:
        """One outcome per row; ``price`` gives the seconds of all rows or refuses them."""
        seconds, why = attempt(lambda: np.asarray(price()))
        predicted = [None] * len(self.ids) if seconds is None else (seconds * UNITS[unit]).tolist()
        return [
            Outcome(
                id=name,
                suite=self.suite,
                group=f"{self.system} {self.kernel}",
                measured=measured,
                predicted=said,
                unit=unit,
                held_out=held,
                refused=why,
            )
            for name, measured, said, held in zip(
                self.ids, (self.measured_s * UNITS[unit]).tolist(), predicted, self.held.tolist(), strict=True
            )
        ]


def pick(op: Op, keep: NDArray[np.bool_]) -> Op:
    """The elements of a dataclass of arrays that ``keep`` marks."""
    values = {f.name: getattr(op, f.name) for f in fields(op)}  # type: ignore[arg-type]  # operators are dataclasses
    kept: dict[str, Any] = {name: value[keep] for name, value in values.items() if isinstance(value, np.ndarray)}
    return replace(op, **kept)  # type: ignore[type-var]


def attempt(predict: Callable[[], T]) -> tuple[T | None, str]:
    """What ``predict`` gives, or why it refuses."""
    try:
        return predict(), ""
    except TaicangError as why:
        return None, str(why)


def count(parts: Iterable[Measured[Any]]) -> int:
    """Rows of all parts."""
    return sum(len(part.ids) for part in parts)


def log_errors(parts: Sequence[Measured[Op]], price: Callable[[Measured[Op]], Num]) -> Array:
    """Logarithm of predicted over measured seconds, all rows of all parts."""
    return np.concatenate([np.log(price(part)) - np.log(part.measured_s) for part in parts])
