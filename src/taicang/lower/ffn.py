"""Feed-forward kinds to operators of one rank: dense under tensor parallelism, experts under EP and expert TP."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from taicang.errors import InvalidPlan
from taicang.formats import number_format
from taicang.lower.attention import norm
from taicang.lower.load import Setting
from taicang.lower.product import Item, product
from taicang.lower.program import some, where_some
from taicang.models.types import Dense, Experts
from taicang.ops import Collective, Exchange, ExchangeKind, Gemm, GroupedGemm, Pointwise
from taicang.plans import ServePlan
from taicang.units import Count


def _mlp(label: str, tokens: Count, inter: float, gated: bool, setting: Setting) -> Iterator[Item]:
    hidden, dtype = setting.hidden, setting.plan.quant.dense
    wide = inter * (2 if gated else 1)
    yield from product(f"{label} up", Gemm(m=tokens, n=wide, k=hidden, dtype=dtype), setting)
    yield (
        f"{label} activation",
        Pointwise(
            kind="activation",
            elements=tokens * inter,
            moved_bytes=tokens * (wide + inter) * 2.0,
            flop=tokens * inter * 4.0,
        ),
        1,
    )
    # the kernel of the activation writes its result in the product's format
    yield from product(f"{label} down", Gemm(m=tokens, n=hidden, k=inter, dtype=dtype), setting, fused=True)


def dense(kind: Dense, setting: Setting) -> Iterator[Item]:
    """A dense layer: sharded over the attention group's ranks (over token shards under SP: whole weights)."""
    if not kind.inter:
        return  # a mixer alone
    hidden, plan, load = setting.hidden, setting.plan, setting.load
    tokens, shard = (load.tokens / plan.tp, 1) if plan.sp else (load.tokens, plan.tp)
    yield "norm", norm(tokens, hidden), 1
    yield from _mlp("feed-forward", tokens, kind.inter / shard, kind.gated, setting)
    if some(shard - 1):
        yield (
            "feed-forward all-reduce",
            Collective(kind="all_reduce", payload_bytes=tokens * hidden * 2.0, ranks=shard),
            where_some(shard - 1),
        )


def experts(kind: Experts, setting: Setting) -> Iterator[Item]:
    """A mixture-of-experts layer with the exchange that the plan needs."""
    hidden, plan, load = setting.hidden, setting.plan, setting.load
    check_experts(kind, plan)
    own = load.tokens / plan.tp if plan.sp else load.tokens
    yield "norm", norm(own, hidden), 1
    yield "router", Gemm(m=own, n=kind.experts, k=hidden, dtype="bf16"), 1
    yield "routing", Pointwise(kind="route", elements=own * kind.experts, moved_bytes=own * kind.experts * 8.0), 1
    topk, slots = kind.topk, kind.experts + plan.redundant
    if some(plan.shared_ranks):
        topk, slots = topk + 1, slots + plan.shared_ranks
    elif kind.shared_inter:
        shard = 1 if plan.sp or some(plan.dp - 1) else plan.tp
        yield from _mlp("shared expert", own, kind.shared_inter / shard, kind.gated, setting)
    yield from latent_projection("latent down-projection", kind, own, setting)
    width = kind.latent or hidden
    ranks = plan.ep * plan.moe_tp
    groups = plan.dp * (plan.tp if plan.sp else 1)
    exchanged = some(plan.dp - 1) or plan.sp
    sent = own if plan.sp else own / plan.tp
    dispatched = exchanged and _all_to_all(setting)
    if dispatched:
        yield "dispatch", _exchange("dispatch", sent, width, topk, slots, setting), 1
    elif exchanged:
        # every rank sees all tokens: gather in the dispatch format
        gathered = own * groups * width * number_format(plan.quant.dispatch).activation_bytes
        yield "tokens all-gather", Collective(kind="all_gather", payload_bytes=gathered, ranks=ranks), 1
    yield (
        "experts",
        GroupedGemm(
            tokens=own * groups,
            topk=topk,
            experts=slots,
            experts_local=slots / plan.ep,
            hidden=width,
            inter=kind.inter / plan.moe_tp,
            dtype=plan.quant.experts,
            gated=kind.gated,
            skew=setting.skew,
            balanced_ranks=some(plan.redundant),
            gathered=not dispatched,
            exchanged=bool(exchanged),
        ),
        1,
    )
    if dispatched:
        yield "combine", _exchange("combine", sent, width, topk, slots, setting), 1
    elif exchanged:
        yield (
            "tokens reduce-scatter",
            Collective(kind="reduce_scatter", payload_bytes=own * groups * width * 2.0, ranks=ranks),
            1,
        )
    elif some(ranks - 1):
        yield "experts all-reduce", Collective(kind="all_reduce", payload_bytes=own * width * 2.0, ranks=ranks), 1
    yield from latent_projection("latent up-projection", kind, own, setting)


def latent_projection(label: str, kind: Experts, tokens: Count, setting: Setting) -> Iterator[Item]:
    """The projection into (or out of) the width that routed experts work in, where they have one of their own."""
    if kind.latent:
        k, n = (setting.hidden, kind.latent) if "down" in label else (kind.latent, setting.hidden)
        yield from product(label, Gemm(m=tokens, n=n, k=k, dtype=setting.plan.quant.dense), setting)


def _all_to_all(setting: Setting) -> bool:
    """Whether tokens travel to their experts (dispatch, combine) or every rank gathers all of them."""
    if setting.plan.exchange == "auto":
        return "expert_all_to_all" in setting.stack.overlap
    return setting.plan.exchange == "all_to_all"


def _exchange(kind: ExchangeKind, sent: Count, width: int, topk: int, slots: int, setting: Setting) -> Exchange:
    plan = setting.plan
    form = number_format(plan.quant.dispatch if kind == "dispatch" else plan.quant.combine)
    return Exchange(
        kind=kind,
        tokens=np.maximum(sent, 1.0),
        token_bytes=width * form.activation_bytes,
        topk=topk,
        experts=slots,
        ranks=plan.ep * plan.moe_tp,
        skew=setting.skew,
        low_latency=not some(setting.load.prefill_tokens),
    )


def check_experts(kind: Experts, plan: ServePlan) -> None:
    """Refuse expert layouts that do not fill the stage's ranks or do not divide the experts."""
    stage = plan.tp * plan.dp
    if some(abs(plan.ep * plan.moe_tp - stage)):
        raise InvalidPlan(
            f"expert ranks ep x moe_tp = {plan.ep} x {plan.moe_tp} = {plan.ep * plan.moe_tp} "
            f"must equal attention ranks tp x dp = {plan.tp} x {plan.dp} = {stage}"
        )
    slots = kind.experts + plan.redundant + plan.shared_ranks
    if some(plan.ep - slots):
        raise InvalidPlan(f"ep={plan.ep} exceeds the {slots} expert slots by {plan.ep - slots}")
    if some(slots % plan.ep):
        raise InvalidPlan(
            f"ep={plan.ep} does not divide {slots} expert slots ({kind.experts} experts + {plan.redundant} redundant"
            f" + {plan.shared_ranks} shared): {plan.ep - slots % plan.ep} more redundant experts would fit"
        )
