"""Default choices: the plans worth pricing when the user names none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from taicang.hardware import Machine
from taicang.models.types import Experts, Model
from taicang.plans import Exchanging, Quantisation, ServePlan
from taicang.search.choices import default_stack, divides, domain, quantisation, routed
from taicang.stacks import Stack

__all__ = ["default_stack", "plans", "quantisation"]


def plans(
    model: Model, machine: Machine, stack: Stack, quant: Quantisation, phase: str, drafts: int
) -> Iterator[ServePlan]:
    """Plans of one phase that are legal for the model and the machine, without looking at memory.

    Dense models: tensor parallel inside the scale-up domain. Expert models: tensor-parallel attention with tensor or
    expert sharding, and data-parallel attention with expert parallelism over 2, 4, 8... ranks up to the machine.
    """
    experts, limit = routed(model), min(domain(machine), machine.ranks)
    draft = drafts if phase == "decode" else 0
    base = ServePlan(quant=quant, draft_tokens=draft)
    tp = 1
    while tp <= limit:
        if divides(model, tp):
            yield replace(base, tp=tp, ep=1, moe_tp=tp)
            if experts and tp > 1 and experts.experts % tp == 0:
                yield replace(base, tp=tp, ep=tp, moe_tp=1)
        tp *= 2
    if not experts:
        return
    microbatches = (1, 2) if "two_batch" in stack.overlap else (1,)
    exchanges: tuple[Exchanging, ...] = ("auto", "all_to_all") if "offers_all_to_all" in stack.overlap else ("auto",)
    for ranks in _expert_ranks(experts, machine.ranks):
        shared = ranks // 10 if ranks > experts.experts and experts.shared_inter else 0
        fill = ranks - shared - experts.experts if ranks > experts.experts else -experts.experts % ranks
        # a balancer needs replicas to work with: one spare slot on each rank
        replicas = {fill, fill + ranks} if "eplb" in stack.overlap and fill < ranks and not shared else {fill}
        for redundant, count, exchange in product(sorted(replicas), microbatches, exchanges):
            wide = replace(base, dp=ranks, ep=ranks, redundant=redundant, shared_ranks=shared)
            yield replace(wide, microbatches=count, exchange=exchange)
            if phase == "prefill" and "sp_attention" in stack.overlap and not shared and divides(model, ranks):
                yield replace(wide, tp=ranks, dp=1, sp=True, microbatches=count)


def _expert_ranks(experts: Experts, limit: int) -> list[int]:
    sizes, ranks = [], 2
    while ranks <= min(limit, experts.experts):
        sizes.append(ranks)
        ranks *= 2
    wide = experts.experts + experts.experts // 4  # one copy per rank with a tenth for the shared expert
    if wide <= limit:
        sizes.append(wide)
    return sizes
