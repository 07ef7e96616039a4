"""One serving instance: what it runs, how, on what, and what prices it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from taicang.cost.cost import Cost
from taicang.errors import InvalidPlan
from taicang.hardware import Machine
from taicang.lower import lower
from taicang.lower.program import Program, Stream, some
from taicang.models.types import Model
from taicang.ops import Exchange, GroupedGemm, Operator
from taicang.plans import Batch, ServePlan
from taicang.stacks import Stack
from taicang.timeline import Timeline, hidden_network, sequential, two_streams
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
        if self.plan.ranks > self.machine.ranks:
            raise InvalidPlan(
                f"the plan needs {self.plan.ranks} ranks (tp {self.plan.tp} x dp {self.plan.dp} x pp {self.plan.pp}), "
                f"{self.machine.name} has {self.machine.ranks}: {self.plan.ranks - self.machine.ranks} too many"
            )


def step(setup: Setup, batch: Batch) -> Timeline:
    """Price one step of ``batch`` (of one attention group) under the plan's schedule."""
    plan, stack = setup.plan, setup.stack
    if plan.pp > 1:
        batch = scaled(batch, 1.0 / plan.pp)
    prefill = some(batch.prefill_tokens)
    whole = lower(setup.model, plan, batch, stack, skew=setup.skew)
    if plan.microbatches == 1:
        return _host_bound(sequential(whole, _pricer(setup, None, prefill=prefill)), whole, setup, batch)
    half = lower(setup.model, plan, scaled(batch, 1.0 / plan.microbatches), stack, skew=setup.skew)
    if stack.partition is not None and not prefill:
        return two_streams(half, whole, _pricer(setup, stack.partition, prefill=False))
    return hidden_network(half, whole, _pricer(setup, None, prefill=prefill), stack)


def scaled(batch: Batch, ratio: float) -> Batch:
    """``batch`` with every statistic multiplied by ``ratio`` (an equal share of it)."""
    return Batch(
        prefill_tokens=batch.prefill_tokens * ratio,
        prefill_sequences=batch.prefill_sequences * ratio,
        prefill_pairs=batch.prefill_pairs * ratio,
        prefill_context=batch.prefill_context * ratio,
        decode_sequences=batch.decode_sequences * ratio,
        decode_context=batch.decode_context * ratio,
    )


def _pricer(
    setup: Setup, partition: tuple[float, float] | None, *, prefill: bool
) -> Callable[[Operator, Stream], Cost]:
    def price(op: Operator, stream: Stream) -> Cost:
        share = (1.0, 1.0)
        if partition is not None and stream != "outside":
            share = partition if stream == "attention" else (1.0 - partition[0], 1.0 - partition[1])
        cost = setup.price(op, *share)
        late = _late(op, setup.stack, prefill=prefill)
        if late == 1.0:
            return cost
        wait = cost.seconds * (late - 1.0)
        return replace(cost, seconds=cost.seconds + wait, latency_s=cost.latency_s + wait)

    return price


def _late(op: Operator, stack: Stack, *, prefill: bool) -> float:
    """Time of the slowest expert rank, for which all wait, over the mean rank's."""
    if prefill and isinstance(op, (Exchange, GroupedGemm)):
        return stack.imbalance_ratio
    return stack.straggle_ratio if isinstance(op, Exchange) and not prefill else 1.0


def _host_bound(timeline: Timeline, program: Program, setup: Setup, batch: Batch) -> Timeline:
    """Without graphs (prefill) the host launches kernel by kernel; a short step waits for it."""
    eager = setup.stack.eager_kernel_s
    if eager == 0.0 or not some(batch.prefill_tokens):
        return timeline
    launches: Count = 0.0
    for task in program:
        launches = launches + task.repeat
    floor: Num = launches * eager * np.where(np.asarray(batch.prefill_tokens) > 0, 1.0, 0.0)
    if not isinstance(batch.prefill_tokens, np.ndarray):
        floor = float(floor)
    return replace(timeline, seconds=np.maximum(timeline.seconds, floor))
