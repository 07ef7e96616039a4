"""The stated space: every layout that the axes, the model and the machine allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from taicang.hardware import Machine
from taicang.models.types import Dense, Experts, Model, routed
from taicang.plans import Exchanging, Quantisation, ServePlan
from taicang.search.choices import divides
from taicang.stacks import Stack

AXES = ("tp", "pp", "expert_tp", "spare", "microbatches", "drafts", "chunks", "batches", "prompts")
"""Fields of a space that list values."""
BATCHES = tuple(sorted(set(np.round(np.geomspace(1, 4096, 73)).tolist())))
"""Sequences of one attention group: every whole number where steps are small, then 12 % apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Axes of a search. Legal combinations are priced exhaustively; what an axis does not list is not in the space."""

    tp: tuple[int, ...] = (1, 2, 4, 8)
    pp: tuple[int, ...] = (1, 2)
    expert_tp: tuple[int, ...] = (1, 2, 8)
    spare: tuple[int, ...] = (0, 1)
    """Redundant experts per rank beyond those that make the experts divide, where the stack balances load."""
    microbatches: tuple[int, ...] = (1, 2)
    exchanges: tuple[Exchanging, ...] = ("auto", "all_to_all")
    drafts: tuple[int, ...] = (0, 1, 2, 3)
    """Tokens drafted per decode step. A model without an MTP layer drafts none, unless the user fixes a number."""
    chunks: tuple[int, ...] = (2048, 8192)
    """Token budgets of one step of an aggregated instance."""
    batches: tuple[float, ...] = BATCHES
    prompts: tuple[float, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128)
    """Prompts that one attention group prefills together."""
    staged_drafts: bool = True
    """Whether tokens are drafted over pipeline stages, too."""
    usual: bool = False
    """With the layouts of the narrow space, whatever the axes: a search is never behind a prediction."""
    narrow: bool = False
    """Attention either all tensor- or all data-parallel, experts whole in one way: what published runs mostly use."""
    most_ranks: int | None = None
    """Ranks of the largest instance (none: the machine's)."""
    pinned: tuple[tuple[str, Any], ...] = ()
    """Fields of a layout that decodes, and what they must be."""

    def takes(self, plan: ServePlan) -> bool:
        """Whether ``plan`` is as it was pinned."""
        return all(getattr(plan, name) == value for name, value in self.pinned)

    def drafts_of(self, model: Model) -> tuple[int, ...]:
        """Draft lengths that ``model`` can run."""
        return self.drafts if model.mtp_layers or len(self.drafts) == 1 else (0,)


WIDE = Space(
    tp=(1, 2, 4, 8, 16, 32, 64),
    pp=(1, 2, 4, 8),
    expert_tp=(1, 2, 4, 8, 16, 32, 64),
    chunks=(2048, 4096, 8192, 16384),
)
"""Ten times the layouts of the standard space."""


NARROW = Space(tp=(*WIDE.tp, 128), pp=(1,), expert_tp=(*WIDE.expert_tp, 128), drafts=(0, 1), narrow=True)
"""A few dozen layouts, for a prediction without a search."""


DENSE = replace(
    WIDE,
    batches=tuple(sorted(set(np.round(np.geomspace(1, 4096, 289)).tolist()))),
    chunks=(1024, 2048, 4096, 8192, 16384),
    prompts=(*range(1, 17), 24, 32, 48, 64, 96, 128),
)
"""Dense models have few layouts; their batches, chunks and prompts are searched the finer (3 % apart)."""


def default(model: Model) -> Space:
    """The standard space of a model."""
    return replace(Space() if routed(model) else DENSE, usual=True)


def wide(model: Model) -> Space:
    """The widest space of a model, which holds all of its standard one: on no axis may it list less."""
    small = default(model)
    joined: dict[str, Any] = {axis: tuple(sorted({*getattr(WIDE, axis), *getattr(small, axis)})) for axis in AXES}
    return replace(WIDE, **joined, usual=True)


def pinned(space: Space, given: Mapping[str, Any]) -> Space:
    """``space`` with what decodes held to the fields ``given``, whose values its axes list."""
    axes = {"tp": "tp", "pp": "pp", "moe_tp": "expert_tp", "microbatches": "microbatches",
            "exchange": "exchanges"}  # fmt: skip
    listed: dict[str, Any] = {
        axis: tuple(sorted({*getattr(space, axis), given[name]})) for name, axis in axes.items() if name in given
    }
    return replace(space, **listed, pinned=tuple(given.items()))


def layouts(
    space: Space, model: Model, machine: Machine, stack: Stack, quant: Quantisation, *, prefill: bool = False
) -> Iterator[ServePlan]:
    """Legal layouts of one instance, without looking at memory; ``prefill`` adds those that only prefill knows.

    Tensor parallelism divides the heads and stays in the scale-up domain. A stage has a power of two of ranks, or an
    equal part of the machine, down to half of a scale-up domain. Experts fill the stage as ep x moe_tp; beyond one
    expert per rank a tenth of the ranks holds shared experts, as DeepSeek's and CloudMatrix's widest layouts do.
    """
    limit = min(machine.ranks, space.most_ranks or machine.ranks)
    experts, near = routed(model), machine.domain
    usual = (replace(NARROW, most_ranks=space.most_ranks),) if space.usual else ()
    yield from dict.fromkeys(plan for each in (space, *usual) for plan in _plans(each, model, machine, stack, quant))
    if prefill and experts and "sp_attention" in stack.overlap:
        parts = frozenset[int]() if space.narrow else _parts(machine.ranks, near)
        for ranks in _stages(2, limit, parts, experts):
            if divides(model, ranks) and ranks <= min(near, experts.experts):
                for redundant in _replicas(experts.experts, ranks, 0, space, stack):
                    sp = ServePlan(tp=ranks, ep=ranks, sp=True, redundant=redundant, quant=quant)
                    yield from (replace(sp, microbatches=count) for count in _microbatches(space, stack))


def _plans(space: Space, model: Model, machine: Machine, stack: Stack, quant: Quantisation) -> Iterator[ServePlan]:
    """Layouts of the axes; some come twice."""
    limit = min(machine.ranks, space.most_ranks or machine.ranks)
    experts, near = routed(model), machine.domain
    parts = frozenset[int]() if space.narrow else _parts(machine.ranks, near)
    for pp in space.pp:
        if pp > model.layers:
            continue
        for tp in space.tp:
            if tp > min(near, limit) or not divides(model, tp):
                continue
            for stage in _stages(tp, limit // pp, parts, experts):
                base = ServePlan(tp=tp, dp=stage // tp, pp=pp, quant=quant)
                made = _dense(base, model) if experts is None else _routed(base, experts, space, near, stack)
                yield from (plan for plan in made if not space.narrow or _plain(plan, experts))


def usual(
    model: Model, machine: Machine, stack: Stack, quant: Quantisation, phase: str, drafts: int
) -> Iterator[ServePlan]:
    """The narrow space of one phase; ``drafts`` tokens are drafted in decode."""
    for plan in layouts(NARROW, model, machine, stack, quant, prefill=phase == "prefill"):
        yield replace(plan, draft_tokens=drafts if phase == "decode" else 0)


def _plain(plan: ServePlan, experts: Experts | None) -> bool:
    """Whether a plan is of the narrow space."""
    stage = plan.tp * plan.dp
    if experts is None or plan.dp == 1:
        return plan.dp == 1 and 1 in (plan.ep, plan.moe_tp) and not plan.redundant
    wide = experts.experts + experts.experts // 4
    return plan.tp == 1 and plan.ep == stage and (stage <= experts.experts or stage == wide)


def _parts(ranks: int, domain: int) -> frozenset[int]:
    """Ranks of the equal parts of a machine that are whole numbers of half domains: a machine twice as large has all
    of them too, whether or not they are powers of two."""
    unit = domain // 2 if domain % 2 == 0 and ranks % domain == 0 else ranks
    halves = ranks // unit
    return frozenset(unit * n for n in range(1, halves + 1) if halves % n == 0)


def _stages(tp: int, limit: int, parts: frozenset[int], experts: Experts | None) -> list[int]:
    """Ranks of a stage of ``tp``-rank groups: powers of two, or one of ``parts``."""
    sizes = {2**i for i in range(limit.bit_length()) if 2**i <= limit} | {n for n in parts if n <= limit}
    if experts:
        sizes |= {n for n in (experts.experts + experts.experts // 4,) if n <= limit}
    return sorted(n for n in sizes if n >= tp and n % tp == 0 and (experts or n == tp))


def _dense(base: ServePlan, model: Model) -> Iterator[ServePlan]:
    if all(block.ffn.inter % base.tp == 0 for block in model.blocks if isinstance(block.ffn, Dense)):
        yield replace(base, moe_tp=base.tp)


def _routed(base: ServePlan, kind: Experts, space: Space, near: int, stack: Stack) -> Iterator[ServePlan]:
    stage = base.tp * base.dp
    exchanged = base.dp > 1
    offers = exchanged and "offers_all_to_all" in stack.overlap
    exchanges = [each for each in space.exchanges if each == "auto" or offers or ("exchange", each) in space.pinned]
    for moe_tp in space.expert_tp:
        if stage % moe_tp or kind.inter % moe_tp or moe_tp > near:
            continue
        ep = stage // moe_tp
        shared = ep // 10 if ep > kind.experts and kind.shared_inter else 0
        if ep > kind.experts and moe_tp > 1:
            continue
        for redundant in _replicas(kind.experts, ep, shared, space, stack):
            for exchange in exchanges:
                for count in _microbatches(space, stack) if exchanged else (1,):
                    yield replace(
                        base, ep=ep, moe_tp=moe_tp, redundant=redundant, shared_ranks=shared, exchange=exchange,
                        microbatches=count,
                    )  # fmt: skip


def _replicas(experts: int, ep: int, shared: int, space: Space, stack: Stack) -> list[int]:
    """Numbers of redundant experts: those that fill the ranks, and spare slots where the stack has a balancer."""
    fill = ep - shared - experts if ep > experts else -experts % ep
    several = ep > 1 and not shared and fill < ep and "eplb" in stack.overlap
    return [fill + spare * ep for spare in (space.spare if several else (0,))]


def _microbatches(space: Space, stack: Stack) -> tuple[int, ...]:
    return tuple(n for n in space.microbatches if n == 1 or "two_batch" in stack.overlap)
