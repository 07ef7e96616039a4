"""Seconds and bytes of many plans of one layout at once: what a layer costs, scaled and added by arrays.

Columns are pairs of pipeline stages and chunks, rows kinds of recompute. The pipeline is its published closed form:
bubble (p - 1) / v of a stage's pass for 1F1B, (p - 1) (F + B - W) for zero bubble, (p / 2 - 1) (pair + B - 3 W) for
DualPipe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.cost.sustained import straggling_ratio
from taicang.lower.training import lower_layer
from taicang.lower.training_edges import lower_edges
from taicang.train import memory, sync
from taicang.train.layer import LayerTime, Price, layer_time, total
from taicang.train.memory import Held
from taicang.train.setup import Setup
from taicang.train.space import Variant, variants
from taicang.train_plans import WAVES, Schedule, TrainPlan, expert_shard
from taicang.units import Num

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """Legal plans that share all of ``plan`` but stages, chunks and recompute (by index), with their prices."""

    plan: TrainPlan
    pp: Ints
    vpp: Ints
    recompute: Ints
    seconds: Floats
    memory_bytes: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """The model's mean layer on one rank; recompute kinds are rows."""

    forward_s: Num
    back_s: Num
    """Recompute, data and weight gradients."""
    weight_s: Num
    again_ratio: Num
    """Layers whose whole forward pass is repeated, by recompute."""
    beside_s: Num
    """What a pair of passes saves."""
    issued_s: tuple[Num, Num]
    """Host time of launching, forward and backward, by recompute."""
    kept_bytes: Num
    """Activations kept, by recompute."""
    boundary_bytes: float
    busiest_bytes: Num
    """Activations of the layer at work."""
    held: Held
    ends: tuple[float, float]
    """Seconds of embedding and head."""
    logits_bytes: Num
    edges: tuple[float, float]
    """Parameters of embedding and head."""


def estimates(
    setup: Setup, layout: TrainPlan, pp: Ints, vpp: Ints, modes: tuple[tuple[Any, float], ...], fixed: Mapping[str, Any]
) -> Iterator[Priced]:
    """All variants of ``layout`` with the given pairs of stages and chunks."""
    layer = _mean(setup, layout, modes)
    dp = setup.machine.ranks // (layout.tp * layout.cp * pp)
    micro = layout.global_batch // (dp * layout.micro_batch)
    networks: dict[tuple[object, ...], Any] = {}
    for variant in variants(setup, layout, fixed):
        schedules = [one for one in variant.schedules if fixed.get("schedule", one) == one]
        masks = [_legal(setup, layout, variant, one, pp, vpp, micro) for one in schedules]
        if not any(mask.any() for mask in masks):
            continue
        plan = replace(
            layout, zero=variant.zero, shard=variant.shard, reshard=variant.reshard, order=variant.order,
            schedule=schedules[0],
        )  # fmt: skip
        stage = _stage(setup, plan, layer, pp, vpp, dp, micro, networks)
        for schedule, legal in zip(schedules, masks, strict=True):
            seconds, size = _whole(setup, replace(plan, schedule=schedule), layer, stage, pp, vpp, micro)
            rows, count = seconds.shape[0], int(legal.sum())
            yield Priced(
                plan=replace(plan, schedule=schedule),
                pp=np.tile(pp[legal], rows),
                vpp=np.tile(vpp[legal], rows),
                recompute=np.repeat(np.arange(rows), count),
                seconds=seconds[:, legal].ravel(),
                memory_bytes=np.broadcast_to(size, seconds.shape)[:, legal].ravel(),
            )


def _legal(
    setup: Setup, layout: TrainPlan, variant: Variant, schedule: Schedule, pp: Ints, vpp: Ints, micro: Ints
) -> NDArray[np.bool_]:
    """Where the rules of ``train_plans.check`` hold, and where a choice makes a difference at all."""
    legal: NDArray[np.bool_] = (pp > 1) | (schedule == "1f1b")
    if schedule != "1f1b":
        legal = legal & (vpp == (2 if schedule in WAVES else 1))
    if schedule == "dualpipe":
        legal = legal & (pp % 2 == 0) & (micro % 2 == 0)
    if schedule.startswith("dualpipe"):
        legal = legal & (micro >= 2 * pp)
    if variant.zero == 3 or (variant.zero == 2 and setup.stack.keeps.sharding == "deepspeed"):
        legal = legal & (pp == 1)
    replicas = setup.machine.ranks // (layout.tp * pp)  # along cp and dp
    if variant.order != layout.order:
        legal = legal & (pp > 1) & (replicas > layout.cp)
    if variant.shard:
        experts = np.maximum(replicas * layout.tp // (layout.ep * layout.etp), 1)
        legal = legal & (replicas % variant.shard == 0)
        legal = legal & (experts % expert_shard(replace(layout, shard=variant.shard), experts) == 0)
    return legal


def _mean(setup: Setup, layout: TrainPlan, modes: tuple[tuple[Any, float], ...]) -> _Layer:
    model, stack = setup.model, setup.stack
    price: Price = lambda op: setup.price(op, 1.0, 1.0)  # noqa: E731
    plan = replace(layout, recompute="selective")
    times = []
    parts: list[tuple[Held, Num]] = []
    for block in model.blocks:
        share = block.count / model.layers
        times.append((share, layer_time(lower_layer(model, block, plan, stack), plan, stack, price, setup.tax)))
        parts.append((memory.layer_parameters(model, block, plan), share))

    def weigh(of: Callable[[LayerTime], Num]) -> Num:
        seconds: Num = 0.0
        for share, time in times:
            seconds = seconds + share * of(time)
        return seconds

    forward, core = weigh(lambda t: total(t.forward)), weigh(lambda t: total(t.again))
    weight = weigh(lambda t: total(t.weight))
    everything, trimmed = weigh(lambda t: t.working_bytes), weigh(lambda t: t.saved_bytes)
    boundary = memory.boundary_bytes(model, layout)
    whole = weigh(lambda t: t.rerun_s)
    again = [{"none": 0.0, "selective": core, "full": ratio * whole}[mode] for mode, ratio in modes]
    part, full = weigh(lambda t: t.issued_s[2]), weigh(lambda t: t.issued_s[3])
    issued = [{"none": 0.0, "selective": part, "full": ratio * full}[mode] for mode, ratio in modes]
    kept = [
        {"none": everything, "selective": trimmed, "full": ratio * boundary + (1 - ratio) * everything}[mode]
        for mode, ratio in modes
    ]
    kept = [each * (1.0 - layout.activations_away_ratio) for each in kept]
    edges = [layer_time(edge, layout, stack, price) for edge in lower_edges(model, layout, stack)]
    first, last = (float(total(t.forward) + total(t.data) + total(t.weight)) for t in edges)
    return _Layer(
        forward_s=forward,
        back_s=np.array(again)[:, None] + weigh(lambda t: total(t.data)) + weight + stack.layer_gap_s,
        weight_s=weight,
        again_ratio=np.array([ratio if mode == "full" else 0.0 for mode, ratio in modes])[:, None],
        beside_s=weigh(lambda t: t.saved_s) if layout.ep > 1 else 0.0,
        issued_s=(weigh(lambda t: t.issued_s[0]), np.array(issued)[:, None] + weigh(lambda t: t.issued_s[1])),
        kept_bytes=np.array(kept)[:, None],
        boundary_bytes=boundary,
        busiest_bytes=everything,
        held=memory.together(parts),
        ends=(first, last),
        logits_bytes=edges[1].working_bytes,
        edges=memory.edge_parameters(model, layout),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """What does not depend on the schedule: the fullest stage per microbatch, and what follows the pipeline."""

    once_s: Num
    """All passes of one layer."""
    back_s: Num
    micro_s: Num
    after_s: Num
    state_bytes: Num
    """Bytes but for activations in flight."""
    gradients_bytes: Num
    work_bytes: tuple[Num, Num]
    """Of the layer at work, and of the logits."""
    layers: Floats


def _stage(
    setup: Setup, given: TrainPlan, layer: _Layer, pp: Ints, vpp: Ints, dp: Ints, micro: Ints,
    networks: dict[tuple[object, ...], Any],
) -> _Stage:  # fmt: skip
    """``networks`` remembers collectives, which ZeRO 1 and 2 share."""
    stack, tax = setup.stack, setup.data_tax
    price: Price = lambda op: setup.price(op, 1.0, 1.0)  # noqa: E731
    plan: Any = replace(given, dp=dp, pp=pp)  # type: ignore[arg-type] # arrays in place of numbers: see placement
    count, copies = setup.model.layers, given.copies
    layers = np.ceil(count / pp)
    both, larger = sum(layer.edges), max(layer.edges)
    alone = (pp == 1) | (given.schedule in WAVES)
    edge = np.where(alone, both, copies * larger)
    outer = Held(dense=edge, matrices=np.where(alone, 2.0, copies), largest=larger, plain=edge)
    wide = memory.together([(layer.held, copies * layers), (outer, 1.0)])
    forward, back = layer.forward_s, layer.back_s
    ends_s: Num = 0.0
    after = sync.optimizer_s(wide, plan, price) + stack.step_host_s
    key = ((0, 1, 1, 3)[given.zero], given.shard, given.reshard, given.order, copies)
    if key not in networks:
        per_layer = given.zero == 3
        networks[key] = (
            sync.layer_load(layer.held, plan, price, stack.keeps) if per_layer
            else sync.step_network(wide, plan, price, stack.keeps)
        )  # fmt: skip
    if given.zero == 3:
        ahead, behind = sync.layer_waits(
            networks[key],
            layer.held,
            stack,
            tax,
            forward_s=forward,
            backward_s=back,
            again_ratio=layer.again_ratio,
            issued_s=layer.issued_s,
        )
        over, under = sync.edges_exposed(
            layer.held, layer.edges, plan, stack, tax, price, forward_s=forward, backward_s=back
        )
        forward, back, ends_s = forward + ahead, back + behind, over + under
    else:
        more = sync.step_exposed(
            networks[key], plan, stack, tax, forward_s=copies * layers * forward,
            backward_s=copies * layers * back, micro=micro * 1.0, vpp=vpp * 1.0,
        )  # fmt: skip
        after = after + more[0] + more[1]
    once = forward + back
    padded = (count % (pp * vpp) != 0) & (pp > 1) & ((count + 2) % (pp * vpp) == 0)
    ends = np.where(alone, sum(layer.ends), max(layer.ends)) + ends_s
    adding = sync.added_s(wide, plan, stack, price)
    inner = (count + 2) / pp * once  # of the stages between the first and the last
    busiest, loss = memory.working_bytes(
        layer.busiest_bytes, layer.logits_bytes, layer.held, layer.edges, plan, stack.keeps
    )
    weights, gradients, optimizer = memory.state_bytes(wide, plan, stack.keeps)
    state = weights + gradients + optimizer + memory.bucket_bytes(wide, plan, stack.keeps)
    state = state + np.maximum(busiest, loss)
    return _Stage(
        once_s=once,
        back_s=back,
        micro_s=np.where(padded, np.maximum(inner, inner - once + ends), layers * once + ends) + adding,
        after_s=after,
        state_bytes=state + memory.RUNTIME_RATIO * setup.machine.chip.memory.capacity_bytes,
        gradients_bytes=gradients,
        work_bytes=(busiest, loss),
        layers=layers,
    )


def _whole(
    setup: Setup, plan: TrainPlan, layer: _Layer, stage: _Stage, pp: Ints, vpp: Ints, micro: Ints
) -> tuple[Floats, Floats]:
    """Seconds and bytes of the fullest rank, by recompute and pair of stages and chunks."""
    bubble = _bubble(setup, plan.schedule, layer, stage.once_s, stage.back_s, pp, vpp, micro)
    slowed = 1.0 + straggling_ratio(setup.machine.ranks, setup.clock_ratio)
    sent = layer.boundary_bytes * (pp > 1) if setup.stack.keeps.outputs else 0.0
    flying = _in_flight(setup, plan, pp, vpp, micro)
    kept = (layer.kept_bytes * stage.layers / vpp + sent) * flying
    if setup.stack.keeps.merged:  # on a rank that holds few microbatches
        merged = memory.merged_bytes(setup.model, plan, micro * 1.0) * (pp > 1)
        kept = np.maximum(kept, merged + layer.kept_bytes * stage.layers / vpp)
    one: Any = replace(plan, vpp=vpp, dp=plan.global_batch // (micro * plan.micro_batch))  # type: ignore[arg-type]
    once = memory.at_once(one, setup.stack.keeps, flying, micro * 1.0)
    size = stage.state_bytes + kept - memory.gradual(stage.gradients_bytes, kept / micro, *stage.work_bytes, once)
    return np.asarray(slowed * (micro * stage.micro_s + bubble) + stage.after_s), np.asarray(size)


def _pairs(setup: Setup, schedule: Schedule, layer: _Layer) -> bool:
    asked = schedule.startswith("dualpipe") or "expert_exchange" in setup.stack.overlap
    return asked and schedule in ("1f1b", "dualpipe", "dualpipev") and bool(np.any(np.asarray(layer.beside_s) > 0))


def _bubble(
    setup: Setup, schedule: Schedule, layer: _Layer, once: Num, back: Num, pp: Ints, vpp: Ints, micro: Ints
) -> Num:
    """Idle time of the fullest rank, less what pairs save where there are most of them: its neighbours' wait for it."""
    per = setup.model.layers / pp
    if schedule == "dualpipe":
        pair = once - layer.beside_s
        saved: Num = layer.beside_s * per * np.maximum(micro - pp - 1.0, 0.0)
        return (pp / 2.0 - 1.0) * ((pair + back - 3.0 * layer.weight_s) * per) - saved
    if schedule == "dualpipev":  # half the stages, and every chunk meets another
        pair, half = once - layer.beside_s, per / 2.0
        saved = layer.beside_s * half * np.maximum(2.0 * (micro - pp) - 1.0, 0.0)
        return (pp - 1.0) * ((pair + back - 3.0 * layer.weight_s) * half) - saved
    if schedule == "zero_bubble":
        return (pp - 1.0) * ((once - 2.0 * layer.weight_s) * per)
    if schedule in ("zb_2p", "zb_v"):  # in a V a pass of one chunk is left
        left = np.maximum(once - 3.0 * layer.weight_s, 0.0) + (once / 6.0 if schedule == "zb_v" else 0.0)
        return (pp - 1.0) * (left * per)
    if _pairs(setup, schedule, layer):
        alone = (vpp - 1.0) * pp + 1.0  # forward passes before the last rank's first pair
        saved = layer.beside_s * per / vpp * np.maximum(micro * vpp - alone, 0.0)
        return (pp - 1.0) / vpp * (once * per) - saved
    return (pp - 1.0) / vpp * (once * per)


def _in_flight(setup: Setup, plan: TrainPlan, pp: Ints, vpp: Ints, micro: Ints) -> Num:
    """``memory.in_flight`` of the first rank, for arrays."""
    most = micro * vpp * 1.0
    if plan.schedule == "gpipe":
        return most
    held = {"zero_bubble": (1, 0), "dualpipe": (1, 1), "zb_2p": (2, -1), "zb_v": (2, 0), "dualpipev": (2, 1)}
    if plan.schedule in held:
        each, more = held[plan.schedule]
        return np.asarray(np.minimum(most, each * pp + float(more)))
    ahead = "expert_exchange" in setup.stack.overlap and plan.ep > 1
    deep = (pp - 1.0) * 2 + (vpp - 1.0) * pp + 1.0
    return np.asarray(np.minimum(most, np.where((vpp == 1) & (not ahead), pp, deep)))
