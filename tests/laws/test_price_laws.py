"""Laws of the waist: every operator of the union, priced by ``CostModel.price`` on machines of every architecture."""

from dataclasses import fields, replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from anything import native
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog import files
from taicang.catalog.costing import backward, cost_model
from taicang.catalog.schema import ARCHITECTURE
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
        queries = sequences * (1.0 if phase == "decode" else new)
        context = sequences * (new + past)
        pairs = context if phase == "decode" else queries * past + queries * (new + 1.0) / 2.0
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
    "gqa backward": attends("backward", "gqa"),
    "mla backward": attends("backward", "mla"),
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
where = st.sampled_from([(on, stack) for on in MACHINES for stack in native(on, STACKS)])


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


@pytest.mark.parametrize("kind", ["gqa", "mla"])
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_attention_s_backward_pass_takes_more_than_the_forward_and_no_more_than_both_units_do(kind, data):
    costs, back = pricer(*data.draw(where)), data.draw(attends("backward", kind))
    width = data.draw(st.sampled_from([32.0, 64.0, 128.0, 256.0]))
    back = replace(back, qk_dim=width + 64.0 * (kind == "mla"), v_dim=width)
    there = replace(back, phase="prefill")
    try:
        forward, backward = costs.price(there), costs.price(back)
    except NotModelled:
        return
    over = costs.book.backward
    products = over.product_ratio * backward.flop / forward.flop
    assert backward.seconds >= forward.seconds
    assert backward.moved_bytes >= forward.moved_bytes
    least, most = min(products, over.softmax_ratio), max(products, over.softmax_ratio)
    assert least * forward.compute_s * (1.0 - 1e-9) <= backward.compute_s <= most * forward.compute_s * (1.0 + 1e-9)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("kind", ["gqa", "mla"])
def test_attention_s_backward_pass_takes_longer_over_longer_sequences_wider_and_more_heads(machine, kind):
    """Steadily: each doubling of a sequence takes between twice and four times as long, once launches are hidden."""
    costs = pricer(machine, "vllm")

    def seconds(tokens, heads=8.0, width=128.0):
        return float(costs.price(Attend(
            kind=kind, phase="backward", sequences=1.0, queries=tokens, pairs=tokens * (tokens + 1.0) / 2.0,
            context=tokens, heads=heads, kv_heads=heads, qk_dim=width, v_dim=width, dtype="bf16", kv_dtype="bf16",
        )).seconds)  # fmt: skip

    times = [seconds(2.0**power) for power in range(17)]
    assert all(before < after <= 4.0 * before for before, after in pairwise(times))
    assert 3.5 * times[-2] < times[-1]
    assert seconds(4096.0) < seconds(4096.0, heads=16.0) <= 2.0 * seconds(4096.0)
    assert seconds(4096.0) < seconds(4096.0, width=256.0) <= 2.0 * seconds(4096.0)


@pytest.mark.parametrize(
    ("machine", "width", "forward", "backward"),
    [("hgx-h100", 64.0, 497e12, 474e12), ("hgx-h100", 128.0, 648e12, 561e12), ("hgx-a100", 128.0, 0.73, 0.63)],
)
def test_backward_kernels_reach_what_was_published_of_them(machine, width, forward, backward):
    """FlashAttention-3 (arXiv 2407.08608, figures 5 and 6), FlashAttention-2 (arXiv 2307.08691: shares of the peak)."""
    costs = pricer(machine, "vllm")
    op = Attend(
        kind="gqa", phase="prefill", sequences=1.0, queries=16384.0, pairs=16384.0**2, context=16384.0, heads=16.0,
        kv_heads=16.0, qk_dim=width, v_dim=width, dtype="bf16", kv_dtype="bf16",
    )  # fmt: skip
    there, back = costs.price(op), costs.price(replace(op, phase="backward"))
    assert (back.flop / back.seconds) / (there.flop / there.seconds) == pytest.approx(backward / forward, rel=0.05)


def test_latent_attention_s_backward_pass_is_slower_by_what_a_profile_shows():
    """Four layers of DeepSeek-V3 on H800 at 4,096 tokens: 17.02 ms backward, 4.95 ms forward (DeepSeek's profile-data).
    Keys are wider than values, and three of the five products go over keys."""
    costs = pricer("hgx-h800", "vllm")
    op = Attend(
        kind="mla", phase="prefill", sequences=1.0, queries=4096.0, pairs=4096.0**2 / 2.0, context=4096.0, heads=128.0,
        kv_heads=128.0, qk_dim=192.0, v_dim=128.0, dtype="bf16", kv_dtype="bf16",
    )  # fmt: skip
    back = costs.price(replace(op, phase="backward"))
    assert back.seconds / costs.price(op).seconds == pytest.approx(17.02 / 4.95, rel=0.05)
    assert back.flop / costs.price(op).flop == pytest.approx((3.0 * 192.0 + 2.0 * 128.0) / 320.0)


@pytest.mark.parametrize(
    ("figures", "architecture"), [((497, 648, 474, 561), "hopper"), ((324, 370, 291, 322), "ampere")]
)
def test_two_widths_of_heads_tell_products_and_vector_work_apart(figures, architecture):
    """Of the figures that the data names: a pair's seconds are the root of the squares of products and exponentials."""
    narrow, wide, narrow_back, wide_back = figures
    parts = []
    for flop, half, whole in ((256.0, narrow, wide), (640.0, narrow_back, wide_back)):
        least, most = flop / half, 2.0 * flop / whole
        products = np.sqrt((most**2 - least**2) / 3.0)
        parts.append((products, np.sqrt(least**2 - products**2)))
    over = backward(next(name for name, known in ARCHITECTURE.items() if known == architecture))
    assert over.product_ratio == pytest.approx(parts[1][0] / parts[0][0] / 2.5, rel=0.001)
    assert over.softmax_ratio == pytest.approx(parts[1][1] / parts[0][1], rel=0.001)


def test_the_vector_cores_of_ascend_have_the_backward_work_that_huawei_s_kernels_state():
    """Cycles for 64 scores (forward scale, maximum, difference, exponential, sum, cast; backward scale, difference,
    exponential, quotient, cast, difference, product, cast) and bytes of a score, which are 71 % of the stage."""
    cycles = sum((1, 2, 2, 4, 2, 2, 2, 2)) / sum((1.0, 2.8, 2.0, 2.0, 2.9, 2.0))
    moved = (4 + 4 + 2 + 2 + 3 * 32 / 128) / (4 + 2)
    assert backward("ascend-910c").softmax_ratio == pytest.approx(0.29 * cycles + 0.71 * moved, rel=0.005)


def test_every_architecture_says_what_backward_kernels_take_and_whence():
    said = files.read(files.DATA / "backward.yaml")
    known = files.read(files.DATA / "sources" / "sources.yaml")
    assert set(said) == set(ARCHITECTURE.values())
    for name, values in said.items():
        assert values["from"]["source"] in known, name
        assert values["from"]["place"], name
        assert min(values["product_ratio"], values["softmax_ratio"], values["launches"]) >= 1.0, name


def test_a_wide_all_to_all_is_bound_by_its_links():
    """384 ranks send 16 MB each: a public simulator says 9.9 us, where 196 GB/s of one die's links need 85 us."""
    costs = pricer("cloudmatrix384", "cloudmatrix-infer")
    payload = 16.7e6
    link = costs.machine.plane("scale_up").levels[-2].bandwidth_bytes_per_s
    cost = costs.price(Collective(kind="all_to_all", payload_bytes=payload, ranks=384.0))
    assert float(cost.seconds) >= payload * 383 / 384 / link > 80e-6
