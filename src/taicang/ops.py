"""The closed union of operators: what is done, as shapes and bytes, never how long it takes.

Every count is of one rank. Counts may be floats or arrays (one element per candidate), so that one formula prices a
single step, ten thousand plans or a simulator's whole table. Formats are names from ``formats``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from taicang.units import Count, Num

CollectiveKind: TypeAlias = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast"]
ExchangeKind: TypeAlias = Literal["dispatch", "combine"]
AttendKind: TypeAlias = Literal["gqa", "mla"]
Spread: TypeAlias = Literal["random", "strided", "consecutive"]
"""Experts of a token drawn at random; laid out so that each token meets as many ranks as it can (balanced benchmarks of
libraries); or one after the other, the next token's following (routers that benchmarks force into balance)."""
PointwiseKind: TypeAlias = Literal["norm", "activation", "quantise", "route", "rope", "sample", "copy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """``batch`` independent products [m, k] x [k, n]; weights are the [k, n] side."""

    m: Count
    n: Count
    k: Count
    batch: Count = 1
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedGemm:
    """The expert feed-forward of one rank: up (and gate) projection, activation, down projection.

    ``tokens`` enter routing on all ranks of the expert group together; each goes to ``topk`` of ``experts``. The rank
    holds ``experts_local`` of them, each ``hidden`` x ``inter`` (``inter`` after tensor sharding). ``skew`` is the
    exponent of the power law of expert popularity (0 = balanced); ``balanced_ranks`` says that replicas even out the
    load between ranks (EPLB) though not within one.
    """

    tokens: Count
    topk: Count
    experts: Count
    experts_local: Count
    hidden: Count
    inter: Count
    dtype: str
    gated: bool = True
    skew: Count = 0.0
    balanced_ranks: bool = False
    gathered: bool = True
    """Each rank's kernels see the tokens of all ranks (all-gather), not just those that a dispatch sends to it."""
    biased: bool = False
    """Experts with biases and an activation that is clamped, which training libraries run on kernels of their own."""
    exchanged: bool = False
    """Ranks have tokens of their own (data-parallel attention), which deployments serve with libraries of experts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attend:
    """The attention core (scores, softmax, weighted sum) in sufficient statistics.

    ``queries`` tokens of ``sequences`` sequences meet ``pairs`` query-key pairs per head (causally skipped ones are not
    counted) and read ``context`` cached tokens. ``kind`` "mla" in decode is the absorbed form, in which all heads
    share one latent of width ``qk_dim`` = kv_lora + rope and ``v_dim`` = kv_lora; in prefill it is the plain form with
    ``kv_heads`` = heads. ``phase`` names the kernel: decode kernels split the context, prefill kernels the queries;
    "beside", sequences that decode in a prefill kernel of others; "backward", the gradients of a prefill kernel.
    """

    kind: AttendKind
    phase: Literal["prefill", "decode", "beside", "backward"]
    sequences: Count
    queries: Count
    pairs: Count
    context: Count
    heads: Count
    kv_heads: Count
    qk_dim: Count
    v_dim: Count
    dtype: str
    kv_dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointwise:
    """A memory-bound kernel (or a fused run of them) over ``elements``, moving ``moved_bytes`` in all."""

    kind: PointwiseKind
    elements: Count
    moved_bytes: Num
    flop: Num = 0.0
    launches: Count = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """Gather ``rows`` rows of ``row_bytes`` from a table in device memory (embedding)."""

    rows: Count
    row_bytes: Num


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """A collective of ``ranks`` ranks that lie ``stride`` apart in the machine's rank order.

    ``payload_bytes`` is the size of the whole buffer of one rank: the input of an all-reduce, reduce-scatter and
    all-to-all, the output of an all-gather, what a broadcast's root has.
    """

    kind: CollectiveKind
    payload_bytes: Num
    ranks: Count
    stride: Count = 1
    plane: str = "scale_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """MoE dispatch or combine: each rank sends ``tokens`` tokens of ``token_bytes`` to the ranks of their experts.

    ``topk`` experts per token are drawn from ``experts`` spread over ``ranks`` ranks as ``spread`` says; a token goes
    once to a rank that holds several of its experts where the library de-duplicates.
    """

    kind: ExchangeKind
    tokens: Count
    token_bytes: Num
    topk: Count
    experts: Count
    ranks: Count
    stride: Count = 1
    skew: Count = 0.0
    spread: Spread = "random"
    low_latency: bool = True
    """Latency-oriented kernels (decode) or throughput-oriented ones (prefill)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Point-to-point move of ``payload_bytes`` over ``plane`` (KV cache, pipeline activations, host memory)."""

    payload_bytes: Num
    plane: str
    distance: Count = 1
    """Ranks between the ends, which decides the level that is crossed."""
    messages: Count = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Host work of one step that the device waits for: scheduling of ``sequences``, graph launches, launch gaps."""

    graphs: Count
    layers: Count
    sequences: Count
    drafting: Count = 0.0
    """Sequences that draft."""


Operator: TypeAlias = Gemm | GroupedGemm | Attend | Pointwise | Lookup | Collective | Exchange | Transfer | Host
