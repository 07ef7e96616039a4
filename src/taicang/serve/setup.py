"""One serving instance: what it runs, how, on what, and what prices it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from taicang.cost.cost import Cost
from taicang.errors import InvalidPlan
from taicang.hardware import Machine
from taicang.lower import lower
from taicang.lower.program import Program, Stream, some, where_some
from taicang.models.types import Model
from taicang.ops import Attend, Exchange, GroupedGemm, Operator
from taicang.plans import Batch, ServePlan, scaled
from taicang.stacks import WIDE, Stack
from taicang.timeline import (
    Slice,
    Timeline,
    at_peak_s,
    behind_products,
    hidden_network,
    price,
    sequential,
    throttled,
    two_streams,
)  # fmt: skip
from taicang.units import Count, Num


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """``price(op, cube_ratio, vector_ratio)`` is the cost model: which one is passed decides the fidelity."""

    model: Model
    plan: ServePlan
    machine: Machine
    stack: Stack
    price: Callable[[Operator, float, float], Cost]
    clock_ratio: float = 1.0
    """What the power limit leaves of the chips' clock under unbroken arithmetic."""
    dense_ratio: float = 1.0
    """Share of the peak that this arithmetic, large dense products, reaches on chips that are cool."""
    skew: Count = 0.0
    """Exponent of the expert popularity's power law."""

    @property
    def uneven(self) -> Count:
        """What of ``skew`` is left: replicas of hot experts even out what it makes."""
        return 0.0 if some(self.plan.redundant) else self.skew

    def __post_init__(self) -> None:
        # arrays are the search's own: of their combinations it reads those that are layouts of the machine
        if not isinstance(self.plan.ranks, np.ndarray) and self.plan.ranks > self.machine.ranks:
            raise InvalidPlan(
                f"the plan needs {self.plan.ranks} ranks (tp {self.plan.tp} x dp {self.plan.dp} x pp {self.plan.pp}), "
                f"{self.machine.name} has {self.machine.ranks}: {self.plan.ranks - self.machine.ranks} too many"
            )


def scheduled_ahead(setup: Setup) -> Num:
    """Steps that are scheduled behind the running one: none that drafts, where the scheduler runs before and after."""
    stack = setup.stack
    return float(stack.ahead) * (1.0 - where_some(setup.plan.draft_tokens) * float(stack.draft_host_s > 0.0))


def step(setup: Setup, batch: Batch) -> Timeline:
    """Price one step of ``batch`` (of one attention group) under the plan's schedule."""
    plan, stack = setup.plan, setup.stack
    if some(plan.pp - 1):
        batch = _largest_part(batch, plan.pp)
    whole = lower(setup.model, plan, batch, stack, skew=setup.uneven, outside=plan.microbatches > 1)
    pricer = _pricer(setup, None, batch)
    if plan.microbatches == 1:
        timeline = sequential(whole, pricer)
        if "matmul_all_reduce" in stack.overlap and some(batch.prefill_tokens):
            timeline = _reduced_beside(timeline, whole, setup, batch)
        return _host_bound(_limited(timeline, setup), whole, setup, batch)
    half = lower(setup.model, plan, scaled(batch, 1.0 / plan.microbatches), stack, skew=setup.uneven)
    if stack.partition is not None and some(batch.decode_sequences):
        timeline = two_streams(half, whole, _pricer(setup, stack.partition, batch))
    else:
        timeline = hidden_network(half, whole, pricer, stack)
    return _host_bound(_limited(timeline, setup), half, setup, batch)


def _limited(timeline: Timeline, setup: Setup) -> Timeline:
    """``timeline`` under the power limit of the chips."""
    if setup.clock_ratio == 1.0:
        return timeline
    return throttled(timeline, setup.clock_ratio, at_peak_s(timeline, setup.machine.chip) / setup.dense_ratio)


def _reduced_beside(timeline: Timeline, program: Program, setup: Setup, batch: Batch) -> Timeline:
    """``timeline`` with the all-reduces of prompts beside the products that they sum.

    A step that only decodes runs them one after the other. Prompts hide what they add to that, not what sequences that
    decode beside them would take alone: with a few more tokens no step gets shorter.
    """
    prompts = where_some(batch.prefill_tokens)
    hidden = behind_products(program, timeline.slices)
    if some(batch.decode_sequences):
        decoding = Batch(decode_sequences=batch.decode_sequences, decode_context=batch.decode_context)
        alone = lower(setup.model, setup.plan, decoding, setup.stack, skew=setup.uneven)
        apart = behind_products(alone, price(alone, _pricer(setup, None, decoding)))
        hidden = np.maximum(hidden - where_some(batch.decode_sequences) * apart, 0.0)
    return replace(timeline, seconds=timeline.seconds - prompts * hidden)


def _largest_part(batch: Batch, stages: Count) -> Batch:
    """What is in one stage at a time where a batch is cut into parts, one for each stage but none of a sequence.

    Each part has its share of the sequences that decode and of the prompts; a turn of the pipeline is as long as the
    part with the most work takes through all stages, since its own next tokens wait for that.
    """
    prompts, decoding = (1.0 / np.clip(each, 1.0, stages) for each in (batch.prefill_sequences, batch.decode_sequences))
    return scaled(batch, prompts, decoding)


def _pricer(setup: Setup, partition: tuple[float, float] | None, batch: Batch) -> Callable[[Operator, Stream], Cost]:
    stack = setup.stack
    waits = stack.imbalance_ratio != 1.0 or stack.straggle_ratio != 1.0

    def price(op: Operator, stream: Stream) -> Cost:
        share = (1.0, 1.0)
        if partition is not None and stream != "outside":
            share = partition if stream == "attention" else (1.0 - partition[0], 1.0 - partition[1])
        cost = setup.price(op, *share)
        if not (waits and isinstance(op, (Exchange, GroupedGemm))):
            return cost
        wait = cost.seconds * _late(op, stack, batch)
        return replace(cost, seconds=cost.seconds + wait, latency_s=cost.latency_s + wait)

    return price


def _late(op: Exchange | GroupedGemm, stack: Stack, batch: Batch) -> Num:
    """By how much the slowest expert rank, for which all wait, takes longer than the mean one: in a step with prompts
    and sequences that decode, whichever lets it wait longer."""
    late: Num = where_some(batch.prefill_tokens) * (stack.imbalance_ratio - 1.0)
    if not isinstance(op, Exchange):
        return late
    return np.maximum(late, where_some(batch.decode_sequences) * (stack.straggle_ratio - 1.0))


def _issued_s(program: Program, setup: Setup, batch: Batch) -> Num:
    """What the host takes to launch a step: kernel by kernel outside graphs (prefill, or all of an eager engine), piece
    by piece where graphs lie around attentions, attention by attention where one graph is handed new lengths."""
    stack = setup.stack
    launches: Count = 0.0
    layers = dict[tuple[int, str], Count]()  # prompts and sequences that decode beside them share the gap of a layer
    for task in program:
        launches = launches + task.repeat * _launches(task.op, stack)
        if isinstance(task.op, Attend):
            key = task.block, task.label.removesuffix(" (prefill)")
            layers[key] = np.maximum(layers.get(key, 0.0), 1.0 * task.repeat)
    attends: Num = sum(layers.values(), 0.0)
    each: Num = launches * stack.eager_kernel_s
    pieces: Num = attends * (stack.piece_s or 2.0 * stack.eager_kernel_s)
    whole: Num = attends * stack.lengths_s
    if stack.eager_kernel_s:  # the more is captured, the less it takes
        pieces = np.minimum(pieces, each)
        whole = np.minimum(whole, pieces)
    between = {"eager": each, "piecewise": pieces}.get(stack.graph, whole)
    decoding = np.where(np.asarray(batch.decode_sequences) > graph_sequences(setup), each, between)
    prompting = each
    if stack.graph_tokens and stack.graph != "eager":
        tokens = np.asarray(batch.prefill_tokens + batch.decode_sequences * setup.plan.query_len)
        prompting = np.where(tokens > stack.graph_tokens, each, pieces)
    prompting = np.maximum(prompting, decoding)  # a step with prompts holds what decodes too
    return np.where(np.asarray(batch.prefill_tokens) > 0, prompting, decoding) * setup.plan.microbatches


def graph_sequences(setup: Setup) -> Num:
    """Sequences of the largest captured decode step; infinite for a stack that states none."""
    if not setup.stack.graph_sequences:
        return np.inf
    return np.where(np.asarray(setup.plan.tp) >= WIDE, setup.stack.graph_wide_sequences, setup.stack.graph_sequences)


def _launches(op: Operator, stack: Stack) -> Count:
    """Launches that an operator takes outside graphs."""
    if isinstance(op, GroupedGemm):
        return stack.expert_launches
    return stack.attention_launches if isinstance(op, Attend) else getattr(op, "launches", 1)


def _host_bound(timeline: Timeline, program: Program, setup: Setup, batch: Batch) -> Timeline:
    """A short step waits for the host that launches it."""
    if not (setup.stack.eager_kernel_s or setup.stack.piece_s or setup.stack.lengths_s):
        return timeline
    floor = _issued_s(program, setup, batch)
    if not np.any(floor):
        return timeline
    if np.ndim(floor) == 0:
        floor = float(floor)
    wait = np.maximum(floor - timeline.seconds, 0.0)
    timeline = replace(timeline, launches_s=floor, launch_wait_s=wait)
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
