"""Search the plan space: every legal layout priced by arrays, the best few priced exactly.

What a layer costs depends on few of a plan's choices (tp, cp, ep, micro batch, sequence parallelism, context): for
each of these it is lowered and priced once. Everything else (pp, vpp, recompute, schedule, ZeRO stage, and with the
machine's size dp) only scales and adds, for all combinations at once.
The pipeline is its closed form there (a test holds it against the
simulation); plans that fit the memory are ranked, and the first few are priced by ``step.train_step``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.errors import InvalidPlan
from taicang.lower.training import lower_embedding, lower_head, lower_layer
from taicang.models.types import Experts, Model
from taicang.train import memory, sync
from taicang.train.layer import LayerTime, Price, layer_time, total
from taicang.train.memory import Held
from taicang.train.setup import Setup
from taicang.train.step import TrainStep, straggling_ratio, train_step
from taicang.train_plans import Recompute, Schedule, TrainPlan
from taicang.units import Num

Floats = NDArray[np.float64]
EXACT = 12
"""Plans that are priced exactly."""
RECOMPUTES: tuple[tuple[Recompute, float], ...] = (
    ("none", 1.0),
    ("selective", 1.0),
    ("full", 0.25),
    ("full", 0.5),
    ("full", 0.75),
    ("full", 1.0),
)
SCHEDULES: tuple[Schedule, ...] = ("1f1b", "gpipe", "zero_bubble")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """All priced plans as columns; ``layout`` indexes ``layouts``, ``recompute`` and ``schedule`` their lists."""

    layouts: tuple[TrainPlan, ...]
    layout: NDArray[np.intp]
    pp: NDArray[np.intp]
    vpp: NDArray[np.intp]
    zero: NDArray[np.intp]
    recompute: NDArray[np.intp]
    schedule: NDArray[np.intp]
    seconds: Floats
    memory_bytes: Floats

    def plan(self, i: int, ranks: int) -> TrainPlan:
        """The i-th plan on ``ranks`` ranks."""
        base, pp = self.layouts[self.layout[i]], int(self.pp[i])
        mode, ratio = RECOMPUTES[self.recompute[i]]
        made: TrainPlan = replace(
            base,
            pp=pp,
            vpp=int(self.vpp[i]),
            dp=ranks // (base.tp * base.cp * pp),
            zero=int(self.zero[i]),
            recompute=mode,
            recompute_ratio=ratio,
            schedule=SCHEDULES[self.schedule[i]],
        )
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search found: exact steps, best first; the front of time against memory; how many plans there were."""

    best: tuple[TrainStep, ...]
    front: tuple[tuple[TrainPlan, float, float], ...]
    """Plan, seconds and bytes per rank of the plans that no other beats in both."""
    candidates: int
    fitting: int
    least_bytes: float
    """Of the leanest plan, whether it fits or not."""


def search(setup: Setup) -> Found:
    """The fastest plans of ``setup.model`` on all ranks of the machine.

    ``setup.plan`` gives what is not searched: global batch, sequence, recipe. ``best`` is empty where nothing fits the
    memory. Raises ``InvalidPlan`` if no layout divides machine, batch and model.
    """
    ranks = setup.machine.ranks
    found = candidates(setup)
    capacity = setup.machine.chip.memory.capacity_bytes
    fits = found.memory_bytes <= capacity
    seconds = np.where(fits, found.seconds, np.inf)
    ranked = np.argsort(seconds, kind="stable")[: int(fits.sum())]
    exact: list[TrainStep] = []
    seen: set[tuple[int, ...]] = set()
    for i in ranked[: 100 * EXACT]:
        plan = found.plan(int(i), ranks)
        shape = (plan.tp, plan.cp, plan.pp, plan.vpp, plan.ep)
        if shape in seen:  # the same layout in a slower variant
            continue
        step = train_step(replace(setup, plan=plan))
        if float(step.memory.spare_bytes) >= 0:
            exact.append(step)
            seen.add(shape)
        if len(exact) == EXACT:
            break
    front = [(found.plan(i, ranks), float(found.seconds[i]), float(found.memory_bytes[i])) for i in _front(found)]
    return Found(
        best=tuple(sorted(exact, key=lambda step: step.seconds)),
        front=tuple(front),
        candidates=found.seconds.size,
        fitting=int(fits.sum()),
        least_bytes=float(found.memory_bytes.min()),
    )


def why(best: TrainStep, other: TrainStep) -> tuple[tuple[str, float], ...]:
    """What the second plan spends more seconds on than the first, largest first."""
    lines = dict.fromkeys([*best.spent, *other.spent])
    more = [(line, other.spent.get(line, 0.0) - best.spent.get(line, 0.0)) for line in lines]
    return tuple(sorted((pair for pair in more if pair[1] > 0), key=lambda pair: -pair[1]))


def _front(found: Candidates) -> list[int]:
    order = np.lexsort((found.memory_bytes, found.seconds))
    least = np.minimum.accumulate(found.memory_bytes[order])
    first = np.concatenate([[True], found.memory_bytes[order][1:] < least[:-1]])
    return [int(i) for i in order[first]]


def _divisors(number: int, most: int) -> list[int]:
    return [d for d in range(1, min(number, most) + 1) if number % d == 0]


def layouts(setup: Setup) -> Iterator[TrainPlan]:
    """Choices that change what a layer costs."""
    base, machine, model = setup.plan, setup.machine, setup.model
    node = machine.planes["scale_up"].levels[0].ranks
    experts = max((b.ffn.experts for b in model.blocks if isinstance(b.ffn, Experts)), default=1)
    tps = [d for d in _divisors(machine.ranks, min(node, 64)) if d & (d - 1) == 0]
    cps = [d for d in _divisors(machine.ranks, 32) if d & (d - 1) == 0 and base.seq % d == 0 and base.seq // d >= 1024]
    eps = [d for d in _divisors(experts, machine.ranks) if d & (d - 1) == 0]
    for tp, cp, ep, micro in product(tps, cps, eps, (1, 2, 4, 8)):
        for sp in (True, False) if tp > 1 else (True,):
            contexts = ("ring", "all_gather", "ulysses") if cp > 1 else ("ring",)
            for context in contexts:
                yield replace(base, tp=tp, cp=cp, ep=ep, micro_batch=micro, sp=sp, context=context)  # type: ignore[arg-type]


def _shapes(plan: TrainPlan, model: Model, ranks: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pipeline stages and chunks per stage that the layers, the ranks and the batch allow."""
    pairs = []
    for pp in _divisors(ranks // (plan.tp * plan.cp), model.layers + 2):
        dp = ranks // (plan.tp * plan.cp * pp)
        micro, left = divmod(plan.global_batch, dp * plan.micro_batch)
        if left or not micro or (plan.tp * plan.cp * dp) % (plan.ep * plan.etp):
            continue
        for vpp in range(1, (model.layers + 2) // pp + 1):
            even = model.layers % (pp * vpp) == 0 or (model.layers + 2) % (pp * vpp) == 0
            if (even and (vpp == 1 or (micro % pp == 0 and pp > 1))) or (vpp == 1 and pp <= model.layers):
                pairs.append((pp, vpp))
    table = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def candidates(setup: Setup) -> Candidates:
    """Price all plans."""
    kept: list[TrainPlan] = []
    columns: list[list[Any]] = [[] for _ in range(8)]
    for layout in layouts(setup):
        pp, vpp = _shapes(layout, setup.model, setup.machine.ranks)
        if not pp.size:
            continue
        try:
            priced = _priced(setup, layout, pp, vpp)
        except InvalidPlan:
            continue
        for zero, recompute, schedule, legal, seconds, held in priced:
            count = int(legal.sum())
            mine = (len(kept), pp[legal], vpp[legal], zero, recompute, schedule, seconds[legal], held[legal])
            for column, value in zip(columns, mine, strict=True):
                column.append(np.broadcast_to(value, (count,)))
        kept.append(layout)
    if not kept:
        raise InvalidPlan("no layout divides this machine, batch and model")
    joined = [np.concatenate(column) for column in columns]
    names = ("layout", "pp", "vpp", "zero", "recompute", "schedule", "seconds", "memory_bytes")
    return Candidates(layouts=tuple(kept), **dict(zip(names, joined, strict=True)))


def _mean(setup: Setup, plan: TrainPlan, price: Price) -> tuple[dict[int, LayerTime], list[float], Held]:
    """The model's mean layer under each recompute, as one ``LayerTime`` per kind of block with its share."""
    times, shares = {}, []
    dense: Any = 0.0
    experts: Any = 0.0
    for i, block in enumerate(setup.model.blocks):
        times[i] = layer_time(lower_layer(setup.model, block, plan, setup.stack), plan, setup.stack, price)
        share = block.count / setup.model.layers
        held = memory.layer_parameters(setup.model, block, plan)
        dense, experts = dense + share * held.dense, experts + share * held.experts
        shares.append(share)
    return times, shares, Held(dense=dense, experts=experts)


def _priced(setup: Setup, layout: TrainPlan, pp: Any, vpp: Any) -> Iterator[tuple[int, int, int, Any, Any, Any]]:
    """Seconds and bytes of every combination of one layout; ``pp`` and ``vpp`` are arrays."""
    model, stack = setup.model, setup.stack
    price: Price = lambda op: setup.price(op, 1.0, 1.0)  # noqa: E731
    dp = setup.machine.ranks // (layout.tp * layout.cp * pp)
    micro = layout.global_batch // (dp * layout.micro_batch)
    times, shares, mean = _mean(setup, replace(layout, recompute="selective"), price)

    def weigh(of: Callable[[LayerTime], Num]) -> Num:
        return sum(share * of(times[i]) for i, share in enumerate(shares))

    forward, data = weigh(lambda t: total(t.forward)), weigh(lambda t: total(t.data))
    weight, core = weigh(lambda t: total(t.weight)), weigh(lambda t: total(t.again))
    everything, trimmed = weigh(lambda t: t.working_bytes), weigh(lambda t: t.saved_bytes)
    boundary = layout.micro_batch * layout.seq / layout.cp * model.hidden * 2.0 / (layout.tp if layout.sp else 1)
    edges = [layer_time(lower(model, layout), layout, stack, price) for lower in (lower_embedding, lower_head)]
    edge = [total(t.forward) + total(t.data) + total(t.weight) for t in edges]
    embedding, head = memory.edge_parameters(model, layout)
    layers = np.ceil(model.layers / pp)
    padded = (model.layers % (pp * vpp) != 0) & (pp > 1) & (vpp * pp <= model.layers + 2)
    padded = padded & ((model.layers + 2) % (pp * vpp) == 0)
    wide = Held(dense=layers * mean.dense + np.maximum(embedding, head), experts=layers * mean.experts)
    slowed = 1.0 + straggling_ratio(setup.machine.ranks, setup.clock_ratio)
    ends = np.where(pp == 1, sum(edge), max(edge))
    for zero in (0, 1, 2, 3):
        plan: Any = replace(layout, dp=dp, pp=pp, zero=zero)  # arrays in place of numbers: see sync
        network = sync.layer_network(mean, plan, price) if zero == 3 else sync.step_network(wide, plan, price)
        fixed = sync.optimizer_s(wide, plan, price) + stack.step_host_s
        busiest = everything + memory.gathered_bytes(mean, plan)
        state = sum(memory.state_bytes(wide, plan)) + np.maximum(busiest, edges[1].working_bytes)
        state = state + memory.RUNTIME_RATIO * setup.machine.chip.memory.capacity_bytes
        for r, (mode, ratio) in enumerate(RECOMPUTES):
            again = {"none": 0.0, "selective": core, "full": ratio * forward}[mode]
            saved = {"none": everything, "selective": trimmed, "full": ratio * boundary + (1 - ratio) * everything}[
                mode
            ]
            back = again + data + weight
            layer, after = forward + back, fixed
            if zero == 3:
                more = sync.layer_exposed(network, stack, setup.tax, forward_s=forward, backward_s=back)
                layer = layer + more[0] + more[1]
            else:
                more = sync.step_exposed(
                    network, zero, stack, setup.tax, forward_s=layers * forward, backward_s=layers * back, micro=micro
                )
                after = fixed + more[0] + more[1]
            inner = (model.layers + 2) / pp * layer  # of the stages between the first and the last
            stage = np.where(padded, np.maximum(inner, inner - layer + ends), layers * layer + ends)
            for s, schedule in enumerate(SCHEDULES):
                bubble = (pp - 1.0) / vpp * (layer * (model.layers / pp))
                if schedule == "zero_bubble":
                    bubble = (pp - 1.0) * ((layer - 2.0 * weight) * (model.layers / pp))
                flight = micro * vpp * 1.0
                if schedule != "gpipe":
                    flight = np.minimum(flight, np.where(vpp == 1, pp, (pp - 1.0) * 2 + (vpp - 1.0) * pp + 1.0))
                offered = schedule != "zero_bubble" or "zero_bubble" in stack.overlap
                legal = offered & ((vpp == 1) | (schedule == "1f1b"))
                legal = legal & ((pp == 1) if zero == 3 else (pp >= 1)) & ((pp > 1) | (schedule == "1f1b"))
                yield (
                    zero,
                    r,
                    s,
                    legal,
                    slowed * (micro * stage + bubble) + after,
                    state + saved * layers / vpp * flight,
                )
