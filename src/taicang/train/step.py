"""One training step: layers, pipeline, data parallelism, optimizer, memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from taicang.cost.cost import Cost
from taicang.cost.routing import expected_maximum_ratio
from taicang.errors import InvalidPlan
from taicang.hardware import Machine
from taicang.lower.training import lower_embedding, lower_head, lower_layer
from taicang.models.types import Block, Model
from taicang.ops import Operator, Transfer
from taicang.stacks import Stack
from taicang.train import memory, pipeline, sync
from taicang.train.flops import model_flop
from taicang.train.layer import LINES, LayerTime, Price, Spent, added, layer_time, scaled, total
from taicang.train.memory import Held, MemoryUse
from taicang.train.stages import layers_of
from taicang.train_plans import TrainPlan, check
from taicang.units import Num

THROTTLED_SPREAD_RATIO = 0.04
"""Standard deviation of chips' speed over the share of the clock that the power limit takes (assumed).

Chips that hit the limit run at clocks that differ with their leakage (arXiv 2208.11035), others at the nominal one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What trains, how, on what; ``price`` is the cost model, whose choice decides the fidelity."""

    model: Model
    plan: TrainPlan
    machine: Machine
    stack: Stack
    price: Callable[[Operator, float, float], Cost]
    clock_ratio: float = 1.0
    """Sustained over nominal clock, for the spread between chips (``price`` has its effect on kernels already)."""

    def __post_init__(self) -> None:
        check(self.plan, self.model.layers)
        if self.plan.ranks > self.machine.ranks:
            raise InvalidPlan(
                f"the plan needs {self.plan.ranks} ranks, {self.machine.name} has {self.machine.ranks}: "
                f"{self.plan.ranks - self.machine.ranks} too many"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStep:
    """A priced step. ``spent`` sums to ``seconds``: busy lines of the busiest rank, then what it waits for."""

    plan: TrainPlan
    seconds: float
    spent: Mapping[str, float]
    tokens_per_s: float
    flop: float
    """Model FLOPs of the step (``flops.CONVENTION``)."""
    memory: MemoryUse
    bubble_ratio: float
    """Idle share of the pipeline phase on the mean rank."""

    def mfu_ratio(self, peak_flop_per_s: float) -> float:
        """Model FLOPs per second and rank over ``peak_flop_per_s``."""
        return self.flop / self.seconds / self.plan.ranks / peak_flop_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One model chunk's seconds for one microbatch and what its rank holds for it."""

    forward: Spent
    data: Spent
    weight: Spent
    held: Held
    saved_bytes: Num
    working_bytes: Num


class _Layers:
    """Times of the model's layer kinds, priced once each."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.price: Price = lambda op: setup.price(op, 1.0, 1.0)
        self.known: dict[Block, tuple[LayerTime, Held]] = {}

    def __getitem__(self, block: Block) -> tuple[LayerTime, Held]:
        found = self.known.get(block)
        if found is None:
            setup = self.setup
            lowered = lower_layer(setup.model, block, setup.plan, setup.stack)
            made = layer_time(lowered, setup.plan, setup.stack, self.price)
            held = memory.layer_parameters(setup.model, block, setup.plan)
            found = self.known[block] = (made, held)
        return found


def _chunk(blocks: list[Block], layers: _Layers, first: bool, last: bool) -> Chunk:
    setup = layers.setup
    plan, model, stack = setup.plan, setup.model, setup.stack
    counts: dict[Block, int] = {}
    for block in blocks:
        counts[block] = counts.get(block, 0) + 1
    if last and model.mtp_layers:
        counts[model.blocks[-1]] = counts.get(model.blocks[-1], 0) + model.mtp_layers
    forward: dict[str, Num] = {}
    data: dict[str, Num] = {}
    weight: dict[str, Num] = {}
    dense: Num = 0.0
    experts: Num = 0.0
    saved: Num = 0.0
    working: Num = 0.0
    for block, count in counts.items():
        time, held = layers[block]
        back: Spent = added({"recompute": total(time.again)}, time.data)
        front: Spent = time.forward
        if plan.zero == 3:
            ahead, behind = sync.layer_exposed(
                sync.layer_network(held, plan, layers.price), stack,
                forward_s=total(time.forward), backward_s=total(time.again) + total(time.data) + total(time.weight),
            )  # fmt: skip
            front, back = added(front, {"data": ahead}), added(back, {"data": behind})
        forward, data = added(forward, scaled(front, count)), added(data, scaled(back, count))
        weight = added(weight, scaled(time.weight, count))
        dense, experts = dense + held.dense * count, experts + held.experts * count
        saved = saved + time.saved_bytes * count
        working = np.maximum(working, time.working_bytes + memory.gathered_bytes(held, plan))
    embedding, head = memory.edge_parameters(model, plan)
    edges = []
    if first:
        edges.append((lower_embedding(model, plan), embedding, 1))
    if last:
        edges.append((lower_head(model, plan), head, 1 + model.mtp_layers))
    for lowered, parameters_, count in edges:
        time = layer_time(lowered, plan, stack, layers.price)
        forward, data = added(forward, scaled(time.forward, count)), added(data, scaled(time.data, count))
        weight = added(weight, scaled(time.weight, count))
        dense = dense + parameters_
        working = np.maximum(working, time.working_bytes)
    return Chunk(
        forward=forward, data=data, weight=weight, held=Held(dense=dense, experts=experts), saved_bytes=saved,
        working_bytes=working,
    )  # fmt: skip


def straggling_ratio(ranks: int, clock_ratio: float) -> float:
    """What waiting for the slowest of ``ranks`` chips adds to a synchronous step."""
    spread = THROTTLED_SPREAD_RATIO * (1.0 - clock_ratio)
    return float(expected_maximum_ratio(float(ranks), spread)) - 1.0


def _seconds(spent: Spent) -> float:
    seconds = 0.0
    for part in spent.values():
        seconds = seconds + float(part)
    return seconds


def _chunks(setup: Setup, layers: _Layers) -> list[Chunk]:
    dealt = layers_of(setup.model, setup.plan)
    return [_chunk(blocks, layers, i == 0, i == len(dealt) - 1) for i, blocks in enumerate(dealt)]


def _passes(setup: Setup, layers: _Layers, chunks: list[Chunk]) -> dict[str, Any]:
    """What the pipeline needs: seconds of each pass of each chunk, of a send, and whether sends block."""
    plan = setup.plan
    # tensor-parallel ranks send a shard each; without sequence parallelism the receivers gather (arXiv 2104.04473, 4.1)
    sent = plan.micro_batch * plan.seq / plan.cp * setup.model.hidden * 2.0 / plan.tp
    apart = plan.tp * plan.cp * plan.dp
    send = float(layers.price(Transfer(payload_bytes=sent, plane="scale_up", distance=apart)).seconds)
    passes = {
        f"{name}_s": [_seconds(getattr(chunk, name)) for chunk in chunks] for name in ("forward", "data", "weight")
    }
    return passes | {"send_s": send if plan.pp > 1 else 0.0, "blocking": "pipeline" not in setup.stack.overlap}


def pipeline_run(setup: Setup, most: int = 64) -> pipeline.Run:
    """The simulated pipeline of one step, of its first ``most`` microbatches (a multiple of pp)."""
    plan = setup.plan
    layers = _Layers(setup)
    micro = min(plan.microbatches, max(most // plan.pp, 1) * plan.pp)
    passes = _passes(setup, layers, _chunks(setup, layers))
    return pipeline.simulate(plan.schedule, plan.pp, plan.vpp, micro, **passes)


def train_step(setup: Setup) -> TrainStep:
    """Price one step of ``setup``."""
    plan, stack = setup.plan, setup.stack
    layers = _Layers(setup)
    chunks = _chunks(setup, layers)
    micro = plan.microbatches
    inside = pipeline.seconds(plan.schedule, plan.pp, plan.vpp, micro, **_passes(setup, layers, chunks))
    ranks = [_rank(chunks, rank, plan.pp) for rank in range(plan.pp)]
    busy = [micro * sum(_seconds(part) for part in rank) for rank in ranks]
    slowest = int(np.argmax(busy))
    reduce, gather, optimizer = _after(setup, layers, chunks, ranks, slowest)
    spent: dict[str, float] = {}
    for part in ranks[slowest]:
        for line, seconds in part.items():
            spent[line] = spent.get(line, 0.0) + float(seconds) * micro
    spent["bubble"] = inside - max(busy)
    spent["stragglers"] = inside * straggling_ratio(plan.ranks, setup.clock_ratio)
    spent["gradient reduction"] = reduce
    spent["parameter gather"] = gather
    spent["optimizer"] = optimizer
    spent["host"] = stack.step_host_s
    seconds = _seconds(spent)
    flop = float(model_flop(setup.model, plan.seq, float(plan.global_batch), trained_ratio=plan.trained_ratio))
    return TrainStep(
        plan=plan,
        seconds=seconds,
        spent=spent,
        tokens_per_s=plan.tokens / seconds,
        flop=flop,
        memory=_memory(setup, chunks),
        bubble_ratio=1.0 - sum(busy) / len(busy) / inside,
    )


def _rank(chunks: list[Chunk], rank: int, pp: int) -> tuple[Spent, Spent, Spent]:
    mine = chunks[rank::pp]
    return (
        added(*(chunk.forward for chunk in mine)),
        added(*(chunk.data for chunk in mine)),
        added(*(chunk.weight for chunk in mine)),
    )


def _held(chunks: list[Chunk]) -> Held:
    dense: Num = 0.0
    experts: Num = 0.0
    for chunk in chunks:
        dense, experts = dense + chunk.held.dense, experts + chunk.held.experts
    return Held(dense=dense, experts=experts)


def _after(
    setup: Setup, layers: _Layers, chunks: list[Chunk], ranks: list[tuple[Spent, Spent, Spent]], slowest: int
) -> tuple[float, float, float]:
    plan = setup.plan
    held = _held(chunks[slowest :: plan.pp])
    forward, data, weight = (_seconds(part) for part in ranks[slowest])
    optimizer = float(sync.optimizer_s(held, plan, layers.price))
    if plan.zero == 3:
        return 0.0, 0.0, optimizer
    reduce, gather = sync.step_exposed(
        sync.step_network(held, plan, layers.price), plan.zero, setup.stack,
        forward_s=forward, backward_s=data + weight, micro=plan.microbatches,
    )  # fmt: skip
    return float(reduce), float(gather), optimizer


def _memory(setup: Setup, chunks: list[Chunk]) -> MemoryUse:
    plan, chip = setup.plan, setup.machine.chip
    uses = []
    for rank in range(plan.pp):
        mine = chunks[rank :: plan.pp]
        weights, gradients, optimizer = memory.state_bytes(_held(mine), plan)
        kept = sum(float(chunk.saved_bytes) for chunk in mine) / len(mine)
        uses.append(
            MemoryUse(
                weights_bytes=weights,
                gradients_bytes=gradients,
                optimizer_bytes=optimizer,
                activations_bytes=kept * memory.in_flight(plan, rank),
                working_bytes=max(float(chunk.working_bytes) for chunk in mine),
                runtime_bytes=memory.RUNTIME_RATIO * chip.memory.capacity_bytes,
                capacity_bytes=chip.memory.capacity_bytes,
            )
        )
    return memory.peak(uses)


__all__ = ["LINES", "Setup", "TrainStep", "train_step"]
