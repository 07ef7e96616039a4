"""The Mamba-2 mixer as operators of one tensor-parallel rank (arXiv 2405.21060, section 6 and listing 1).

The chunked scan is four products per chunk of Q tokens: scores of the outputs' against the inputs' projections (Q x Q
per group), scores times values, values into the chunk's state, and the state that entered out again (P x N per head).
They run as one product per head and chunk whose depth is what each output gathers: Q tokens and twice the state.
Between the chunks the fp32 states are passed on: written by one kernel, read and written by the next, read by the last.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from taicang.lower.load import Load, Setting
from taicang.lower.product import Item, product, split_heads
from taicang.lower.program import at_least_one, some, where_some
from taicang.models.types import StateSpace
from taicang.ops import Collective, Gemm, Pointwise
from taicang.units import Count

PAIR_FLOP = 28.0
"""Vector arithmetic of the scan per pair of tokens in a chunk and head, in FLOP at the vector peak: an exponential at
an eighth of the rate of multiply-adds (16), conversion to 16 bits at half of it (4), two products, difference and mask
(8). The five forward kernels on H100 (vllm-project/vllm pull request 27299, 4 k to 131 k tokens) are within a tenth."""
PAIR_BACKWARD_FLOP = 2350.0
"""The same of the backward kernels, sums along chunks and waits beside products and traffic: what a step of
calibrated-on rows of Nemotron-3 on at most 64 ranks leaves (fitted; nine pairs of model and chip agree within 6 %)."""
STATE_BYTES = 4.0
"""States are kept in fp32."""


def state_space(kind: StateSpace, setting: Setting) -> Iterator[Item]:
    """Operators from the input projection to the output projection; the norm before is the caller's.

    Raises ``InvalidPlan`` where tensor parallelism does not divide heads or groups.
    """
    if np.any(kind.dt_rank):
        yield from _selective(kind, setting)
        return
    hidden, plan, load = setting.hidden, setting.plan, setting.load
    heads = split_heads(kind.heads, plan.tp, "state-space heads")
    groups = split_heads(kind.groups, plan.tp, "state-space groups") if kind.groups > 1 else 1  # each rank has the one
    inner, mixed = heads * kind.head_dim, heads * kind.head_dim + 2 * groups * kind.state_dim
    entry = Gemm(m=load.tokens, n=inner + mixed + heads, k=hidden, dtype=plan.quant.attention)
    yield from product("state-space projection", entry, setting)
    convolved = load.tokens * mixed
    yield (
        "short convolution",
        Pointwise(
            kind="activation",
            elements=convolved,
            moved_bytes=convolved * 4.0,
            flop=convolved * 2.0 * kind.conv_width,
        ),
        1,
    )
    state_bytes = inner * kind.state_dim * STATE_BYTES
    yield from state_update(load, inner, inner * kind.state_dim, 5.0)
    if some(load.prefill_tokens):
        chunks = at_least_one(load.prefill_tokens / kind.chunk)
        scan = Gemm(
            batch=chunks * heads, m=kind.chunk, n=kind.head_dim, k=kind.chunk + 2 * kind.state_dim, dtype="bf16"
        )
        yield "chunked scan", scan, where_some(load.prefill_tokens)
        scores = Gemm(batch=chunks * groups, m=kind.chunk, n=kind.chunk, k=kind.state_dim, dtype="bf16")
        yield "chunk scores", scores, where_some(load.prefill_tokens)
        passing = Pointwise(
            kind="rope",
            elements=chunks * inner * kind.state_dim,
            moved_bytes=4.0 * chunks * state_bytes,
            flop=load.prefill_tokens * heads * kind.chunk * PAIR_FLOP,
        )
        yield "state passing", passing, where_some(load.prefill_tokens)
    gated = load.tokens * inner
    yield "gated norm", Pointwise(kind="norm", elements=gated, moved_bytes=gated * 6.0), 1
    output = Gemm(m=load.tokens, n=hidden, k=inner, dtype=plan.quant.attention)
    yield from product("output projection", output, setting)


def state_update(load: Load, out: Count, state: Count, flop: float) -> Iterator[Item]:
    """One token of each sequence, of ``out`` numbers: the recurrent form reads and writes the ``state`` once per token
    that it accepts, with so much ``flop`` for each of its numbers."""
    if some(load.decode_tokens):
        sequences = at_least_one(load.batch.decode_sequences)
        yield (
            "state update",
            Pointwise(
                kind="activation",
                elements=load.decode_tokens * out,
                moved_bytes=2.0 * sequences * load.query_len * state * STATE_BYTES,
                flop=load.decode_tokens * state * flop,
            ),
            where_some(load.decode_tokens),
        )


def _selective(kind: StateSpace, setting: Setting) -> Iterator[Item]:
    """Mamba of the first version: every channel has a state, so the scan is vector work and no product."""
    hidden, plan, load = setting.hidden, setting.plan, setting.load
    inner = split_heads(kind.heads, plan.tp, "state-space channels")
    form, small = plan.quant.attention, kind.dt_rank + 2 * kind.state_dim
    yield from product("state-space projection", Gemm(m=load.tokens, n=2 * inner, k=hidden, dtype=form), setting)
    moved = load.tokens * inner
    mixing = Pointwise(kind="activation", elements=moved, moved_bytes=moved * 4.0, flop=moved * 2.0 * kind.conv_width)
    yield "short convolution", mixing, 1
    yield "step and state projection", Gemm(m=load.tokens, n=small, k=inner, dtype="bf16"), 1
    if some(plan.tp - 1):
        reduce = Collective(kind="all_reduce", payload_bytes=load.tokens * small * 2.0, ranks=plan.tp)
        yield "step all-reduce", reduce, where_some(plan.tp - 1)
    yield "step up-projection", Gemm(m=load.tokens, n=inner, k=kind.dt_rank, dtype="bf16"), 1
    yield from state_update(load, inner, inner * kind.state_dim, 5.0)
    if some(load.prefill_tokens):
        # per channel and state: an exponential, two products and two sums, a product to read out
        scanned = at_least_one(load.prefill_tokens) * inner
        scan = Pointwise(
            kind="activation", elements=scanned, moved_bytes=scanned * 8.0, flop=scanned * kind.state_dim * 9.0
        )
        yield "selective scan", scan, where_some(load.prefill_tokens)
    output = Gemm(m=load.tokens, n=hidden, k=inner, dtype=form)
    yield from product("output projection", output, setting)
