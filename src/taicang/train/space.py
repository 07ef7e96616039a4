"""The plans that a search looks at: what is varied, within which bounds, and what each variation depends on.

A *layout* is what changes the cost of a layer; a *variant* what changes data parallelism; pipeline stages, chunks and
recompute only scale and add. What ``SEARCHED`` does not name is not searched: formats (they change what is learnt),
batch, sequence length, stages by hand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from taicang.errors import InvalidInput
from taicang.hardware import Machine
from taicang.models.types import Experts, Model
from taicang.train.setup import Setup
from taicang.train_plans import Context, Recompute, Schedule, TrainPlan, side_by_side

RECOMPUTES: Final[tuple[tuple[Recompute, float], ...]] = (
    ("none", 1.0),
    ("selective", 1.0),
    ("full", 0.25),
    ("full", 0.5),
    ("full", 0.75),
    ("full", 1.0),
)
"""Kinds of recompute with the share of layers that full recompute repeats (per block)."""
WHOLE: Final = ("mindspeed",)
"""Engines whose gradients and weights a search leaves whole: Megatron-LM's FSDP does not run in them."""
SEARCHED: Final = (
    "tp", "cp", "pp", "vpp", "dp", "ep", "etp", "order", "micro_batch", "sp", "context", "zero", "shard", "reshard",
    "recompute", "recompute_ratio", "schedule",
)  # fmt: skip
WIDEST_TP: Final = 64
WIDEST_CP: Final = 32
SHORTEST: Final = 1024
"""Tokens of a sequence that a context-parallel rank holds at least."""
MICRO_BATCHES: Final = (1, 2, 4, 8)
INNER_PIPELINE: Final = "tp-cp-ep-pp-dp"
"""Pipeline neighbours close to each other, data parallelism across the outermost level."""
OUTER_TENSOR: Final = "cp-tp-ep-dp-pp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """How data parallelism shards and where it lies, and which schedules go with it."""

    zero: int
    shard: int
    reshard: bool
    order: str
    schedules: tuple[Schedule, ...]


def fixed_fields(plan: TrainPlan, pinned: Collection[str]) -> dict[str, Any]:
    """Fields of ``plan`` that a search must keep. ``InvalidInput`` for one that a search cannot deal with."""
    if "stages" in pinned and plan.stages:
        raise InvalidInput("a search deals the layers itself: leave --stages out, or --search")
    if plan.local_batch:
        raise InvalidInput("a search runs its pipelines once a step: leave --local-batch out, or --search")
    return {name: getattr(plan, name) for name in SEARCHED if name in pinned}


def open_plan(plan: TrainPlan, pinned: Collection[str]) -> TrainPlan:
    """``plan`` with everything that is searched at its plainest."""
    fixed_fields(plan, pinned)
    plain = TrainPlan(dp=0)
    return replace(plan, **{name: getattr(plain, name) for name in SEARCHED})


def _divisors(number: int, most: int) -> list[int]:
    return [d for d in range(1, min(number, most) + 1) if number % d == 0]


def _powers(number: int, most: int) -> list[int]:
    return [d for d in _divisors(number, most) if d & (d - 1) == 0]


def scale_up_ranks(machine: Machine) -> int:
    """Ranks inside one scale-up domain (a node, or a whole supernode)."""
    levels = machine.plane("scale_up").levels
    inside = [level.ranks for level in levels if level.name != "scale_out"]
    return inside[-1] if inside else levels[0].ranks


def layouts(setup: Setup, fixed: Mapping[str, Any]) -> list[TrainPlan]:
    """Choices that change what a layer costs."""
    base, machine = setup.plan, setup.machine
    experts = max((b.ffn.experts for b in setup.model.blocks if isinstance(b.ffn, Experts)), default=1)
    levels = machine.plane("scale_up").levels

    def choices(name: str, values: list[Any]) -> list[Any]:
        return [fixed[name]] if name in fixed else values

    tps = choices("tp", _powers(machine.ranks, min(scale_up_ranks(machine), WIDEST_TP)))
    cps = [d for d in _powers(machine.ranks, WIDEST_CP) if base.seq % d == 0 and base.seq // d >= SHORTEST]
    eps = choices("ep", _powers(experts, machine.ranks))
    micros = choices("micro_batch", list(MICRO_BATCHES))
    made = []
    for tp, cp, ep, micro in product(tps, choices("cp", cps or [1]), eps, micros):
        contexts: list[Context] = ["ring", "all_gather", "ulysses"] if cp > 1 else ["ring"]
        # the order of two axes matters only where they do not both fit the innermost level
        apart = tp > 1 and cp > 1 and len(levels) > 1 and tp * cp > levels[0].ranks
        orders = [base.order, OUTER_TENSOR] if apart else [base.order]
        for sp, context, etp, order in product(
            choices("sp", [True, False] if tp > 1 else [True]),
            choices("context", contexts),
            choices("etp", [tp] if setup.stack.experts_sharded else [1, tp] if ep > 1 and tp > 1 else [1]),
            [order for order in orders if fixed.get("order", order) in (order, INNER_PIPELINE)]
            or [str(fixed["order"])],
        ):
            made.append(
                replace(base, tp=tp, cp=cp, ep=ep, etp=etp, micro_batch=micro, sp=sp, context=context, order=order)
            )
    return made


def shapes(
    plan: TrainPlan, model: Model, ranks: int, fixed: Mapping[str, Any]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pipeline stages and chunks per stage that the layers, the ranks and the batch allow."""
    pairs = []
    inner = plan.tp * plan.cp
    for pp in _divisors(ranks // inner, model.layers + 2) if ranks % inner == 0 else []:
        dp = ranks // (inner * pp)
        micro, left = divmod(plan.global_batch, dp * plan.micro_batch)
        if left or not micro or (inner * dp) % (plan.ep * plan.etp):
            continue
        if fixed.get("pp", pp) != pp or fixed.get("dp", dp) != dp:
            continue
        for vpp in range(1, (model.layers + 2) // pp + 1):
            even = model.layers % (pp * vpp) == 0 or (model.layers + 2) % (pp * vpp) == 0
            legal = (even and (vpp == 1 or (micro % pp == 0 and pp > 1))) or (vpp == 1 and pp <= model.layers)
            if legal and fixed.get("vpp", vpp) == vpp:
                pairs.append((pp, vpp))
    table = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def variants(setup: Setup, layout: TrainPlan, fixed: Mapping[str, Any]) -> Iterator[Variant]:
    """Ways to shard and place data parallelism."""
    plain: tuple[Schedule, ...] = ("1f1b", "gpipe")

    def offered(more: tuple[Schedule, ...]) -> tuple[Schedule, ...]:
        return tuple(one for one in more if one in setup.stack.overlap or fixed.get("schedule") == one)

    plain += offered(("zero_bubble", "zb_2p"))
    waves = offered(("zb_v", "dualpipev"))  # both ends of the model on one rank
    dual = "dualpipe" in setup.stack.overlap or fixed.get("schedule") == "dualpipe"
    machine = setup.machine
    domain = max(scale_up_ranks(machine) // layout.tp, 1)
    replicas = machine.ranks // layout.tp  # without a pipeline
    groups = (0, domain) if 1 < domain < replicas and replicas % domain == 0 and side_by_side(layout.order) else (0,)
    levels = machine.plane("scale_up").levels
    wide, dense = layout.ep * layout.etp, layout.tp * layout.cp
    swappable = len(levels) > 1 and layout.order == setup.plan.order and (wide in (1, dense))
    made = [
        Variant(zero=zero, shard=fixed.get("shard", 0), reshard=True, order=order, schedules=schedules)
        for schedules in ((plain, waves) if waves else (plain,))
        for order in ((layout.order, INNER_PIPELINE) if swappable else (layout.order,))
        for zero in (0, 1, 2)
    ]
    made += [
        Variant(zero=3, shard=shard, reshard=reshard, order=layout.order, schedules=("1f1b",))
        for shard in ((fixed["shard"],) if "shard" in fixed else groups)
        for reshard in (True, False)
    ]
    if dual:
        made += [
            Variant(zero=zero, shard=fixed.get("shard", 0), reshard=True, order=layout.order, schedules=("dualpipe",))
            for zero in (1, 2)
        ]
    for one in made:
        if one.shard and not side_by_side(one.order):
            continue  # no one group that shards could divide
        if one.zero > 1 and setup.stack.engine in WHOLE and "zero" not in fixed:
            continue
        if all(getattr(one, name) == fixed.get(name, getattr(one, name)) for name in ("zero", "reshard", "order")):
            yield one


def recomputes(fixed: Mapping[str, Any]) -> tuple[tuple[Recompute, float], ...]:
    """Kinds of recompute that are looked at."""
    if "recompute" not in fixed:
        return RECOMPUTES
    ratio = fixed.get("recompute_ratio")
    if fixed["recompute"] == "full" and ratio is not None:
        return (("full", ratio),)
    return tuple(one for one in RECOMPUTES if one[0] == fixed["recompute"])
