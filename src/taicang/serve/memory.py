"""Device memory of one rank of a serving instance, by what fills it.

One rank's share of a model is itself a model: fewer heads, narrower layers, fewer experts. Counting that model's
parameters and cache gives the rank's bytes without a second set of formulas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, floor, inf
from typing import Any, cast

import numpy as np

from taicang.errors import InvalidInput
from taicang.formats import number_format
from taicang.hardware import Chip
from taicang.lower.program import some
from taicang.models.count import Parameters, kv_cache_bytes, parameters
from taicang.models.types import (
    Attention,
    Compressed,
    Dense,
    FeedForward,
    GatedLinear,
    GroupedQuery,
    Latent,
    Model,
    ShortConv,
    StateSpace,
    routed,
)
from taicang.plans import ServePlan
from taicang.serve.layout import logged_tokens, sequence_bytes
from taicang.serve.peak import activation_peak
from taicang.serve.setup import Setup
from taicang.stacks import WIDE, Headroom
from taicang.units import Count, Num, show

TOWER_BYTES = 12 * 24 * 1024**2 * 2.0
"""Of ViT-L/14 in 16 bits: four products of the width in attention and, the inner width being four times as large, eight
in the feed-forward, of 24 layers."""
SEGMENT_BYTES = (2.0 * 1024**2, 10.0 * 1024**2)
"""Device memory comes in multiples of the first for tensors from the second on (PyTorch's caching allocator)."""
CAPTURED_BYTES = (2.0 * 1024**2, 3.0 * 1024**2)
"""What SGLang keeps for a sequence of the largest captured graph, and for one of an attention group, which is half as
much again in graphs of more than ``LARGE_GRAPH`` (server_args.py)."""
LARGE_GRAPH = 300
LOW_LATENCY_TOKENS = 512
"""Tokens per rank up to which exchanges keep worst-case buffers."""
MOST_RATIO = 0.98
"""Largest share of a device that people give an engine by hand (assumed: below the whole by what contexts take)."""
PAGE = 16
"""Tokens of a page of cache, as most engines have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Bytes of the fullest rank."""

    attention_bytes: float
    dense_bytes: float
    experts_bytes: float
    shared_bytes: float
    embedding_bytes: float
    draft_bytes: Num
    cache_bytes: Num
    activation_bytes: Num
    exchange_bytes: Num
    """Static buffers of expert dispatch and combine."""
    runtime_bytes: Num
    """Driver context, kernels, communication buffers."""
    withheld_bytes: Num
    """What the engine leaves to graphs and fragments, or to nothing."""
    capacity_bytes: float

    @property
    def weights_bytes(self) -> Num:
        """All weights."""
        return (
            self.attention_bytes
            + self.dense_bytes
            + self.experts_bytes
            + self.shared_bytes
            + self.embedding_bytes
            + self.draft_bytes
        )

    @property
    def total_bytes(self) -> Num:
        """Everything."""
        return self.weights_bytes + self.rest_bytes + self.cache_bytes + self.withheld_bytes

    @property
    def rest_bytes(self) -> Num:
        """What is neither weights nor cache nor withheld."""
        return self.runtime_bytes + self.activation_bytes + self.exchange_bytes

    @property
    def spare_bytes(self) -> Num:
        """Capacity left (negative: by how much it does not fit)."""
        return self.capacity_bytes - self.total_bytes


def rank_model(model: Model, plan: ServePlan) -> Model:
    """``model`` as the fullest rank of the first pipeline stage holds it."""
    blocks = tuple(
        replace(
            block,
            attention=_shard(block.attention, 1 if plan.sp else plan.tp),
            ffn=_ffn(block.ffn, plan),
            count=_whole(block.count / plan.pp),
        )
        for block in model.blocks
    )
    return replace(model, blocks=blocks, vocab=_whole(model.vocab / (1 if plan.sp else plan.tp)))


def _shard(kind: Attention, tp: Any) -> Attention:
    if isinstance(kind, GroupedQuery):
        return replace(kind, heads=_whole(kind.heads / tp), kv_heads=_some_of(kind.kv_heads // tp))
    if isinstance(kind, GatedLinear):
        return replace(kind, k_heads=_some_of(kind.k_heads // tp), v_heads=_some_of(kind.v_heads // tp))
    if isinstance(kind, Compressed):  # groups of heads are shared out, and copied where there are more ranks
        return replace(kind, heads=_whole(kind.heads / tp), o_groups=_some_of(kind.o_groups // tp))
    if isinstance(kind, ShortConv):
        return replace(kind, width=_whole(kind.width / tp))
    if isinstance(kind, StateSpace):
        return replace(kind, heads=_whole(kind.heads / tp), groups=_some_of(kind.groups // tp))
    return replace(kind, heads=_whole(kind.heads / tp))


def _ffn(kind: FeedForward, plan: ServePlan) -> FeedForward:
    shard = 1 if plan.sp else plan.tp
    if isinstance(kind, Dense):
        return replace(kind, inter=_whole(kind.inter / shard))
    held = _whole((kind.experts + plan.redundant + plan.shared_ranks) / plan.ep)
    shared = 0 if some(plan.shared_ranks) else _whole(kind.shared_inter / (1 if some(plan.dp - 1) else shard))
    return replace(kind, experts=held, inter=_whole(kind.inter / plan.moe_tp), shared_inter=shared)


def _whole(share: Count) -> Any:
    """Rounded up: the fullest rank's share."""
    return np.ceil(share)


def _some_of(share: Count) -> Any:
    """Replicated where there are more ranks than heads: no rank holds less than one."""
    return np.maximum(share, 1.0)


def memory_use(
    model: Model, plan: ServePlan, chip: Chip, head: Headroom, *, sequences: Count, context: Count, tokens: Count
) -> MemoryUse:
    """Memory of one rank with ``sequences`` sequences of ``context`` tokens in its group and ``tokens`` in a step.

    ``head`` says how the engine divides it: what it keeps from weights and cache is withheld.
    """
    mine = rank_model(model, plan)
    counted = parameters(mine)
    quant = plan.quant
    attention = number_format(quant.attention).weight_bytes
    dense = number_format(quant.dense).weight_bytes
    experts = number_format(quant.experts).weight_bytes
    one = _one_layer(mine)
    spared = _spared(mine, plan)
    shard = 1 if plan.sp else plan.tp
    ranks = np.asarray(plan.ranks)
    several: Any = np.where(ranks > 2, 1.0, np.where(ranks > 1, head.pair_ratio, 0.0)) * head.group_bytes
    rounded = _rounded(mine, plan, apart=head.base == "device")
    use = MemoryUse(
        attention_bytes=counted.attention * attention
        + counted.norm * 2.0
        + spared["attention"]
        + _kept(mine)
        + rounded["attention"],
        dense_bytes=counted.dense * dense + spared["dense"] + rounded["dense"],
        experts_bytes=counted.experts * experts * _padding(mine, quant.experts, head)
        + counted.router * 4.0
        + spared["experts"]
        + rounded["experts"],
        shared_bytes=counted.shared * dense,
        embedding_bytes=(counted.embedding + counted.head) * 2.0 + model.tower_ratio * TOWER_BYTES / shard,
        draft_bytes=(one.attention * attention + one.dense * dense + one.experts * experts + one.shared * dense)
        * np.minimum(plan.draft_tokens, max(model.mtp_layers, 1)),
        cache_bytes=sequences * sequence_bytes(model, mine, plan, head, context) / (plan.tp if plan.sp else 1),
        activation_bytes=activation_peak(model, mine, plan, head, tokens),
        exchange_bytes=_exchange(model, plan, tokens / shard),
        runtime_bytes=head.context_bytes + head.graph_bytes + several,
        withheld_bytes=0.0,
        capacity_bytes=chip.memory.capacity_bytes,
    )
    return replace(use, withheld_bytes=_withheld(use, plan, head, tokens))


def engine_share(head: Headroom, plan: ServePlan, capacity_bytes: float, tokens: Count) -> Num:
    """Share of device memory that the engine is given, or takes by itself for steps of ``tokens``, as it counts it."""
    ranks, groups = np.asarray(plan.ranks), np.asarray(plan.dp)
    captured: Any = np.where(ranks / plan.pp >= WIDE, head.captured_wide, head.captured)
    each, more = captured * np.where(groups > 1, groups, 0.0), np.where(captured > LARGE_GRAPH, 1.5, 1.0)
    reserve: Any = head.reserve_bytes + head.reserve_token_bytes * np.maximum(tokens, head.reserve_tokens)
    reserve = reserve + head.reserve_rank_bytes * ranks + head.reserve_prompt_bytes
    reserve = reserve + captured * CAPTURED_BYTES[0] + each * CAPTURED_BYTES[1] * more
    reserve = np.maximum(reserve + np.where(groups > 1, head.reserve_shared_bytes, 0.0), head.reserve_least_bytes)
    reserve = reserve + np.where(np.asarray(plan.draft_tokens) > 0, head.reserve_draft_bytes, 0.0)
    if head.usable_ratio is not None:  # given, it is taken as it is
        return head.usable_ratio
    return cast(Num, (1.0 - reserve / capacity_bytes) * head.shrunk_ratio)


def _withheld(use: MemoryUse, plan: ServePlan, head: Headroom, tokens: Count) -> Num:
    """What the engine keeps from weights and cache, beyond what activations and the runtime take of it."""
    whole, ratio = use.capacity_bytes, engine_share(head, plan, use.capacity_bytes, tokens)
    if head.base == "device":
        kept: Any = (1.0 - ratio) * whole
    elif head.base == "static":
        kept = (1.0 - ratio) * (whole - use.runtime_bytes)
        kept = np.maximum(kept - use.activation_bytes - use.exchange_bytes, 0.0)
    else:
        kept = (1.0 - ratio) * np.maximum(whole - use.weights_bytes - use.rest_bytes, 0.0)
    return cast(Num, kept)


def _spared(mine: Model, plan: ServePlan) -> dict[str, Any]:
    """Bytes that layers left in bf16 take beyond the format of their class."""
    extra: dict[str, Any] = dict.fromkeys(("attention", "dense", "experts"), 0.0)
    for block in mine.blocks if plan.quant.spares else ():
        counted = parameters(replace(mine, blocks=(block,), mtp_layers=0))
        for kind in block.plain:
            width = 2.0 - number_format(getattr(plan.quant, kind)).weight_bytes
            extra[kind] = extra[kind] + getattr(counted, kind) * width
    return extra


def _rounded(mine: Model, plan: ServePlan, *, apart: bool) -> dict[str, Any]:
    """Bytes by which device memory in whole segments exceeds the matrices in it, as engines join them.

    ``apart``: the engine counts tensors, whose segments lend what is left of them from half a step on to others.
    """
    step, least = SEGMENT_BYTES
    lost: dict[str, Any] = dict.fromkeys(("attention", "dense", "experts"), 0.0)
    for block in mine.blocks:
        for kind, elements in _matrices(block.attention, block.ffn, mine.hidden):
            width = 2.0 if kind in block.plain else _element_bytes(getattr(plan.quant, kind))
            size: Any = np.asarray(elements * width)
            over = -size % step
            counts = (size >= least) & (over <= step / 2) if apart else size >= least
            lost[kind] = lost[kind] + np.where(counts, over, 0.0) * block.own
    return lost


def _element_bytes(form: str) -> float:
    """Of one weight without its scales, which are tensors of their own."""
    return float(2.0 ** np.floor(np.log2(number_format(form).weight_bytes)))


def _matrices(kind: Attention, ffn: FeedForward, hidden: Count) -> Iterator[tuple[str, Any]]:
    """Class and elements of a layer's large matrices: queries, keys and values are one, so are gates and inputs."""
    if isinstance(kind, GroupedQuery):
        values = kind.v_head_dim or kind.head_dim
        queries = kind.heads * kind.head_dim * (1 + kind.output_gate)
        keys = 0 if kind.reused else kind.kv_heads * (kind.head_dim + values * (not kind.values_are_keys))
        yield "attention", (kind.in_width or hidden) * (queries + keys)
        yield "attention", hidden * kind.heads * values
    elif isinstance(kind, Latent):
        wide = kind.heads * (kind.nope_dim + kind.rope_dim)
        yield "attention", hidden * ((kind.q_lora or wide) + kind.kv_lora + kind.rope_dim)
        yield "attention", (kind.q_lora or 0) * wide
        yield "attention", kind.kv_lora * kind.heads * (kind.nope_dim + kind.v_dim)
        yield "attention", hidden * kind.heads * kind.v_dim
    number, where = (1, "dense") if isinstance(ffn, Dense) else (ffn.experts, "experts")
    yield where, number * ffn.inter * hidden * (1 + ffn.gated)
    yield where, number * ffn.inter * hidden


def _kept(mine: Model) -> Any:
    """Bytes that engines make of weights when they load them, and keep: latent attention's products with the latent
    dimension, in 16 bits, and the angles of every position."""
    made: Any = 0.0
    turned = 0
    for block in mine.blocks:
        kind = block.attention
        if isinstance(kind, Latent):
            made = made + kind.heads * (kind.nope_dim + kind.v_dim) * kind.kv_lora * 2.0 * block.own
        if isinstance(kind, GroupedQuery | Latent):
            turned = max(turned, kind.head_dim if isinstance(kind, GroupedQuery) else kind.rope_dim)
    return made + (0.0 if mine.position_embeddings else mine.max_context * turned * 2.0)


def _padding(mine: Model, form: str, head: Headroom) -> Any:
    """Expert kernels of 4-bit floats take whole tiles: what their weights grow to."""
    kind = routed(mine)
    if kind is None or not form.startswith("mxfp4"):
        return 1.0
    wide, inner = head.hidden_tile, head.inner_tile
    return np.ceil(mine.hidden / wide) * wide / mine.hidden * (np.ceil(kind.inter / inner) * inner / kind.inter)


def _one_layer(mine: Model) -> Parameters:
    last = replace(mine.blocks[-1], count=1)
    return parameters(replace(mine, blocks=(last,), mtp_layers=0))


def _exchange(model: Model, plan: ServePlan, tokens: Count) -> Num:
    """Pre-allocated receive slots of every peer, double-buffered as CloudMatrix-Infer does: ranks x tokens x slot."""
    kind = routed(model)
    if kind is None or not some(plan.dp - 1):
        return tokens * 0.0
    slots = np.minimum(kind.topk, _whole((kind.experts + plan.redundant + plan.shared_ranks) / plan.ep))
    send = number_format(plan.quant.dispatch).activation_bytes + number_format(plan.quant.combine).activation_bytes
    # worst case is one slot per peer and token; throughput kernels (prefill) size buffers to the copies instead
    worst = plan.ep * tokens * slots * model.hidden * send
    exact = 2.0 * tokens * kind.topk * model.hidden * send
    return np.where(np.asarray(tokens) <= LOW_LATENCY_TOKENS, worst, exact) * 1.0


def in_pages(tokens: float, page: int = PAGE) -> float:
    """Tokens for which a sequence of ``tokens`` takes pages."""
    return float(max(ceil(tokens / page), 1) * page)


def cache_room(setup: Setup, *, tokens: float, context: float) -> tuple[float, float]:
    """Bytes of cache that fit on a rank beside a step of ``tokens`` (negative: short of them), and those of a sequence
    of ``context`` tokens."""
    use = memory_use(
        setup.model, setup.plan, setup.machine.chip, setup.stack.memory, sequences=1.0, context=context, tokens=tokens
    )
    each = float(use.cache_bytes)
    return float(use.spare_bytes) + each, each


def room_tokens(setup: Setup, *, tokens: float, context: float) -> float:
    """Tokens of an attention group's cache as its engine counts them, for requests of up to ``context`` tokens."""
    spare, _ = cache_room(setup, tokens=tokens, context=context)
    plan, mine = setup.plan, rank_model(setup.model, setup.plan)
    whole = max(spare, 0.0) * (plan.tp if plan.sp else 1)
    return logged_tokens(
        setup.model, mine, plan, setup.stack.memory, spare=whole, context=context, chunk=setup.stack.chunk_tokens
    )


def state_room(setup: Setup, *, tokens: float) -> float:
    """Sequences of an attention group whose recurrent states fit the memory that the engine sets apart for these
    (without limit where it does not, or the model has none). ``tokens`` run in a step; drafts keep states of theirs."""
    head, plan = setup.stack.memory, setup.plan
    each = float(kv_cache_bytes(rank_model(setup.model, plan), 0.0, plan.quant.kv))
    if not head.state_ratio or not each:
        return inf
    spare, _ = cache_room(setup, tokens=tokens, context=1.0)
    kept = head.state_copies + (plan.query_len if plan.draft_tokens else 0.0)
    return max(floor(max(spare, 0.0) * head.state_ratio / (1.0 + head.state_ratio) / each / kept), 1)


def cache_tokens(setup: Setup, *, tokens: float, context: float, whole: float = 1.0) -> float:
    """Tokens of cache that fit in one attention group, for sequences of about ``context`` tokens.

    ``tokens`` run in a step. Raises ``InvalidInput`` where there is no room for one sequence of ``whole`` tokens.
    """
    spare, each = cache_room(setup, tokens=tokens, context=context)
    if spare * context < each * whole:
        raise InvalidInput(
            f"{setup.model.name} does not fit on {setup.plan.ranks} ranks of {setup.machine.name}: "
            f"{show(each * whole / context - spare, 'B')} short per rank"
        )
    return spare / each * context
