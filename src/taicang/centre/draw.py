"""What the chips of a centre do, and what its figures come to when each is drawn from its range: results as bands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import log
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from taicang.catalog import trust
from taicang.centre import cost
from taicang.centre.cost import Plant, Values
from taicang.centre.figures import MONEY, Figure
from taicang.hardware import Machine
from taicang.models.count import kv_cache_bytes
from taicang.models.types import Model
from taicang.units import Num

if TYPE_CHECKING:
    from taicang.predict.prediction import Served
    from taicang.predict.train import TrainPrediction


NINE_IN_TEN = 1.645
"""Standard deviations on either side that hold nine draws of ten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Chip-seconds of one token of each kind, and what a request holds. ``hit_ratio`` of input is found in a cache."""

    model: str
    mode: str
    tpot_s: float | None
    ttft_s: float
    input_tokens: float
    output_tokens: float
    hit_ratio: float
    input_s: float
    output_s: float
    cached_s: float | None
    """None where the machine has no pool of host memory to read from."""
    error_ratio: float
    """Nine in ten predictions of this kind are off by less."""

    @property
    def request_s(self) -> float:
        """Chip-seconds of a request."""
        fresh = self.input_tokens * (1.0 - self.hit_ratio) * self.input_s
        cached = self.input_tokens * self.hit_ratio * (self.cached_s or 0.0)
        return fresh + cached + self.output_tokens * self.output_s

    @property
    def output_tokens_per_chip_hour(self) -> float:
        """Of a chip that is used."""
        return 3600.0 / self.request_s * self.output_tokens

    def earned(self, prices: Mapping[str, Num]) -> Num:
        """What a used chip-hour earns at prices per million tokens ("input", "cached", "output")."""
        fresh = self.input_tokens * (1.0 - self.hit_ratio) * prices["input"]
        cached = self.input_tokens * self.hit_ratio * prices["cached"]
        return (fresh + cached + self.output_tokens * prices["output"]) / 1e6 * 3600.0 / self.request_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One run."""

    model: str
    tokens: float
    chips: int
    seconds: float
    chip_s: float
    mfu_ratio: float
    error_ratio: float


def serving(net: Model | None, machine: Machine, found: Served, hit_ratio: float) -> Serving:
    """Split the chips' time between input and output by what each phase takes on its own instances.

    Whole instances and idle chips make a machine slower than its phases alone; that falls on both alike. What a token
    takes that is read from a cache is told where the model is given.
    """
    prefill, decode = found.prefill.tokens_per_s_per_chip, found.decode.tokens_per_s_per_chip
    alone = found.input_tokens / prefill + found.output_tokens / decode
    whole = found.output_tokens / found.output_tokens_per_s_per_chip / alone
    cached = None
    if net is not None and "host" in machine.planes:
        bandwidth = machine.plane("host").levels[-1].bandwidth_bytes_per_s * machine.chip.dies
        length = float(found.input_tokens)
        cached = float(kv_cache_bytes(net, length, found.decode.plan.quant.kv)) / length / bandwidth
    return Serving(
        model=found.model,
        mode=found.mode,
        tpot_s=found.tpot_s,
        ttft_s=found.loaded_ttft_s,
        input_tokens=found.input_tokens,
        output_tokens=found.output_tokens,
        hit_ratio=hit_ratio,
        input_s=whole / prefill,
        output_s=whole / decode,
        cached_s=cached,
        error_ratio=found.bands["throughput"].wide_ratio,
    )


def training(found: TrainPrediction) -> Training | None:
    """The run of a prediction that was given tokens."""
    if found.run is None:
        return None
    return Training(
        model=found.model,
        tokens=found.run.tokens,
        chips=found.chips,
        seconds=found.run.seconds,
        chip_s=found.run.seconds * found.chips,
        mfu_ratio=found.mfu_ratio,
        error_ratio=found.bands["throughput"].wide_ratio,
    )


def deviation(error_ratio: float) -> float:
    """Standard deviation of the logarithm of what is off by less than ``error_ratio`` nine times in ten."""
    return log(1.0 + error_ratio) / NINE_IN_TEN


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
    bands: Mapping[str, trust.Band] = field(default_factory=dict)
    """Of what is predicted of that work."""
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
    ends = np.isfinite(below) & np.isfinite(above)  # of draws in which nothing ever pays the nearer one is taken
    apart = np.subtract(above, below, out=np.zeros(3), where=ends)
    found = np.where(part < 0.5, below + apart * part, above - apart * (1.0 - part))
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
