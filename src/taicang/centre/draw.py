"""What a centre's figures come to when each is drawn from its range: its work, and results as bands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from taicang.centre import cost
from taicang.centre.cost import Plant, Values
from taicang.centre.figures import MONEY, Figure
from taicang.centre.work import Serving, Training, deviation
from taicang.units import Num

SAMPLES = 20_000
OWN = ("price", "rent", "error")
"""Figures that differ between machines: each draws its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """The 5th, 50th and 95th percentile."""

    low: float
    mid: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A plant with its figures and its work."""

    name: str
    plant: Plant
    count: int
    figures: Mapping[str, Figure]
    serving: Serving | None = None
    training: Training | None = None
    prices: Mapping[str, float] = field(default_factory=dict)
    """What an API charges per million tokens, in yuan."""
    mix: tuple[tuple[float, Case], ...] = ()
    """Several kinds of work instead: each with its share of the used hours."""
    mtbf_s: Mapping[str, float] = field(default_factory=dict)
    spare_chips: int = 0
    crew: int = 0
    """Repairs at a time; 0: as many as there are."""


def draws(figures: Mapping[str, Figure], name: str, samples: int, seed: int) -> dict[str, Num]:
    """Each figure drawn evenly from its range, alike for every machine but for those in ``OWN``; money in yuan."""
    made: dict[str, Num] = {}
    for key, figure in figures.items():
        text = f"{key} of {name}" if key in OWN else key
        dice = np.random.default_rng([seed, crc32(text.encode())])
        if key == "error":
            made[key] = np.exp(deviation(figure.high) * dice.standard_normal(samples))
        else:
            made[key] = figure.low + (figure.high - figure.low) * dice.random(samples)
    return _in_yuan(figures, made)


def middles(figures: Mapping[str, Figure]) -> dict[str, Num]:
    """Every figure in its middle."""
    values: dict[str, Num] = {key: 1.0 if key == "error" else figure.middle for key, figure in figures.items()}
    return _in_yuan(figures, values)


def _in_yuan(figures: Mapping[str, Figure], values: dict[str, Num]) -> dict[str, Num]:
    for key in MONEY:
        if key in figures and figures[key].dimension.startswith("usd"):
            values[key] = values[key] * values["rate"]
    return values


def band(values: Num) -> Band:
    """Percentiles of draws."""
    drawn = np.ravel(np.asarray(values, dtype=float))
    at = np.array([0.05, 0.5, 0.95]) * (drawn.size - 1)  # as np.quantile, which loads masked arrays
    first = at.astype(int)
    after = np.minimum(first + 1, drawn.size - 1)
    ordered = np.partition(drawn, [*first, *after])
    below, above, part = ordered[first], ordered[after], at - first
    found = np.where(part < 0.5, below + (above - below) * part, above - (above - below) * (1.0 - part))
    return Band(**dict(zip(("low", "mid", "high"), found.tolist(), strict=True)))


def mtoken(case: Case, values: Values, utilisation: Num) -> Num:
    """Yuan per million output tokens, everything over them alone."""
    assert case.serving is not None
    rate = case.serving.output_tokens_per_chip_hour * values["error"]
    return cost.used_hour(case.plant, values, utilisation) / rate * 1e6


def run_chip_hours(work: Training, name: str, samples: int, seed: int) -> NDArray[np.float64]:
    """Chip-hours of a training run of the case ``name``, as far as its prediction may be off."""
    dice = np.random.default_rng([seed, crc32(f"training of {name}".encode())])
    return np.asarray(work.chip_s / 3600.0 / np.exp(deviation(work.error_ratio) * dice.standard_normal(samples)))


def token_costs(work: Serving, used: Num) -> dict[str, Band]:
    """Per million tokens of each kind."""
    seconds = {"input": work.input_s, "cached": work.cached_s, "output": work.output_s}
    return {name: band(used * each / 3600.0 * 1e6) for name, each in seconds.items() if each is not None}
