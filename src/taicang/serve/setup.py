"""One serving instance: what it runs, how, on what, and what prices it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from taicang.cost.cost import Cost
from taicang.errors import InvalidPlan
from taicang.hardware import Machine
from taicang.lower import lower
from taicang.lower.program import Program, Stream, some, where_some
from taicang.models.types import Model
from taicang.ops import Exchange, GroupedGemm, Operator
from taicang.plans import Batch, ServePlan
from taicang.stacks import Stack
from taicang.timeline import Slice, Timeline, hidden_network, sequential, two_streams
from taicang.units import Count, Num


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """``price(op, cube_ratio, vector_ratio)`` is the cost model: which one is passed decides the fidelity."""

    model: Model
    plan: ServePlan
    machine: Machine
    stack: Stack
    price: Callable[[Operator, float, float], Cost]
    skew: Count = 0.0
    """Exponent of the expert popularity's power law."""

    def __post_init__(self) -> None:
        # arrays are the search's own: of their combinations it reads those that are layouts of the machine
        if not isinstance(self.plan.ranks, np.ndarray) and self.plan.ranks > self.machine.ranks:
            raise InvalidPlan(
                f"the plan needs {self.plan.ranks} ranks (tp {self.plan.tp} x dp {self.plan.dp} x pp {self.plan.pp}), "
                f"{self.machine.name} has {self.machine.ranks}: {self.plan.ranks - self.machine.ranks} too many"
            )


def step(setup: Setup, batch: Batch) -> Timeline:
    """Price one step of ``batch`` (of one attention group) under the plan's schedule."""
    plan, stack = setup.plan, setup.stack
    if some(plan.pp - 1):
        batch = scaled(batch, _in_flight_share(batch, plan.pp))
    prefill = where_some(batch.prefill_tokens)
    whole = lower(setup.model, plan, batch, stack, skew=setup.skew)
    if plan.microbatches == 1:
        beside = prefill if "matmul_all_reduce" in stack.overlap else 0.0
        timeline = sequential(whole, _pricer(setup, None, prefill), reduce_beside=beside)
        return _host_bound(timeline, whole, setup, batch)
    half = lower(setup.model, plan, scaled(batch, 1.0 / plan.microbatches), stack, skew=setup.skew)
    if stack.partition is not None and not some(batch.prefill_tokens):
        return two_streams(half, whole, _pricer(setup, stack.partition, prefill))
    return _host_bound(hidden_network(half, whole, _pricer(setup, None, prefill), stack), half, setup, batch)


def _in_flight_share(batch: Batch, stages: Count) -> Any:
    """Share of the batch that is in one stage at a time: one part for each stage, but no part of a sequence."""
    sequences = np.maximum(batch.decode_sequences + batch.prefill_sequences, 1.0)
    return 1.0 / np.minimum(stages, sequences)


def scaled(batch: Batch, ratio: Any) -> Batch:
    """``batch`` with every statistic multiplied by ``ratio`` (an equal share of it)."""
    return Batch(
        prefill_tokens=batch.prefill_tokens * ratio,
        prefill_sequences=batch.prefill_sequences * ratio,
        prefill_pairs=batch.prefill_pairs * ratio,
        prefill_context=batch.prefill_context * ratio,
        decode_sequences=batch.decode_sequences * ratio,
        decode_context=batch.decode_context * ratio,
    )


def _pricer(setup: Setup, partition: tuple[float, float] | None, prefill: Count) -> Callable[[Operator, Stream], Cost]:
    stack = setup.stack
    waits = stack.imbalance_ratio != 1.0 or stack.straggle_ratio != 1.0

    def price(op: Operator, stream: Stream) -> Cost:
        share = (1.0, 1.0)
        if partition is not None and stream != "outside":
            share = partition if stream == "attention" else (1.0 - partition[0], 1.0 - partition[1])
        cost = setup.price(op, *share)
        if not (waits and isinstance(op, (Exchange, GroupedGemm))):
            return cost
        wait = cost.seconds * _late(op, stack, prefill)
        return replace(cost, seconds=cost.seconds + wait, latency_s=cost.latency_s + wait)

    return price


def _late(op: Exchange | GroupedGemm, stack: Stack, prefill: Count) -> Num:
    """By how much the slowest expert rank, for which all wait, takes longer than the mean one."""
    decode = stack.straggle_ratio if isinstance(op, Exchange) else 1.0
    return prefill * (stack.imbalance_ratio - 1.0) + (1.0 - prefill) * (decode - 1.0)


def _host_bound(timeline: Timeline, program: Program, setup: Setup, batch: Batch) -> Timeline:
    """Without graphs (prefill) the host launches kernel by kernel; a short step waits for it."""
    eager = setup.stack.eager_kernel_s
    if eager == 0.0 or not some(batch.prefill_tokens):
        return timeline
    launches: Count = 0.0
    for task in program:
        launches = launches + task.repeat * (setup.stack.expert_launches if isinstance(task.op, GroupedGemm) else 1)
    floor: Num = launches * setup.plan.microbatches * eager * np.where(np.asarray(batch.prefill_tokens) > 0, 1.0, 0.0)
    if np.ndim(floor) == 0:
        floor = float(floor)
    wait = np.maximum(floor - timeline.seconds, 0.0)
    if not some(wait):
        return timeline
    idle = Slice(
        label="wait for launches",
        part="host",
        stream="outside",
        block=-1,
        repeat=1,
        cost=Cost(seconds=wait, latency_s=wait, origin=f"stack {setup.stack.name}: eager launches"),
    )
    return replace(
        timeline,
        slices=(*timeline.slices, idle),
        seconds=timeline.seconds + wait,
        busy_s=timeline.busy_s + wait,
    )
