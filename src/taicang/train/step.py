"""One training step: layers, pipeline, data parallelism, optimizer, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from taicang.cost.sustained import straggling_ratio
from taicang.ops import Transfer
from taicang.train import memory, pipeline, sync
from taicang.train.chunks import Chunk, Layers, held_by, priced, summed
from taicang.train.flops import model_flop
from taicang.train.layer import LINES
from taicang.train.memory import Held, MemoryUse
from taicang.train.setup import Setup
from taicang.train_plans import TrainPlan, stride
from taicang.units import Count


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStep:
    """A priced step. ``spent`` sums to ``seconds``: busy lines of the mean pipeline rank, then what it waits for."""

    plan: TrainPlan
    seconds: float
    spent: Mapping[str, float]
    tokens_per_s: float
    flop: float
    """Model FLOPs of the step (``flops.CONVENTION``)."""
    memory: MemoryUse
    bubble_ratio: float
    """Idle share of the pipeline phase on the mean rank."""
    parameters: Count
    """Of the whole model, each once."""

    def mfu_ratio(self, peak_flop_per_s: float) -> float:
        """Model FLOPs per second and rank over ``peak_flop_per_s``."""
        return self.flop / self.seconds / self.plan.ranks / peak_flop_per_s


def durations(setup: Setup, layers: Layers, chunks: Sequence[Chunk]) -> pipeline.Durations:
    """What the pipeline needs: seconds of each pass of each chunk, of a send, and whether sends block."""
    plan = setup.plan
    # tensor-parallel ranks send a shard each; without sequence parallelism the receivers gather (arXiv 2104.04473, 4.1)
    sent = plan.micro_batch * plan.seq / plan.cp * setup.model.hidden * 2.0 / plan.tp
    send = Transfer(payload_bytes=sent, plane="scale_up", distance=stride(plan, "pp"))
    both = [*chunks, *chunks] if setup.shape.dual else chunks
    return pipeline.Durations(
        forward_s=np.array([summed(chunk.forward) for chunk in both]),
        data_s=np.array([summed(chunk.data) for chunk in both]),
        weight_s=np.array([summed(chunk.weight) for chunk in both]),
        saved_s=np.array([float(chunk.saved_s) for chunk in both]),
        send_s=float(layers.price(send).seconds) if plan.pp > 1 else 0.0,
        blocking="pipeline" not in setup.stack.overlap,
    )


def pipeline_run(setup: Setup, most: int = 64) -> pipeline.Run:
    """The simulated pipeline of one step, of its first ``most`` microbatches (a multiple of pp)."""
    layers = Layers(setup)
    shape = setup.shape
    rounds = max(most // shape.pp, 2 if shape.folded else 1)
    shape = replace(shape, micro=min(shape.micro, rounds * shape.pp))
    return pipeline.simulate(shape, durations(setup, layers, priced(setup, layers)))


def train_step(setup: Setup) -> TrainStep:
    """Price one step of ``setup``."""
    plan = setup.plan
    layers = Layers(setup)
    chunks = priced(setup, layers)
    times = durations(setup, layers, chunks)
    phase = pipeline.phase(setup.shape, times, plan.runs)
    alone = phase if not times.send_s else pipeline.phase(setup.shape, replace(times, send_s=0.0), plan.runs)
    ranks = [held_by(chunks, rank, plan.pp, folded=setup.shape.folded) for rank in range(plan.pp)]
    seen = plan.microbatches / plan.copies
    busy = [
        seen * sum(chunk.seconds for chunk in mine) - float(less)
        for mine, less in zip(ranks, phase.saved_s, strict=True)
    ]
    slowest = int(np.argmax(busy))
    mean = sum(busy) / len(busy)
    spent: dict[str, float] = dict.fromkeys(LINES, 0.0)
    for chunk in chunks:
        for part in (chunk.forward, chunk.data, chunk.weight):
            for line, seconds in part.items():
                spent[line] = spent.get(line, 0.0) + float(seconds) * plan.microbatches / plan.pp
    saved = float(np.mean(phase.saved_s))
    hidden = min(saved, spent["expert"])
    spent["expert"] -= hidden
    spent["recompute"] = spent.get("recompute", 0.0) - (saved - hidden)  # exchanges that recompute repeats
    reduce, gather, optimizer = _after(setup, layers, ranks[slowest])
    spent |= {
        "gradient reduction": reduce,
        "parameter gather": gather,
        "optimizer": optimizer,
        "host": setup.stack.step_host_s,
        "pipeline sends": phase.seconds - alone.seconds,
        "bubble": alone.seconds - busy[slowest],
        "uneven stages": busy[slowest] - mean,
        "stragglers": phase.seconds * straggling_ratio(plan.ranks, setup.clock_ratio),
    }
    seconds = summed(spent)
    held = _held(chunks)
    flop = float(model_flop(setup.model, plan.span, plan.tokens / plan.span, trained_ratio=plan.trained_ratio))
    return TrainStep(
        plan=plan,
        seconds=seconds,
        spent=spent,
        tokens_per_s=plan.tokens / seconds,
        flop=flop,
        memory=memory.peak(_memory(setup, ranks)),
        bubble_ratio=1.0 - mean / phase.seconds,
        parameters=float(held.dense * plan.tp + held.experts * plan.ep * plan.etp),
    )


def _held(chunks: Sequence[Chunk]) -> Held:
    return memory.together((chunk.held, 1.0) for chunk in chunks)


def _after(setup: Setup, layers: Layers, mine: Sequence[Chunk]) -> tuple[float, float, float]:
    """What reduction, gather and optimizer add on the rank that holds ``mine``."""
    plan = setup.plan
    held = _held(mine)
    optimizer = float(sync.optimizer_s(held, plan, layers.price))
    if plan.by_layer:
        return 0.0, 0.0, optimizer
    reduce, gather = sync.step_exposed(
        sync.step_network(held, plan, layers.price, setup.stack.keeps), plan, setup.stack, setup.data_tax,
        forward_s=sum(summed(chunk.forward) for chunk in mine),
        backward_s=sum(summed(chunk.data) + summed(chunk.weight) for chunk in mine), micro=plan.microbatches,
        vpp=plan.vpp,
    )  # fmt: skip
    return float(reduce), float(gather), optimizer


def stage_memory(setup: Setup) -> tuple[MemoryUse, ...]:
    """Memory of each pipeline rank."""
    chunks = priced(setup, Layers(setup))
    pp = setup.plan.pp
    return tuple(_memory(setup, [held_by(chunks, rank, pp, folded=setup.shape.folded) for rank in range(pp)]))


def _memory(setup: Setup, ranks: Sequence[Sequence[Chunk]]) -> list[MemoryUse]:
    plan, chip, shape, keeps = setup.plan, setup.machine.chip, setup.shape, setup.stack.keeps
    uses = []
    for rank, mine in enumerate(ranks):
        weights, gradients, optimizer = memory.state_bytes(held := _held(mine), plan, keeps)
        layer, edge = (max(float(getattr(chunk, name)) for chunk in mine) for name in ("layer_bytes", "edge_bytes"))
        kept = sum(float(chunk.saved_bytes) for chunk in mine) / len(mine)
        if keeps.outputs and rank < plan.pp - 1:
            kept += memory.boundary_bytes(setup.model, plan)
        flying = memory.in_flight(shape, rank)
        kept *= flying
        away = sum(float(chunk.away_bytes) for chunk in mine) / len(mine) * flying
        if keeps.merged and plan.pp > 1 and rank == (0 if shape.folded else plan.pp - 1):
            kept += float(memory.merged_bytes(setup.model, plan, shape.micro))
        once = memory.at_once(plan, keeps, flying, plan.microbatches)
        uses.append(
            MemoryUse(
                weights_bytes=weights,
                gradients_bytes=gradients,
                optimizer_bytes=optimizer,
                activations_bytes=kept,
                working_bytes=max(layer, edge) + memory.bucket_bytes(held, plan, keeps),
                apart_bytes=memory.gradual(gradients, kept / plan.microbatches, layer, edge, once),
                runtime_bytes=memory.RUNTIME_RATIO * chip.memory.capacity_bytes,
                capacity_bytes=chip.memory.capacity_bytes,
                host_bytes=memory.host_bytes(held, plan) + away,
            )
        )
    return uses


__all__ = ["LINES", "Setup", "TrainStep", "durations", "pipeline_run", "stage_memory", "train_step"]
