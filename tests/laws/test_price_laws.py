"""Laws of the waist: every operator of the union, priced by ``CostModel.price`` on machines of every architecture."""

from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.errors import NotModelled
from taicang.formats import FORMATS, number_format
from taicang.ops import Attend, Collective, Exchange, Gemm, GroupedGemm, Host, Lookup, Pointwise, Transfer

MACHINES = (
    "hgx-a100 x 2", "hgx-h100 x 4", "hgx-b200", "gb200-nvl72", "cloudmatrix384", "atlas-800-a2 x 4", "dgx-h100-nvl256",
    "l40s-pcie", "mi300x-8", "atlas-950-superpod",
)  # fmt: skip
STACKS = ("vllm", "sglang", "tensorrt-llm", "cloudmatrix-infer")


@cache
def pricer(machine, stack):
    return cost_model(catalog.machine(machine), catalog.stack(stack))


def size(low, high):
    return st.floats(np.log(low), np.log(high)).map(lambda x: float(np.round(np.exp(x))))


ranks = st.sampled_from([2.0, 4.0, 8.0, 16.0, 64.0])
forms = st.sampled_from(sorted(FORMATS))


def attends(phase, kind):
    def make(sequences, new, past, heads, group, dtype, kv):
        heads, kv_heads = heads * group, heads
        dims = {"kv_heads": kv_heads, "qk_dim": 128.0, "v_dim": 128.0}
        if kind == "mla":
            decode = {"kv_heads": 1.0, "qk_dim": 576.0, "v_dim": 512.0}
            dims = decode if phase == "decode" else {"kv_heads": heads, "qk_dim": 192.0, "v_dim": 128.0}
        queries = sequences * (new if phase == "prefill" else 1.0)
        context = sequences * (new + past)
        pairs = queries * past + queries * (new + 1.0) / 2.0 if phase == "prefill" else context
        return Attend(
            kind=kind, phase=phase, sequences=sequences, queries=queries, pairs=pairs, context=context, heads=heads,
            dtype=dtype, kv_dtype=kv, **dims,
        )  # fmt: skip

    core = st.sampled_from(["bf16", "fp8", "int8"])
    return st.builds(make, size(1, 512), size(1, 8192), size(1, 131072), size(1, 16), size(1, 8), core, core)


experts = st.builds(
    lambda tokens, topk, local, ranks, hidden, inter, dtype, gated, skew, even, gathered: GroupedGemm(
        tokens=tokens, topk=min(topk, local * ranks), experts=local * ranks, experts_local=local, hidden=hidden,
        inter=inter, dtype=dtype, gated=gated, skew=skew, balanced_ranks=even, gathered=gathered,
    ),
    size(1, 65536), size(1, 10), size(1, 32), ranks, size(512, 8192), size(64, 8192), forms, st.booleans(),
    st.sampled_from([0.0, 1.01, 1.2]), st.booleans(), st.booleans(),
)  # fmt: skip
exchanges = st.builds(
    lambda kind, tokens, wide, topk, ranks, local, skew, fast: Exchange(
        kind=kind, tokens=tokens, token_bytes=wide, topk=min(topk, ranks * local), experts=ranks * local, ranks=ranks,
        skew=skew, low_latency=fast,
    ),
    st.sampled_from(["dispatch", "combine"]), size(1, 16384), size(512, 16384), size(1, 9), ranks, size(1, 32),
    st.sampled_from([0.0, 1.01]), st.booleans(),
)  # fmt: skip
collectives = st.builds(
    Collective, kind=st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]),
    payload_bytes=size(2, 1 << 33), ranks=ranks,
)  # fmt: skip
OPERATORS = {
    "gemm": st.builds(
        Gemm, m=size(1, 65536), n=size(1, 65536), k=size(1, 65536), batch=st.sampled_from([1, 1, 128.0]), dtype=forms
    ),
    "experts": experts,
    "gqa prefill": attends("prefill", "gqa"),
    "gqa decode": attends("decode", "gqa"),
    "mla prefill": attends("prefill", "mla"),
    "mla decode": attends("decode", "mla"),
    "pointwise": st.builds(
        Pointwise, kind=st.sampled_from(["norm", "activation", "quantise", "route", "rope", "sample", "copy"]),
        elements=size(1, 1 << 30), moved_bytes=size(1, 1 << 33), flop=size(1, 1 << 33), launches=size(1, 8),
    ),
    "lookup": st.builds(Lookup, rows=size(1, 65536), row_bytes=size(2, 65536)),
    "collective": collectives,
    "exchange": exchanges,
    "transfer": st.builds(
        Transfer, payload_bytes=size(1, 1 << 36), plane=st.just("scale_up"), distance=ranks, messages=size(1, 1024)
    ),
    "host": st.builds(Host, graphs=size(1, 8), layers=size(1, 128), sequences=size(1, 4096)),
}  # fmt: skip
PARTS = ("seconds", "compute_s", "memory_s", "network_s", "latency_s", "flop", "moved_bytes", "sent_bytes")
where = st.tuples(st.sampled_from(MACHINES), st.sampled_from(STACKS))


def numbers(op):
    """Fields that hold counts; formats, kinds and flags stay scalar."""
    return [
        f.name
        for f in fields(op)
        if isinstance(getattr(op, f.name), (int, float)) and not isinstance(getattr(op, f.name), bool)
    ]


def stacked(ops):
    """The operators as one whose counts are arrays."""
    return replace(ops[0], **{name: np.array([float(getattr(op, name)) for op in ops]) for name in numbers(ops[0])})


@pytest.mark.parametrize("family", OPERATORS)
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_an_array_of_operators_is_priced_like_each_alone_bit_for_bit(family, data):
    costs = pricer(*data.draw(where))
    first = data.draw(OPERATORS[family])
    words = {f.name: getattr(first, f.name) for f in fields(first) if f.name not in numbers(first)}
    ops = [first, *(replace(data.draw(OPERATORS[family]), **words) for _ in range(2))]
    try:
        alone = [costs.price(op) for op in ops]
    except NotModelled:
        return
    many = costs.price(stacked(ops))
    for part in PARTS:
        got = np.broadcast_to(np.asarray(getattr(many, part), float), (len(ops),))
        assert [float(x) for x in got] == [float(getattr(each, part)) for each in alone], part


@pytest.mark.parametrize("family", OPERATORS)
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_price_is_finite_positive_and_never_beats_the_datasheet(family, data):
    name, stack = data.draw(where)
    costs, op = pricer(name, stack), data.draw(OPERATORS[family])
    try:
        cost = costs.price(op)
    except NotModelled:
        return
    chip, planes = costs.machine.chip, costs.machine.planes
    values = [float(getattr(cost, part)) for part in PARTS]
    assert all(np.isfinite(values))
    assert min(values) >= 0.0
    link = max(level.bandwidth_bytes_per_s for plane in planes.values() for level in plane.levels)
    peaks = {number_format(getattr(op, key)).peak for key in ("dtype", "kv_dtype") if hasattr(op, key)}
    peak = max(chip.peak_flop_per_s[p] for p in (peaks & chip.peak_flop_per_s.keys()) or {"bf16"})
    seconds = float(cost.seconds) * (1.0 + 1e-9)
    assert seconds >= float(cost.moved_bytes) / chip.memory.bandwidth_bytes_per_s
    assert seconds >= float(cost.sent_bytes) / link
    if family not in ("pointwise", "lookup"):
        assert seconds >= float(cost.flop) / peak


def test_a_wide_all_to_all_is_bound_by_its_links():
    """384 ranks send 16 MB each: a public simulator says 9.9 us, where 196 GB/s of one die's links need 85 us."""
    costs = pricer("cloudmatrix384", "cloudmatrix-infer")
    payload = 16.7e6
    link = costs.machine.plane("scale_up").levels[-2].bandwidth_bytes_per_s
    cost = costs.price(Collective(kind="all_to_all", payload_bytes=payload, ranks=384.0))
    assert float(cost.seconds) >= payload * 383 / 384 / link > 80e-6
