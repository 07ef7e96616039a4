"""A training run: from a step to days, energy and money, with what failures and checkpoints cost.

Failures strike each component at its own rate (Poisson); a failure loses the work since the last checkpoint, on average
half an interval, and a restart, longer where no spare is at hand. With a checkpoint of stall c every t seconds and a
mean time M between failures, the share of time that makes progress is

    goodput = 1 / (1 + c / t + (t / 2 + restart) / M),

largest at t = sqrt(2 c M) (Young 1974, Daly 2006). Everything is proportional to the number of tokens, so that two
halves of a run cost what the whole does. The band comes from a simulation of many runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np

from taicang.hardware import Machine
from taicang.train.step import TrainStep
from taicang.units import Count

Saving: TypeAlias = Literal["synchronous", "asynchronous", "in_memory"]
HOUR = 3600.0
DAY = 24.0 * HOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A part that fails: how many chips share it, how often it fails, how many chips stop and for how long."""

    chips_each: Count
    """Chips per component: 1 a chip, 8 a host, 1/2 for two optical modules per chip."""
    failures_per_s: float
    """Of one component."""
    blast_chips: Count
    """Chips that leave the job with it (the node, the rack, all behind a switch)."""
    repair_s: float


def _per_chip(count: float, blast_chips: float, repair_s: float) -> Component:
    """``count`` of the 419 unexpected interruptions in 54 days of 16,384 H100 (arXiv 2407.21783, table 5)."""
    rate = count / (54.0 * DAY * 16384.0)
    return Component(chips_each=1.0, failures_per_s=rate, blast_chips=blast_chips, repair_s=repair_s)


COMPONENTS: Mapping[str, Component] = MappingProxyType(
    {
        "chip": _per_chip(148.0, 8.0, DAY),
        "device memory": _per_chip(72.0, 8.0, DAY),
        "software": _per_chip(54.0, 0.0, 0.0),
        "network switch or cable": _per_chip(35.0, 8.0, 4.0 * HOUR),
        "host": _per_chip(63.0, 8.0, DAY),
        "everything else": _per_chip(47.0, 8.0, 4.0 * HOUR),
    }
)
"""Rates of Llama 3's run; repair times are assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a run guards against failures, and what things cost."""

    saving: Saving = "asynchronous"
    interval_s: float | None = None
    """Between checkpoints; None is the best one."""
    storage_bytes_per_s: float = 0.25e9
    """One chip's share of the checkpoint storage (assumed: 2 GB/s per node of 8)."""
    host_bytes_per_s: float = 20e9
    """Copy from device to host memory (assumed)."""
    restart_s: float = 600.0
    """Detecting, rescheduling, loading, warming up (assumed)."""
    spare_chips: int = 0
    """Idle chips that replace failed ones at once."""
    components: Mapping[str, Component] = field(default_factory=lambda: COMPONENTS)
    kwh_usd: float = 0.08
    """Price of a kilowatt-hour."""
    chip_hour_usd: float = 0.0
    """Rent of one chip for an hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A whole run. ``band_s`` is the 5th and 95th percentile of its simulated duration."""

    tokens: float
    steps: Count
    busy_s: float
    """Steps alone."""
    seconds: float
    band_s: tuple[float, float]
    goodput_ratio: float
    failures: Count
    mean_time_between_failures_s: float
    interval_s: float
    stall_s: float
    """What one checkpoint stops the job for."""
    checkpoint_bytes: float
    """Of the whole job."""
    waiting_s: float
    """For repairs that no spare stood in for."""
    energy_j: float | None
    power_w: float | None
    """Of the facility: chips, hosts, network, cooling."""
    electricity_usd: float | None
    rent_usd: float


def failure_rate(policy: Policy, chips: float) -> float:
    """Failures per second that stop a job on ``chips`` chips."""
    total = 0.0
    for part in policy.components.values():
        total += float(chips / part.chips_each * part.failures_per_s)
    return total


def broken_chips(policy: Policy, chips: float) -> float:
    """Mean number of chips under repair (Little's law: rate x repair time x blast radius)."""
    total = 0.0
    for part in policy.components.values():
        total += float(chips / part.chips_each * part.failures_per_s * part.repair_s * part.blast_chips)
    return total


def checkpoint(step: TrainStep, chips: float, policy: Policy) -> tuple[float, float]:
    """Bytes of one checkpoint (weights and optimizer, once) and seconds that it stops the job."""
    plan = step.plan
    copies = 1 if plan.zero >= 1 else plan.dp * plan.cp
    weights = float(step.memory.weights_bytes) / (1 if plan.zero >= 3 else plan.dp * plan.cp)
    total = (weights + float(step.memory.optimizer_bytes) / copies) * plan.ranks
    written = total / chips / policy.storage_bytes_per_s
    copied = total / chips / policy.host_bytes_per_s
    return total, written if policy.saving == "synchronous" else copied


def train_run(step: TrainStep, machine: Machine, tokens: float, policy: Policy, *, samples: int = 4000) -> Run:
    """The run of ``tokens`` tokens made of ``step``, expected values and a simulated band."""
    chips = -(-step.plan.ranks // machine.chip.dies)
    steps = tokens / step.plan.tokens
    busy = steps * step.seconds
    size, stall = checkpoint(step, chips, policy)
    rate = failure_rate(policy, chips)
    mean = 1.0 / rate if rate > 0 else float("inf")
    best = float(np.sqrt(2.0 * stall * mean))
    written = size / chips / policy.storage_bytes_per_s
    # checkpoints to storage cannot come faster than they are written; those in memory can
    floor = step.seconds if policy.saving == "in_memory" else max(written, step.seconds)
    interval = policy.interval_s or max(best, floor)
    short = max(broken_chips(policy, chips) - policy.spare_chips, 0.0) / chips
    lost = interval / 2.0 + policy.restart_s
    goodput = 1.0 / (1.0 + stall / interval + lost * rate) * (1.0 - short)
    seconds = busy / goodput
    power = None if machine.power_w is None else machine.power_w / machine.chips * chips * machine.pue_ratio
    energy = None if power is None else power * seconds
    return Run(
        tokens=tokens,
        steps=steps,
        busy_s=busy,
        seconds=seconds,
        band_s=_band(busy * (1.0 + stall / interval) / (1.0 - short), rate, interval, policy.restart_s, samples),
        goodput_ratio=goodput,
        failures=rate * seconds,
        mean_time_between_failures_s=mean,
        interval_s=interval,
        stall_s=stall,
        checkpoint_bytes=size,
        waiting_s=seconds * short,
        energy_j=energy,
        power_w=power,
        electricity_usd=None if energy is None else energy / 3.6e6 * policy.kwh_usd,
        rent_usd=chips * seconds / HOUR * policy.chip_hour_usd,
    )


def _band(work_s: float, rate: float, interval_s: float, restart_s: float, samples: int) -> tuple[float, float]:
    """Simulated runs: Poisson failures, each losing a uniform share of an interval and an exponential restart."""
    rng = np.random.default_rng(0)
    count = rng.poisson(work_s * rate, samples)
    most = int(count.max(initial=0))
    taken = np.full(samples, work_s)
    if most:
        happened = np.arange(min(most, 2000)) < count[:, None]
        losses = rng.uniform(0.0, interval_s, happened.shape) + rng.exponential(restart_s, happened.shape)
        scale = np.maximum(count / np.minimum(np.maximum(count, 1), 2000), 1.0)
        taken = taken + (losses * happened).sum(axis=1) * scale
    low, high = np.quantile(taken, [0.05, 0.95])
    return float(low), float(high)
