"""Laws of the expert price: same bits either way, monotone, never under the roofline."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog import calibration
from taicang.catalog.costing import book, book_of, cost_model
from taicang.cost.experts import ExpertsFit, Tiles, experts, fit_for, load, priced
from taicang.cost.model import KERNELS_OF
from taicang.cost.sustained import AMPERE_PATH_RATIO
from taicang.formats import number_format
from taicang.hardware import Chip, Memory
from taicang.ops import GroupedGemm

CHIP = Chip(
    name="test",
    vendor="none",
    dies=1,
    peak_flop_per_s={"bf16": 1e15, "fp8": 2e15, "fp4": 4e15, "int8": 2e15},
    vector_flop_per_s=60e12,
    cores=100,
    memory=Memory(capacity_bytes=80e9, bandwidth_bytes_per_s=4e12),
    l2_bytes=50e6,
    profile="test",
    measured=False,
    tdp_w=None,
    idle_w=None,
)
FIT = ExpertsFit(
    compute_ratio=0.6,
    stream_ratio=0.9,
    width_waste=30.0,
    activation_ratio=2.0,
    floor_s=2e-5,
    expert_s=1e-7,
    held_s=2e-7,
)
NUMBERS = ("tokens", "topk", "experts", "experts_local", "hidden", "inter", "skew")


def log_uniform(least, most):
    return st.floats(np.log(least), np.log(most)).map(lambda x: float(np.exp(x)))


@st.composite
def operators(draw):
    count = draw(st.sampled_from([8, 64, 128, 256, 288, 384]))
    ranks = draw(st.sampled_from([r for r in (1, 2, 4, 8, 16, 32, 64, 128, 256) if count % r == 0]))
    return GroupedGemm(
        tokens=draw(log_uniform(1, 1e5)),
        topk=draw(st.integers(1, min(8, count // 4))),
        experts=count,
        experts_local=count / ranks,
        hidden=draw(log_uniform(256, 16384)),
        inter=draw(log_uniform(16, 32768)),
        dtype=draw(st.sampled_from(["bf16", "fp8_block", "nvfp4", "int8", "mxfp4_w4a16"])),
        gated=draw(st.booleans()),
        skew=draw(st.one_of(st.just(0.0), st.floats(0.0, 1.5))),
        balanced_ranks=draw(st.booleans()),
        gathered=draw(st.booleans()),
    )


def seconds(op, chip=CHIP):
    return float(experts(op, chip, FIT).seconds)


@settings(max_examples=60, deadline=None)
@given(st.lists(operators(), min_size=1, max_size=9))
def test_arrays_give_the_same_bits_as_scalars(drawn):
    ops = [replace(op, dtype="bf16", gated=True, balanced_ranks=drawn[0].balanced_ranks, gathered=True) for op in drawn]
    stacked = replace(ops[0], **{n: np.array([float(getattr(op, n)) for op in ops]) for n in NUMBERS})
    together = experts(stacked, CHIP, FIT)
    for i, op in enumerate(ops):
        alone = experts(op, CHIP, FIT)
        for field in ("seconds", "compute_s", "memory_s", "latency_s", "flop", "moved_bytes"):
            assert float(getattr(alone, field)) == getattr(together, field)[i], field


@settings(max_examples=150, deadline=None)
@given(operators(), st.sampled_from(["tokens", "hidden", "inter"]), st.floats(1.01, 8.0))
def test_more_work_is_never_faster(op, what, factor):
    assert seconds(replace(op, **{what: getattr(op, what) * factor})) >= seconds(op) * (1 - 1e-9)


@settings(max_examples=60, deadline=None)
@given(operators())
def test_another_expert_per_token_is_never_faster(op):
    more = min(op.topk + 1, op.experts // 2)
    assert seconds(replace(op, topk=more)) >= seconds(op) * (1 - 1e-9)


@settings(max_examples=60, deadline=None)
@given(operators(), st.floats(1.0, 4.0))
def test_a_better_chip_is_never_slower(op, factor):
    rate = CHIP.memory.bandwidth_bytes_per_s * factor
    assert seconds(op, replace(CHIP, memory=replace(CHIP.memory, bandwidth_bytes_per_s=rate))) <= seconds(op)
    peaks = {key: peak * factor for key, peak in CHIP.peak_flop_per_s.items()}
    assert seconds(op, replace(CHIP, peak_flop_per_s=peaks)) <= seconds(op)


@settings(max_examples=100, deadline=None)
@given(operators(), st.floats(0.0, 0.5))
def test_skew_never_lightens_the_hottest_rank(op, more):
    """Its rows grow; its weights may shrink (fewer experts touched), so the price itself is not monotone in skew."""
    assert load(replace(op, skew=op.skew + more)).rows >= load(op).rows * (1 - 1e-9)


@settings(max_examples=60, deadline=None)
@given(operators(), st.floats(0.0, 0.5))
def test_skew_is_never_faster_where_compute_binds(op, more):
    busy = replace(op, tokens=1e6, hidden=8192.0, inter=8192.0)
    assert seconds(replace(busy, skew=busy.skew + more)) >= seconds(busy) * (1 - 2e-3)


@settings(max_examples=100, deadline=None)
@given(operators())
def test_never_beats_the_roofline(op):
    form, hot, matrices = number_format(op.dtype), load(op), 3 if op.gated else 2
    weights = hot.touched * matrices * op.hidden * op.inter * form.weight_bytes
    flop = 2 * matrices * op.hidden * op.inter * hot.rows
    assert seconds(op) > weights / CHIP.memory.bandwidth_bytes_per_s
    assert seconds(op) > flop / CHIP.peak(form.peak)
    assert hot.rows >= op.tokens * op.topk * op.experts_local / op.experts * (1 - 1e-9)


@settings(max_examples=150, deadline=None)
@given(operators())
def test_more_ranks_are_never_slower(op):
    assert seconds(replace(op, experts_local=op.experts_local / 2)) <= seconds(op) * (1 + 1e-9)


@pytest.mark.parametrize("balanced", [False, True])
def test_balancing_helps_and_cannot_do_better_than_even(balanced):
    op = GroupedGemm(tokens=4096, topk=8, experts=256, experts_local=8, hidden=7168, inter=2048, dtype="bf16", skew=1.2)
    even, this = load(replace(op, skew=0.0)).rows, load(replace(op, balanced_ranks=balanced)).rows
    assert even <= this <= load(op).rows


@settings(max_examples=60, deadline=None)
@given(operators())
def test_kernels_that_walk_over_all_groups_pay_for_each_that_a_rank_holds(op):
    """Whatever comes to them: sharded by width a rank holds them all, sharded by expert its share."""
    walked = seconds(op) - float(experts(op, CHIP, replace(FIT, held_s=0.0)).seconds)
    assert walked == pytest.approx(FIT.held_s * op.experts_local, rel=1e-6)


def test_sharding_by_width_is_slower_than_by_expert_where_a_scheduler_walks_over_groups():
    """One token of DeepSeek on eight H200 under TensorRT-LLM: the same bytes, 256 groups or 32."""
    fits = calibration.read("experts")["profiles"]["h200"]
    by = {"tensorrt-llm": "fp8_block@trtllm", "sglang": "fp8_block@sglang"}
    wide = GroupedGemm(tokens=1, topk=8, experts=256, experts_local=256, hidden=7168, inter=256, dtype="fp8_block")
    apart = replace(wide, experts_local=32, inter=2048)
    lost = {
        name: float(experts(wide, CHIP, fit).seconds - experts(apart, CHIP, fit).seconds)
        for name, fit in ((name, ExpertsFit(**fits[key])) for name, key in by.items())
    }
    assert lost["tensorrt-llm"] > 30e-6 > lost["sglang"]


@settings(max_examples=60, deadline=None)
@given(operators(), st.floats(1.0, 8.0))
def test_kernels_beside_others_are_never_slower_than_those_nor_faster_for_more_tokens(op, factor):
    """vLLM's products of fp8 blocks on Hopper: DeepGEMM's from 128 tokens on, else Triton's."""
    op = replace(op, dtype="fp8_block")
    fits = calibration.fits("experts", ExpertsFit)["h200"]
    cost, triton = priced(op, CHIP, fits, engine="vllm"), priced(op, CHIP, fits, engine="sglang")
    assert cost.seconds <= triton.seconds
    assert cost.flop == triton.flop
    more = priced(replace(op, tokens=op.tokens * factor), CHIP, fits, engine="vllm")
    assert more.seconds >= cost.seconds * (1 - 1e-9)


@pytest.mark.parametrize("tokens", [1, 8, 32, 64])
def test_sharding_by_expert_is_not_free_where_both_ways_run_the_same_kernels(tokens):
    """DeepSeek decoding on eight H200 under vLLM: Triton's kernels either way, and the hottest rank sets the pace."""
    fits = calibration.fits("experts", ExpertsFit)["h200"]
    wide = GroupedGemm(
        tokens=tokens, topk=8, experts=256, experts_local=256, hidden=7168, inter=256, dtype="fp8_block", skew=1.01
    )
    apart = replace(wide, experts_local=32, inter=2048)
    assert priced(apart, CHIP, fits, engine="vllm").seconds > priced(wide, CHIP, fits, engine="vllm").seconds


@pytest.mark.parametrize("form", ["w4a16", "mxfp4_w4a16", "fp8_w8a16", "nvfp4_w4a16"])
@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm"])
@pytest.mark.parametrize("on", ["hgx-h100", "hgx-h200", "hgx-b200", "h200-nvl"])
def test_weights_widened_in_registers_pass_through_the_path_of_ampere(on, engine, form):
    """Many tokens run at that path's share of the peak, few no slower than what reads more bytes."""
    machine = catalog.machine(on)
    costs = cost_model(machine, catalog.stack(engine))
    widened = fit_for(costs.book.experts, form, engine=KERNELS_OF[engine])
    older = fit_for(book("a100").experts, "bf16", engine=KERNELS_OF[engine])
    assert widened.compute_ratio <= fit_for(costs.book.experts, "bf16", engine=KERNELS_OF[engine]).compute_ratio
    if f"bf16@{KERNELS_OF[engine]}" in costs.book.experts:
        assert widened.compute_ratio == pytest.approx(AMPERE_PATH_RATIO * older.compute_ratio)

    def seconds(form, tokens):
        op = GroupedGemm(tokens=tokens, topk=4, experts=128, experts_local=128, hidden=2880, inter=2880, dtype=form)
        return float(costs.price(op).seconds)

    assert seconds(form, 1e5) > seconds("bf16", 1e5)
    assert seconds(form, 1.0) <= seconds("bf16", 1.0)


@pytest.mark.parametrize("on", ["hgx-a100", "l40s-pcie", "rtx-4090-pcie", "mi300x-8"])
def test_chips_whose_own_path_it_is_or_of_other_makers_lose_nothing(on):
    known = book_of(catalog.machine(on).chip).experts
    for form in ("w4a16", "mxfp4_w4a16"):
        assert fit_for(known, form, engine="vllm").compute_ratio == fit_for(known, "bf16", engine="vllm").compute_ratio


FED = replace(CHIP, l2_bytes_per_s=5e12)
"""Its L2 feeds 160 TFLOP/s in tiles of 64 x 64, where tuned ones reach 600."""
GENERIC = Tiles(generic=(64, 64))


@given(op=operators(), edge=st.sampled_from([16, 32, 64, 128, 256]), more=st.floats(1.0, 4.0))
@settings(deadline=None)
def test_a_tuned_tile_is_never_slower_and_a_larger_or_better_fed_one_never_either(op, edge, more):
    tiles = Tiles(generic=(edge, edge))
    alone = experts(op, FED, FIT, tiles=tiles).seconds
    tuned = Tiles(generic=(edge, edge), tuned=frozenset({(round(op.experts_local), round(op.inter))}))
    assert experts(op, FED, FIT, tiles=tuned).seconds == experts(op, FED, FIT).seconds <= alone
    assert experts(op, FED, FIT, tiles=Tiles(generic=(edge, 2 * edge))).seconds <= alone
    fed = replace(FED, l2_bytes_per_s=FED.l2_bytes_per_s * more)
    assert experts(op, fed, FIT, tiles=tiles).seconds <= alone
    assert experts(replace(op, tokens=op.tokens * more), FED, FIT, tiles=tiles).seconds >= alone * (1.0 - 1e-9)


@given(op=operators(), widths=st.lists(st.integers(16, 4096), min_size=2, max_size=6))
@settings(deadline=None)
def test_candidates_with_and_without_a_table_are_priced_as_each_alone(op, widths):
    tiles = Tiles(generic=(64, 64), tuned=frozenset({(round(op.experts_local), widths[0])}))
    together = experts(replace(op, inter=np.array(widths, float)), FED, FIT, tiles=tiles).seconds
    alone = [experts(replace(op, inter=float(width)), FED, FIT, tiles=tiles).seconds for width in widths]
    assert np.array_equal(together, alone)


def test_a_generic_tile_reaches_what_the_l2_feeds_and_other_kernels_know_no_tiles():
    op = GroupedGemm(tokens=1e6, topk=8, experts=128, experts_local=128, hidden=4096, inter=352, dtype="bf16")
    cost = experts(op, FED, replace(FIT, width_waste=0.0), tiles=GENERIC)
    assert cost.flop / cost.compute_s == pytest.approx(5e12 * 32)
    for other in (
        replace(op, dtype="fp8"),
        replace(op, gathered=False),
        replace(op, biased=True),
        replace(op, exchanged=True),
    ):
        assert experts(other, FED, FIT, tiles=GENERIC).seconds == experts(other, FED, FIT).seconds


@pytest.mark.parametrize(
    ("stack", "machine", "inter", "slower"),
    [
        ("vllm@0.11.0", "hgx-h100", 352, True),
        ("vllm@0.11.0", "hgx-h100", 192, False),  # has a table
        ("vllm@0.8.0", "hgx-h100", 192, True),  # has none yet
        ("vllm@0.19.0", "hgx-h100", 352, False),  # larger generic tiles
        ("vllm@0.11.0", "hgx-a100", 352, False),  # its L2 feeds its slower matrix units
        ("sglang@0.5.5", "hgx-h100", 352, True),
        ("sglang@0.5.5", "hgx-h100", 384, False),
    ],
)
def test_only_shapes_without_a_table_wait_for_the_l2(stack, machine, inter, slower):
    op = GroupedGemm(tokens=8192, topk=8, experts=128, experts_local=128, hidden=4096, inter=inter, dtype="bf16")
    costs = cost_model(catalog.machine(machine), catalog.stack(stack))
    tuned = replace(costs, tiles=replace(costs.tiles, every=True), known={}).price(op).seconds
    assert tuned <= costs.price(op).seconds
    assert (costs.price(op).seconds > tuned) == slower
