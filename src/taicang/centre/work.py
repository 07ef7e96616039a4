"""What the chips of a centre do: tokens served and runs trained, in chip-hours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING

from taicang.catalog.trust import Band
from taicang.hardware import Machine
from taicang.models.count import kv_cache_bytes
from taicang.models.types import Model
from taicang.predict.prediction import Served
from taicang.units import Num

if TYPE_CHECKING:  # training takes long to import, and most work is serving
    from taicang.predict.train import TrainPrediction

NINE_IN_TEN = 1.645
"""Standard deviations on either side that hold nine draws of ten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """Chip-seconds of one token of each kind, and what a request holds. ``hit_ratio`` of input is found in a cache."""

    model: str
    mode: str
    tpot_s: float
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
        error_ratio=_off(found.bands["throughput"]),
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
        error_ratio=_off(found.bands["throughput"]),
    )


def _off(band: Band) -> float:
    """How far a figure may be off; of an unvalidated one nothing is known, and only the stated ranges count."""
    return 0.0 if band.high_ratio is None else band.high_ratio - 1.0


def deviation(error_ratio: float) -> float:
    """Standard deviation of the logarithm of what is off by less than ``error_ratio`` nine times in ten."""
    return log(1.0 + error_ratio) / NINE_IN_TEN
