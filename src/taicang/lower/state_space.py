"""The Mamba-2 mixer as operators of one tensor-parallel rank (arXiv 2405.21060, section 6 and listing 1).

The chunked scan is four products per chunk of Q tokens: scores of the outputs' against the inputs' projections (Q x Q
per group), scores times values, values into the chunk's state, and the state that entered out again (P x N per head).
They run as one product per head and chunk whose depth is what each output gathers: Q tokens and twice the state.
Between the chunks the fp32 states are passed on, one read and one write each.
"""

from __future__ import annotations

from collections.abc import Iterator

from taicang.lower.load import Setting
from taicang.lower.product import Item, product, split_heads
from taicang.lower.program import at_least_one, some, where_some
from taicang.models.types import StateSpace
from taicang.ops import Gemm, Pointwise

PAIR_FLOP = 800.0
"""Vector arithmetic of the scan per pair of tokens in a chunk, head and pass, in FLOP at the vector peak. Decays are
exponentials of every pair, masked and multiplied outside the matrix units: Hopper takes no longer than Blackwell.
Fitted on calibrated-on rows of Nemotron-3 on at most 64 ranks: nine pairs of model and chip agree within 6 %."""
STATE_BYTES = 4.0
"""States are kept in fp32."""


def state_space(kind: StateSpace, setting: Setting) -> Iterator[Item]:
    """Operators from the input projection to the output projection; the norm before is the caller's.

    Raises ``InvalidPlan`` where tensor parallelism does not divide heads or groups.
    """
    hidden, plan, load = setting.hidden, setting.plan, setting.load
    heads = split_heads(kind.heads, plan.tp, "state-space heads")
    groups = split_heads(kind.groups, plan.tp, "state-space groups")
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
    if some(load.decode_tokens):
        sequences = at_least_one(load.batch.decode_sequences)
        # the recurrent form reads and writes the state once per token that it accepts
        yield (
            "state update",
            Pointwise(
                kind="activation",
                elements=load.decode_tokens * inner,
                moved_bytes=2.0 * sequences * load.query_len * state_bytes,
                flop=load.decode_tokens * inner * kind.state_dim * 5.0,
            ),
            where_some(load.decode_tokens),
        )
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
            moved_bytes=2.0 * chunks * state_bytes,
            flop=load.prefill_tokens * heads * kind.chunk * PAIR_FLOP,
        )
        yield "state passing", passing, where_some(load.prefill_tokens)
    gated = load.tokens * inner
    yield "gated norm", Pointwise(kind="norm", elements=gated, moved_bytes=gated * 6.0), 1
    output = Gemm(m=load.tokens, n=hidden, k=inner, dtype=plan.quant.attention)
    yield from product("output projection", output, setting)
