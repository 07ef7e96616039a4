"""Gated linear attention, whose state follows a delta rule, as operators of one tensor-parallel rank."""

from __future__ import annotations

from collections.abc import Iterator

from taicang.lower.load import Load, Setting
from taicang.lower.product import Item, product, split_heads
from taicang.lower.program import at_least_one, some, where_some
from taicang.lower.state_space import state_update
from taicang.models.types import GatedLinear
from taicang.ops import Gemm, Pointwise
from taicang.units import Count

CHUNK = 64
"""Tokens of one chunk of the chunked delta rule (the published kernels' choice)."""
CHUNK_PASSES = 7
"""Kernels of that rule besides the one with its products (fla-org/flash-linear-attention, gated_delta_rule)."""


def gated_linear(kind: GatedLinear, setting: Setting) -> Iterator[Item]:
    """Operators from the projections to the output projection."""
    hidden, plan, load = setting.hidden, setting.plan, setting.load
    k_heads = split_heads(kind.k_heads, plan.tp, "linear-attention key heads")
    v_heads = split_heads(kind.v_heads, plan.tp, "linear-attention value heads")
    quant = plan.quant
    mixed, out = 2 * k_heads * kind.k_dim + v_heads * kind.v_dim, v_heads * kind.v_dim
    low = bool(kind.rank)
    width = mixed if low else mixed + out
    yield from product(
        "linear-attention projection", Gemm(m=load.tokens, n=width, k=hidden, dtype=quant.attention), setting
    )
    decayed = k_heads * kind.k_dim if kind.decay == "channel" else v_heads
    if low:
        yield "decay and gate down-projection", Gemm(m=load.tokens, n=2 * kind.rank, k=hidden, dtype="bf16"), 1
        yield "decay and gate up-projection", Gemm(m=load.tokens, n=decayed + out, k=kind.rank, dtype="bf16"), 1
    if kind.decay != "fixed":
        steps = v_heads + (0 if low else decayed)
        yield "decay and step projection", Gemm(m=load.tokens, n=steps, k=hidden, dtype="bf16"), 1
    if kind.conv_width:
        yield (
            "short convolution",
            Pointwise(
                kind="activation",
                elements=load.tokens * mixed,
                moved_bytes=load.tokens * mixed * 4.0,
                flop=load.tokens * mixed * 2.0 * kind.conv_width,
                launches=2,
            ),
            1,
        )
    yield from _delta(kind, load, k_heads, v_heads)
    yield (
        "gated norm",
        Pointwise(
            kind="norm",
            elements=load.tokens * v_heads * kind.v_dim,
            moved_bytes=load.tokens * v_heads * kind.v_dim * 6.0,
        ),
        1,
    )
    output = Gemm(m=load.tokens, n=hidden, k=v_heads * kind.v_dim, dtype=quant.attention)
    yield from product("output projection", output, setting)


def _delta(kind: GatedLinear, load: Load, k_heads: Count, v_heads: Count) -> Iterator[Item]:
    """The state's own arithmetic: token by token in decode, in chunks of a prompt."""
    out = v_heads * kind.v_dim
    yield from state_update(load, out, out * kind.k_dim, 6.0)
    if some(load.prefill_tokens):
        # chunked form: inside a chunk like attention over CHUNK tokens, between chunks a state product
        yield (
            "chunked delta rule",
            Gemm(
                batch=v_heads,
                m=at_least_one(load.prefill_tokens),
                n=kind.v_dim,
                k=(2 if kind.decay == "fixed" else 3) * (kind.k_dim + CHUNK),
                dtype="bf16",
            ),
            where_some(load.prefill_tokens),
        )
        # in between: norms of queries and keys, sums of decays, scores, their inverse, keys and values that it corrects
        moved = load.prefill_tokens * (4.0 * k_heads * kind.k_dim + 4.0 * v_heads * kind.v_dim) * 2.0
        passes = Pointwise(kind="rope", elements=moved / 4.0, moved_bytes=moved, launches=CHUNK_PASSES)
        yield "chunk passes", passes, where_some(load.prefill_tokens)
