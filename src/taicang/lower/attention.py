"""Attention kinds to operators of one tensor-parallel rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from taicang.errors import NotModelled
from taicang.formats import number_format
from taicang.lower.delta_rule import gated_linear
from taicang.lower.load import Load, Setting, decode_reach, prefill_reach
from taicang.lower.product import Item, product, split_heads
from taicang.lower.program import at_least_one, some, where_some
from taicang.lower.state_space import state_space
from taicang.models.types import (
    Attention,
    Compressed,
    GatedLinear,
    GroupedQuery,
    Indexer,
    Latent,
    ShortConv,
    StateSpace,
)
from taicang.ops import Attend, Collective, Gemm, Pointwise
from taicang.units import Count, Num


def attention(kind: Attention, setting: Setting) -> Iterator[Item]:
    """Operators from the input norm to the output projection's reduction."""
    hidden, plan, load, stack = setting.hidden, setting.plan, setting.load, setting.stack
    if not ("mla_prolog" in stack.fused and isinstance(kind, Latent)):
        yield "norm", norm(load.tokens, hidden), 1
    if isinstance(kind, GroupedQuery):
        yield from _grouped(kind, setting)
    elif isinstance(kind, Latent):
        yield from _latent(kind, setting)
    elif isinstance(kind, GatedLinear):
        yield from gated_linear(kind, setting)
    elif isinstance(kind, StateSpace):
        yield from state_space(kind, setting)
    elif isinstance(kind, Compressed):
        yield from _compressed(kind, setting)
    elif isinstance(kind, ShortConv):
        yield from _short_conv(kind, setting)
    else:
        raise NotModelled(f"attention kind {type(kind).__name__}")
    if some(plan.tp - 1) and not plan.sp:
        yield (
            "attention all-reduce",
            Collective(kind="all_reduce", payload_bytes=load.tokens * hidden * 2.0, ranks=plan.tp),
            where_some(plan.tp - 1),
        )


def norm(tokens: Count, width: int) -> Pointwise:
    """Residual add and normalisation in one pass: read two streams, write two."""
    return Pointwise(kind="norm", elements=tokens * width, moved_bytes=tokens * width * 8.0, flop=tokens * width * 6.0)


def _core(
    load: Load, limit: int | None, build: dict[str, object], prefill: dict[str, object], ratio: int = 1
) -> Iterator[Item]:
    """The core over at most ``limit`` tokens; with a ``ratio``, over entries that stand for so many tokens each."""
    batch = load.batch
    if some(load.prefill_tokens):
        reach = prefill_reach(batch, limit)
        yield (
            "attention core (prefill)",
            Attend(
                phase="prefill",
                sequences=at_least_one(batch.prefill_sequences),
                queries=at_least_one(batch.prefill_tokens),
                pairs=at_least_one(reach.pairs / ratio),
                context=at_least_one(reach.context / ratio),
                **prefill,  # type: ignore[arg-type]
            ),
            where_some(load.prefill_tokens),
        )
    if not (load.joint and build["kind"] == "gqa" and some(load.prefill_tokens)):
        yield from _decode_core(load, limit, build, ratio)
        return
    mixed = where_some(load.prefill_tokens)
    for label, op, times in _decode_core(load, limit, build, ratio):
        assert isinstance(op, Attend)
        yield label, op, times * (1.0 - mixed)
        yield label, replace(op, phase="beside"), times * mixed


def _decode_core(load: Load, limit: int | None, build: dict[str, object], ratio: int = 1) -> Iterator[Item]:
    batch = load.batch
    if some(load.decode_tokens):
        reach = decode_reach(batch, load.query_len, limit)
        yield (
            "attention core",
            Attend(
                phase="decode",
                sequences=at_least_one(batch.decode_sequences),
                queries=at_least_one(load.decode_tokens),
                pairs=at_least_one(reach.pairs / ratio),
                context=at_least_one(reach.context / ratio),
                **build,  # type: ignore[arg-type]
            ),
            where_some(load.decode_tokens),
        )


def _grouped(kind: GroupedQuery, setting: Setting) -> Iterator[Item]:
    hidden, plan, load, stack = setting.hidden, setting.plan, setting.load, setting.stack
    heads = split_heads(kind.heads, plan.tp, "query heads")
    kv_heads = at_least_one(kind.kv_heads // plan.tp)
    v_dim = kind.v_head_dim or kind.head_dim
    quant = plan.quant
    gate = heads * kind.head_dim if kind.output_gate else heads if kind.head_gate else 0
    width = heads * kind.head_dim + (0 if kind.reused else kv_heads * (kind.head_dim + v_dim))
    made = width + gate - (kv_heads * v_dim if kind.values_are_keys and not kind.reused else 0)
    if kind.q_lora:
        raised = Gemm(m=load.tokens, n=heads * kind.head_dim, k=kind.q_lora, dtype=quant.attention)
        made = made - heads * kind.head_dim + kind.q_lora
    yield from product(
        "qkv projection", Gemm(m=load.tokens, n=made, k=kind.in_width or hidden, dtype=quant.attention), setting
    )
    if kind.q_lora:
        yield "latent norm", norm(load.tokens, kind.q_lora), 1
        yield from product("query up-projection", raised, setting)
    moved = load.tokens * width * 4.0
    passes: Num = 1 if not kind.qk_norm or "qk_norm_rope" in stack.fused else 2
    if kind.joint_norm and some(plan.tp - 1):
        # a sum of squares of each token's queries, and of its keys, in 32 bits
        squares = Collective(kind="all_reduce", payload_bytes=load.tokens * 2.0 * 4.0, ranks=plan.tp)
        yield "norm all-reduce", squares, where_some(plan.tp - 1)
        passes = passes + where_some(plan.tp - 1)
    yield (
        "rope and cache write",
        Pointwise(kind="rope", elements=load.tokens * width, moved_bytes=moved * passes, launches=passes),
        1,
    )
    core: dict[str, object] = {
        "kind": "gqa",
        "heads": heads,
        "kv_heads": kv_heads,
        "qk_dim": kind.head_dim,
        "v_dim": v_dim,
        "dtype": quant.attend,
        "kv_dtype": quant.kv,
    }
    # with sinks, engines run kernels that pack heads always
    yield from _core(replace(load, joint=load.joint and not kind.sinks), kind.window, core, core)
    if kind.output_gate or kind.head_gate:
        yield "output gate", _gated(load.tokens, heads * v_dim, gate), 1
    output = Gemm(m=load.tokens, n=hidden, k=heads * v_dim, dtype=quant.attention)
    yield from product("output projection", output, setting)


def _gated(tokens: Count, width: Count, gate: Count) -> Pointwise:
    """Scaling an output of ``width`` by ``gate`` numbers: read both, write one."""
    return Pointwise(kind="activation", elements=tokens * width, moved_bytes=tokens * (width * 4.0 + gate * 2.0))


def _latent(kind: Latent, setting: Setting) -> Iterator[Item]:
    hidden, plan, load, stack = setting.hidden, setting.plan, setting.load, setting.stack
    heads = split_heads(kind.heads, plan.tp, "query heads")
    quant = plan.quant
    latent = kind.kv_lora + kind.rope_dim
    # SP-TP-SP: projections before and after the core work on a token shard with all heads' weights
    shard = plan.tp if plan.sp else 1
    tokens = load.tokens / shard
    q_in = kind.q_lora or hidden
    down = latent + (kind.q_lora or 0)
    prolog = "mla_prolog" in stack.fused
    entry = Gemm(m=tokens, n=down, k=hidden, dtype=quant.attention)
    yield from product("latent down-projection", entry, setting, fused=prolog)
    if "mla_prolog" not in stack.fused:
        yield "latent norm", norm(tokens, down), 1
    if plan.sp:
        # latents that the cache held lie spread over the ranks as those just computed do; every rank's heads read all
        held = np.maximum(load.batch.prefill_context - load.batch.prefill_tokens, 0.0)
        gathered = (load.tokens * down + held * latent) * 2.0
        yield (
            "latent all-gather",
            Collective(kind="all_gather", payload_bytes=gathered, ranks=plan.tp),
            1,
        )
    raise_query = Gemm(m=load.tokens, n=heads * (kind.nope_dim + kind.rope_dim), k=q_in, dtype=quant.attention)
    yield from product("query up-projection", raise_query, setting, fused=prolog)
    if "mla_prolog" not in stack.fused:
        width = heads * kind.rope_dim + latent
        yield (
            "rope and cache write",
            Pointwise(kind="rope", elements=load.tokens * width, moved_bytes=load.tokens * width * 4.0),
            1,
        )
    if kind.indexer is not None and not kind.indexer.shared:
        yield from _indexer(kind.indexer, kind.q_lora or hidden, setting, kind.indexer.pool)
    yield from _latent_core(kind, heads, setting)
    if kind.gate_dim:
        gate = (kind.heads if plan.sp else heads) * kind.gate_dim
        yield from product("gate projection", Gemm(m=tokens, n=gate, k=hidden, dtype=quant.attention), setting)
        yield "output gate", _gated(tokens, (kind.heads if plan.sp else heads) * kind.v_dim, gate), 1
    rows, depth = (tokens, kind.heads * kind.v_dim) if plan.sp else (load.tokens, heads * kind.v_dim)
    yield from product("output projection", Gemm(m=rows, n=hidden, k=depth, dtype=quant.attention), setting)


def _latent_core(kind: Latent, heads: Count, setting: Setting) -> Iterator[Item]:
    """The core on the latent itself where keys are absorbed, on keys and values of their own elsewhere in prompts."""
    plan, load, quant = setting.plan, setting.load, setting.plan.quant
    latent, shard = kind.kv_lora + kind.rope_dim, plan.tp if plan.sp else 1
    limit = kind.indexer.topk if kind.indexer else None
    # kernels of chosen keys work on the latent in prompts too: each token has a choice of its own
    latent_tokens = load.tokens if limit else load.decode_tokens
    if some(load.prefill_tokens) and not limit:
        yield (
            "key-value up-projection",
            Gemm(
                m=at_least_one(load.batch.prefill_context),
                n=heads * (kind.nope_dim + kind.v_dim),
                k=kind.kv_lora,
                dtype=quant.attention,
            ),
            where_some(load.prefill_tokens),
        )
    if some(latent_tokens):
        yield (
            "absorb keys",
            Gemm(batch=heads, m=at_least_one(latent_tokens), n=kind.kv_lora, k=kind.nope_dim, dtype="bf16"),
            where_some(latent_tokens),
        )
    common: dict[str, object] = {"kind": "mla", "heads": heads, "dtype": quant.attend, "kv_dtype": quant.kv}
    absorbed = common | {"kv_heads": 1, "qk_dim": latent, "v_dim": kind.kv_lora}
    plain = common | {"kv_heads": heads, "qk_dim": kind.nope_dim + kind.rope_dim, "v_dim": kind.v_dim}
    if limit and some(load.prefill_tokens):
        # such a kernel works through all places of a choice, filled or not, in bf16; sequence shards keep all heads
        queries = at_least_one(load.prefill_tokens / shard)
        chosen = absorbed | {"heads": heads * shard, "dtype": "bf16", "kv_dtype": "bf16"}
        keys = queries * limit
        core = Attend(phase="decode", sequences=queries, queries=queries, pairs=keys, context=keys, **chosen)  # type: ignore[arg-type]
        yield "attention core (prefill)", core, where_some(load.prefill_tokens)
    yield from _decode_core(load, limit, absorbed) if limit else _core(load, None, absorbed, plain)
    if some(latent_tokens):
        yield (
            "absorb values",
            Gemm(batch=heads, m=at_least_one(latent_tokens), n=kind.v_dim, k=kind.kv_lora, dtype="bf16"),
            where_some(latent_tokens),
        )
    if plan.sp and not limit:
        yield (
            "heads all-to-all",
            Collective(kind="all_to_all", payload_bytes=load.tokens * heads * kind.v_dim * 2.0, ranks=plan.tp),
            1,
        )


def _indexer(index: Indexer, q_in: int, setting: Setting, ratio: int = 1) -> Iterator[Item]:
    """Scores of every entry of the context (one per ``ratio`` tokens) and the choice of the best."""
    hidden, load = setting.hidden, setting.load
    # the published kernels score in fp8; plans in int8 are for chips without it, whose kernels score in bf16
    quant = setting.plan.quant
    scored = "bf16" if number_format(quant.attention).peak == "int8" else quant.index
    width, heads = index.head_dim, index.heads
    shard = setting.plan.tp if setting.plan.sp else 1  # sequence shards score their own tokens, tensor ranks all
    tokens = load.tokens / shard
    yield "indexer projections", Gemm(m=tokens, n=heads * width, k=q_in, dtype="bf16"), 1
    yield "indexer keys", Gemm(m=tokens, n=width + heads, k=hidden, dtype="bf16"), 1
    batch = load.batch
    for phase, held, each, reach in (
        (" (prefill)", batch.prefill_sequences, load.prefill_tokens, prefill_reach(batch, None)),
        ("", batch.decode_sequences, load.decode_tokens, decode_reach(batch, load.query_len, None)),
    ):
        if not some(each):
            continue
        pairs, sequences = reach.pairs / shard / ratio, at_least_one(held)
        queries = at_least_one(each / shard / sequences)
        # every query scores the whole context with all indexer heads: [queries*heads, width] x [width, context]
        length = at_least_one(pairs / sequences / queries)
        scores = Gemm(batch=sequences, m=queries * heads, n=length, k=width, dtype=scored)
        yield f"indexer scores{phase}", scores, where_some(each)
        top = Pointwise(kind="route", elements=pairs, moved_bytes=pairs * 8.0, launches=2)
        yield f"indexer top-k{phase}", top, where_some(each)


def _short_conv(kind: ShortConv, setting: Setting) -> Iterator[Item]:
    hidden, load, form = setting.hidden, setting.load, setting.plan.quant.attention
    width = split_heads(kind.width, setting.plan.tp, "channels of the short convolution")
    yield from product("convolution projection", Gemm(m=load.tokens, n=3 * width, k=hidden, dtype=form), setting)
    mixed = load.tokens * width  # two gates and the values in, one stream out
    flop = mixed * 2.0 * (kind.conv_width + 1)
    yield "short convolution", Pointwise(kind="activation", elements=mixed, moved_bytes=mixed * 8.0, flop=flop), 1
    yield from product("output projection", Gemm(m=load.tokens, n=hidden, k=width, dtype=form), setting)


def _compressed(kind: Compressed, setting: Setting) -> Iterator[Item]:
    """Projections, the making of entries, their choice, and two cores: over the window and over the entries."""
    hidden, plan, load = setting.hidden, setting.plan, setting.load
    quant, width, index = plan.quant, kind.head_dim, kind.indexer
    heads = split_heads(kind.heads, plan.tp, "query heads")
    entry = Gemm(m=load.tokens, n=kind.q_lora + width, k=hidden, dtype=quant.attention)
    yield from product("latent down-projection", entry, setting)
    yield "latent norm", norm(load.tokens, kind.q_lora + width), 1
    raised = Gemm(m=load.tokens, n=heads * width, k=kind.q_lora, dtype=quant.attention)
    yield from product("query up-projection", raised, setting)
    moved = load.tokens * (heads + 1) * width
    yield "rope and cache write", Pointwise(kind="rope", elements=moved, moved_bytes=moved * 4.0), 1
    core: dict[str, object] = {
        "kind": "mla", "heads": heads, "kv_heads": 1, "qk_dim": width, "v_dim": width, "dtype": quant.attend,
        "kv_dtype": quant.kv,
    }  # fmt: skip
    yield from _core(load, kind.window, core, core)
    if kind.ratio:
        made = 2 * (2 if index else 1) * width + (4 * index.head_dim if index else 0)
        yield "compression projection", Gemm(m=load.tokens, n=made, k=hidden, dtype="bf16"), 1
        pooled = load.tokens * made
        yield "compression", Pointwise(kind="activation", elements=pooled, moved_bytes=pooled * 2.0), 1
        if index:
            yield from _indexer(index, kind.q_lora, setting, kind.ratio)
        limit = index.topk * kind.ratio if index else None
        for label, op, times in _core(load, limit, core, core, kind.ratio):
            yield f"{label} of entries", op, times
    groups = at_least_one(kind.o_groups // plan.tp)
    down = Gemm(batch=groups, m=load.tokens, n=kind.o_lora, k=heads * width / groups, dtype=quant.attention)
    yield from product("output down-projection", down, setting)
    output = Gemm(m=load.tokens, n=hidden, k=groups * kind.o_lora, dtype=quant.attention)
    yield from product("output projection", output, setting)
