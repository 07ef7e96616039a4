"""A training run: from a step to days, energy and money, with what failures and checkpoints cost.

Failures strike each component at its own rate (Poisson); a failure loses the work since the last checkpoint, on average
half an interval, and a restart; where no spare stands in for the chips that it takes along, the job goes on with fewer
of them until they are repaired. With a checkpoint of stall c every t seconds and a mean time M between failures, the
share of time that makes progress is

    goodput = 1 / (1 + c / t + (t / 2 + restart) / M),

largest at t = sqrt(2 c M) (Young 1974, Daly 2006), but no shorter than storage takes to write one. Everything is
proportional to the number of tokens, so that two halves of a run cost what the whole does. The band comes from a
simulation of many runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from taicang.errors import InvalidInput
from taicang.hardware import Machine
from taicang.reliability import (
    DAY,
    HOUR,
    SPREAD,
    STORAGE_BYTES_PER_S,
    Component,
    broken_chips,
    components,
    missing_ratio,
    rates_per_s,
    with_mtbf,
)
from taicang.train.step import TrainStep
from taicang.units import Count

Saving: TypeAlias = Literal["synchronous", "asynchronous", "in_memory"]
YEAR = 365.0 * DAY
MOST_MISSING = 0.99
OFTEN_S = 900.0
"""Between checkpoints, below which a run is told (shared storage is seldom planned for more)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a run guards against failures, and what things cost."""

    saving: Saving = "asynchronous"
    """Synchronous: the job waits for storage. Asynchronous: for the copy to host memory, and no checkpoint starts
    before the last one is stored. In memory: copies stay in peers' memory, only the copy limits them."""
    interval_s: float | None = None
    """Between checkpoints; None is the best one."""
    storage_bytes_per_s: float | None = None
    """Of the checkpoint storage; None is ``STORAGE_BYTES_PER_S`` of each chip."""
    host_bytes_per_s: float = 20e9
    """Copy from device to host memory (assumed)."""
    barrier_s: float = 1.0
    """What any checkpoint stops the job for beside its bytes: ranks wait for each other, plan and open files
    (assumed)."""
    restart_s: float = 600.0
    """Detecting, rescheduling, loading, warming up (assumed)."""
    spare_chips: int = 0
    """Idle chips that replace failed ones at once, beside those of the plan: they are paid for and (at most) draw power
    as these do."""
    mtbf_s: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Mean time between failures of one component, by class, in place of ``reliability.components``."""
    kwh_usd: float = 0.08
    """Price of a kilowatt-hour."""
    chip_hour_usd: float = 0.0
    """Rent of one chip for an hour."""
    lifetime_s: float = 4.0 * YEAR
    """Over which the machine's price is written off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A whole run. ``band_s`` is the 5th and 95th percentile of its simulated duration, and holds the expected one
    (rare long losses may put that above)."""

    tokens: float
    steps: Count
    busy_s: float
    """Steps alone."""
    checkpoint_s: float
    """Stalls of all checkpoints."""
    lost_s: float
    """Work done twice and restarts."""
    waiting_s: float
    """Lost to chips under repair that no spare stood in for."""
    seconds: float
    band_s: tuple[float, float]
    goodput_ratio: float
    failures: Mapping[str, float]
    """Expected number by class of component."""
    mean_time_between_failures_s: float
    interval_s: float
    stall_s: float
    """What one checkpoint stops the job for."""
    written_s: float
    """What storage takes to write one; 0 where copies stay in memory."""
    checkpoint_bytes: float
    """Of the whole job."""
    power: Power | None
    energy_j: float | None
    electricity_usd: float | None
    rent_usd: float
    capital_usd: float | None
    """The run's share of the machine's price."""


def parts_of(machine: Machine, policy: Policy) -> dict[str, Component]:
    """What can fail, with the rates that the policy sets."""
    return with_mtbf(components(machine), policy.mtbf_s)


def checkpoint(step: TrainStep, chips: float, policy: Policy) -> tuple[float, float, float]:
    """Bytes of one checkpoint (weights and optimizer, once), seconds that it stops the job, and that storage takes."""
    plan = step.plan
    total = float(step.parameters) * (2.0 + plan.optimizer_bytes * plan.trained_ratio)
    written = (
        0.0 if policy.saving == "in_memory" else total / (policy.storage_bytes_per_s or chips * STORAGE_BYTES_PER_S)
    )
    copied = written if policy.saving == "synchronous" else total / chips / policy.host_bytes_per_s
    return total, policy.barrier_s + copied, written


def train_run(step: TrainStep, machine: Machine, tokens: float, policy: Policy, *, samples: int = 4000) -> Run:
    """The run of ``tokens`` tokens made of ``step``, expected values and a simulated band."""
    chips = -(-step.plan.ranks // machine.chip.dies)
    parts = parts_of(machine, policy)
    steps = max(tokens / step.plan.tokens, 1.0)
    busy = steps * step.seconds
    size, stall, written = checkpoint(step, chips, policy)
    rates = rates_per_s(parts, chips)
    rate = sum(rates.values())
    mean = 1.0 / rate if rate > 0 else float("inf")
    # no checkpoint starts before the last one is stored
    interval = max(policy.interval_s or max(float(np.sqrt(2.0 * stall * mean)), step.seconds), written)
    missing = missing_ratio(parts, chips)
    short = max(missing - policy.spare_chips / chips, 0.0)
    if short > MOST_MISSING:
        raise InvalidInput(f"{short:.1%} of the chips would always be under repair: a longer time between failures")
    checkpoints, lost = busy * (stall / interval), busy * ((interval / 2.0 + policy.restart_s) * rate)
    seconds = (busy + checkpoints + lost) / (1.0 - short)
    paid = chips + policy.spare_chips
    power = job_power(machine, paid)
    energy = None if power is None else power.total_w * seconds
    price = None if machine.price_usd is None else machine.price_usd / machine.chips * paid
    losses = _Losses(
        busy_s=busy, checkpoint_s=checkpoints, seconds=seconds, interval_s=interval, restart_s=policy.restart_s,
        scale_ratio=short * chips / broken if (broken := broken_chips(parts, chips)) > 0 else 0.0,
    )  # fmt: skip
    return Run(
        tokens=tokens,
        steps=steps,
        busy_s=busy,
        checkpoint_s=checkpoints,
        lost_s=lost,
        waiting_s=seconds * short,
        seconds=seconds,
        band_s=_band(losses, parts, chips, policy, samples),
        goodput_ratio=busy / seconds,
        failures={name: each * seconds for name, each in rates.items()},
        mean_time_between_failures_s=mean,
        interval_s=interval,
        stall_s=stall,
        written_s=written,
        checkpoint_bytes=size,
        power=power,
        energy_j=energy,
        electricity_usd=None if energy is None else energy / 3.6e6 * policy.kwh_usd,
        rent_usd=paid * seconds / HOUR * policy.chip_hour_usd,
        capital_usd=None if price is None else price * (seconds / policy.lifetime_s),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Losses:
    """What a simulated run is made of. ``scale_ratio``: time lost to chips under repair over what each failure's own
    repair says, since some have spares, and parts that are down already do not fail again."""

    busy_s: float
    checkpoint_s: float
    seconds: float
    interval_s: float
    restart_s: float
    scale_ratio: float


def _band(
    run: _Losses, parts: Mapping[str, Component], chips: float, policy: Policy, samples: int
) -> tuple[float, float]:
    """Simulated runs: Poisson failures of every class, each losing a uniform share of an interval, an exponential
    restart, and its chips for an exponential repair where no spare stands in.

    Clusters differ in how often they fail: each simulated run has a factor of its own, with mean one.
    """
    rng = np.random.default_rng(0)
    taken = np.full(samples, run.busy_s + run.checkpoint_s)
    factor = np.exp(SPREAD * rng.standard_normal(samples) - SPREAD**2 / 2.0)
    for name, rate in rates_per_s(parts, chips).items():
        part = parts[name]
        often = rate * (1.0 if name in policy.mtbf_s else factor)
        count = rng.poisson(run.busy_s * often, samples)
        taken = taken + run.interval_s * _uniforms(rng, count) + _exponentials(rng, count, run.restart_s)
        repairs = _exponentials(rng, rng.poisson(run.seconds * often, samples), part.repair_s)
        taken = taken + run.scale_ratio * part.blast_chips / chips * repairs
    low, high = np.quantile(taken, [0.05, 0.95])
    return min(float(low), run.seconds), max(float(high), run.seconds)


def _exponentials(rng: np.random.Generator, count: NDArray[np.int64], mean: float) -> NDArray[np.float64]:
    """Sum of ``count`` exponential times: a gamma variable."""
    drawn = rng.gamma(np.maximum(count, 1), max(mean, 1e-30))
    return np.asarray(np.where(count > 0, drawn, 0.0))


def _uniforms(rng: np.random.Generator, count: NDArray[np.int64], exact: int = 24) -> NDArray[np.float64]:
    """Sum of ``count`` uniform numbers: the first few one by one, the rest as the normal variable that it becomes."""
    few = (rng.random((count.size, exact)) * (np.arange(exact) < count[:, None])).sum(axis=1)
    many = np.maximum(count - exact, 0)
    return np.asarray(few + np.maximum(many / 2.0 + np.sqrt(many / 12.0) * rng.standard_normal(count.size), 0.0))


PORT_W_PER_BYTES_PER_S = 1720.0 / 64.0 / 50e9
"""Of a 400 Gb/s port (data sheet of a 64-port InfiniBand switch, active cables)."""
PORTS_PER_CHIP = 3.0
"""Down from the leaf switch, up from it, down from the spine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Watts of a whole job."""

    chips_w: float
    hosts_w: float
    """Processors, fans, network cards and the fabric inside a unit."""
    network_w: float
    """Switches and modules between units."""
    cooling_w: float

    @property
    def total_w(self) -> float:
        """Of the facility."""
        return self.chips_w + self.hosts_w + self.network_w + self.cooling_w


def job_power(machine: Machine, chips: float) -> Power | None:
    """Power of a job on ``chips`` of the machine's chips; None without a public figure of the machine or its chips.

    Chips under training load run at their power limit (that is what lowers their sustained clock); hosts, fans and the
    switches inside a unit are the rest of the unit's published power. Switches and optical modules between units are
    not in that figure: three ports per chip of a two-tier fat tree at the power of a 64-port switch with active cables.
    Cooling and distribution are what PUE adds.
    """
    if machine.power_w is None or machine.chip.tdp_w is None:
        return None
    unit = machine.power_w / machine.chips * chips
    drawn = min(machine.chip.tdp_w * chips, unit)
    levels = machine.plane("scale_up").levels
    outside = len(levels) > 1 and levels[-1].name == "scale_out"
    port_w = levels[-1].bandwidth_bytes_per_s * machine.chip.dies * PORT_W_PER_BYTES_PER_S
    network = chips * PORTS_PER_CHIP * port_w if outside else 0.0
    return Power(
        chips_w=drawn,
        hosts_w=unit - drawn,
        network_w=network,
        cooling_w=(unit + network) * (machine.pue_ratio - 1.0),
    )
