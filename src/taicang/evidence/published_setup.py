"""Setups of published rows by rule: stack of the epoch, number formats, layout."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from taicang import catalog
from taicang.catalog.rules import settings
from taicang.cost.skew import SKEW
from taicang.errors import NotModelled
from taicang.evidence.published import RULES, Published
from taicang.evidence.served import quantisation
from taicang.evidence.systems import machine_for
from taicang.models.types import Experts, Model, routed
from taicang.plans import Quantisation, ServePlan
from taicang.search.door import Run, job_of
from taicang.serve.setup import Setup
from taicang.stacks import Stack

EPLB_EXPERTS = 32
"""Redundant experts that wide expert parallelism places by default (SGLang's and DeepSeek's published deployments)."""
WIDE = 32
"""Expert ranks from which a deployment counts as wide."""
DRAFT_ACCEPTANCE_RATIO = 0.85
"""Chance that DeepSeek's own draft token is accepted: 85 to 90 % for the second token (DeepSeek-V3 report)."""


def stack_of(row: Published) -> Stack:
    """The stack that a row ran on."""
    return catalog.stack(row.of_source["stack"])


def formats(row: Published, net: Model, stack: Stack) -> Quantisation:
    """Formats by the row's dtype: attention may be named apart ("FP8+BF16attn"), the cache too ("+FP8KV")."""
    said = settings(RULES, "dtypes", {"dtype": row.dtype.lower()})
    if "mode" not in said:
        raise NotModelled(f"number format {row.dtype}")
    return replace(quantisation(net, said.pop("mode"), stack, row.machine), **said)


def layout(row: Published, net: Model) -> ServePlan:
    """The plan that ``par`` states; ``NotModelled`` where it leaves the layout open."""
    par = row.par
    experts = routed(net)
    if experts and row.source.startswith("trtllm"):
        # its benchmark runs every expert model with attention data parallelism (performance overview, "MoE models")
        ranks = max(int(par.get(key, 1)) for key in ("tp", "dp_attn", "ep"))
        return ServePlan(dp=ranks, ep=ranks)
    tp, ep, dp = int(par.get("tp", 1)), int(par.get("ep", 1)), int(par.get("dp", 1))
    pp = int(par.get("pp", 1)) if str(par.get("pp", 1)).isdigit() else 1
    if row.phase in ("prefill", "decode", "prefill-only") and ep > 1:
        return ServePlan(dp=ep // tp, tp=tp, ep=ep, redundant=_redundant(row, experts, ep))
    if ep > 1 and "tp" in par:  # one group of ranks that shards attention by heads and experts whole
        ranks = max(tp, ep)
        return ServePlan(tp=ranks, ep=ep, moe_tp=ranks // ep)
    if not any(key in par for key in ("tp", "ep", "pp")):
        raise NotModelled("the source does not say how the model was laid out")
    return ServePlan(tp=tp, pp=pp, dp=dp, moe_tp=tp * dp)


def _redundant(row: Published, experts: Experts | None, ep: int) -> int:
    if experts is None:
        raise NotModelled(f"expert parallelism of {row.model}, which has no experts")
    wanted = int(row.par.get("redundant_experts", EPLB_EXPERTS if ep >= WIDE and not row.balanced else 0))
    return wanted + (-(experts.experts + wanted)) % ep


def drafted(row: Published, plan: ServePlan) -> ServePlan:
    """``plan`` with the row's multi-token prediction."""
    drafts = row.par.get("mtp", 0)
    if isinstance(drafts, str):
        raise NotModelled(f"multi-token prediction of unstated depth ({drafts})")
    if not drafts:
        return plan
    depth = int(drafts)
    chance = DRAFT_ACCEPTANCE_RATIO
    if row.accepted is not None:
        low, high = 0.0, 1.0
        for _ in range(40):  # tokens_per_step grows with the chance
            chance = (low + high) / 2
            gained = sum(chance**i for i in range(depth + 1))
            low, high = (chance, high) if gained < row.accepted else (low, chance)
    return replace(plan, draft_tokens=depth, acceptance_ratio=chance)


def make(row: Published, plan: ServePlan, net: Model, stack: Stack) -> Setup:
    """The setup of a row under ``plan``."""
    full = replace(plan, quant=formats(row, net, stack))
    run = Run(
        model=net, on=machine_for(row.machine, plan.ranks), stack=stack, plan=full,
        acceptance_ratio=plan.acceptance_ratio, skew=0.0 if row.balanced else SKEW,
    )  # fmt: skip
    return job_of(run).setup(full)


def setups(row: Published, given: Stack | None = None) -> list[Setup]:
    """Setups that answer for a row: one, or those with and without two-batch overlap where the source is silent."""
    net, stack = row.net, given or stack_of(row)
    plan = drafted(row, layout(row, net))
    wide = row.phase in ("prefill", "decode", "prefill-only") and plan.dp > 1
    if wide:
        # such deployments bring the best known kernels (DeepGEMM, FlashMLA, DeepEP), not the engine's own
        plan, stack = replace(plan, exchange="all_to_all"), replace(stack, kernel_ratio=MappingProxyType({}))
    overlap = row.par.get("tbo", row.par.get("dbo"))
    counts = (1, 2) if wide and overlap is None else (2,) if overlap else (1,)
    return [make(row, replace(plan, microbatches=count), net, stack) for count in counts]
