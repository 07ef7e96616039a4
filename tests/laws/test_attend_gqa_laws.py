"""Laws of the price of grouped-query attention."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.cost.attend_gqa import GqaDecodeFit, GqaPrefillFit, attend_gqa
from taicang.hardware import Chip, Memory
from taicang.ops import Attend

CHIP = Chip(
    name="test",
    vendor="nobody",
    dies=1,
    peak_flop_per_s={"bf16": 1e15, "fp8": 2e15},
    vector_flop_per_s=6e13,
    cores=132,
    memory=Memory(capacity_bytes=8e10, bandwidth_bytes_per_s=3.3e12),
    l2_bytes=5e7,
    profile="test",
    measured=False,
    tdp_w=None,
    idle_w=None,
)
FITS = {
    "prefill": GqaPrefillFit(
        floor_s=1e-5, matrix_efficiency_ratio=0.8, softmax_ratio=0.033, tail_ratio=0.5, bandwidth_efficiency_ratio=1.5
    ),
    "decode": GqaDecodeFit(
        floor_s=8e-6,
        fill_s=1e-6,
        ramp_s=4e-6,
        split_s=3e-8,
        bandwidth_efficiency_ratio=0.93,
        resident_ratio=5.0,
    ),
}
UNSPLIT = replace(FITS["decode"], head_ramp_s=3e-5, head_pass_ratio=0.3, walk_s=5e-9)
"""An engine whose grouped kernel ends at one tile of heads, and that may leave the context unsplit."""
PHASES = ("prefill", "decode")


def log(low, high):
    return st.floats(np.log(low), np.log(high)).map(lambda x: float(np.exp(x)))


@st.composite
def operators(draw, phase):
    sequences, new, before = draw(log(1, 512)), draw(log(1, 8192)), draw(log(1, 2e5))
    group, kv_heads = draw(log(1, 64)), draw(st.sampled_from((1, 2, 8, 40)))
    new = new if phase == "prefill" else min(new, 8.0)
    dtype, kv_dtype = draw(st.sampled_from((("bf16", "bf16"), ("bf16", "fp8"), ("fp8", "fp8"))))
    return Attend(
        kind="gqa",
        phase=phase,
        sequences=sequences,
        queries=sequences * new,
        pairs=sequences * (before * new + new * (new + 1) / 2),
        context=sequences * (before + new),
        heads=kv_heads * group,
        kv_heads=kv_heads,
        qk_dim=draw(st.sampled_from((64, 128, 192, 256))),
        v_dim=draw(st.sampled_from((64, 128, 256))),
        dtype=dtype,
        kv_dtype=kv_dtype,
    )


def both(law):
    """Run a law that takes (phase, data) for both phases."""
    return pytest.mark.parametrize("phase", PHASES)(settings(max_examples=80, deadline=None)(given(st.data())(law)))


def price(op, chip=CHIP, **how):
    return attend_gqa(op, chip, FITS[op.phase], **how)


def counts(op):
    return {f.name: getattr(op, f.name) for f in fields(op) if not isinstance(getattr(op, f.name), str)}


def merged(a, b):
    """Both batches in one launch; they share heads and widths."""
    return replace(a, **{n: getattr(a, n) + getattr(b, n) for n in ("sequences", "queries", "pairs", "context")})


@both
def test_scalars_and_arrays_agree_bit_for_bit(phase, data):
    ops = [data.draw(operators(phase)) for _ in range(4)]
    ops = [replace(op, dtype=ops[0].dtype, kv_dtype=ops[0].kv_dtype) for op in ops]
    for resident in (False, True):
        single = [price(op, resident=resident) for op in ops]
        stacked = {name: np.array([float(getattr(op, name)) for op in ops]) for name in counts(ops[0])}
        many = price(replace(ops[0], **stacked), resident=resident)
        for name in ("seconds", "compute_s", "memory_s", "latency_s", "flop", "moved_bytes"):
            assert [float(getattr(one, name)) for one in single] == getattr(many, name).tolist(), name


@pytest.mark.parametrize("name", ["pairs", "context", "heads", "kv_heads", "qk_dim", "v_dim"])
@both
def test_more_of_one_count_is_never_faster(name, phase, data):
    op, factor = data.draw(operators(phase)), data.draw(log(1, 100))
    more = replace(op, **{name: getattr(op, name) * factor})
    assert price(more).seconds >= price(op).seconds * (1 - 1e-12)


@settings(max_examples=60)
@given(operators("decode"), st.floats(0.0, 30.0), st.booleans())
def test_heads_that_share_no_keys_convert_every_element_of_the_cache(op, flop, alone):
    op = replace(op, heads=op.kv_heads if alone else 2.0 * op.kv_heads)
    chip = replace(CHIP, vector_share_ratio=0.5)  # of a die whose other half does something else
    plain, lone = (attend_gqa(op, chip, replace(FITS["decode"], lone_flop=each)) for each in (0.0, flop))
    took_s = op.context * op.heads * (op.qk_dim + op.v_dim) * flop / (chip.vector_flop_per_s / 2)
    assert lone.compute_s == pytest.approx(max(plain.compute_s, took_s) if alone else plain.compute_s)


@both
def test_more_sequences_of_the_same_length_are_never_faster(phase, data):
    op, factor = data.draw(operators(phase)), data.draw(log(1, 100))
    names = ("sequences", "queries", "pairs", "context")
    for resident in (False, True):
        more = replace(op, **{name: getattr(op, name) * factor for name in names})
        assert price(more, resident=resident).seconds >= price(op, resident=resident).seconds * (1 - 1e-12)


@both
def test_prefill_does_not_gain_from_cutting_the_same_work_into_sequences(phase, data):
    op, factor = data.draw(operators(phase)), data.draw(log(1, 100))
    if phase == "prefill":
        cut = replace(op, sequences=op.sequences * factor)
        assert price(cut).seconds >= price(op).seconds


@both
def test_a_faster_chip_is_never_slower(phase, data):
    op, factor = data.draw(operators(phase)), data.draw(log(1, 10))
    wider = replace(CHIP, memory=replace(CHIP.memory, bandwidth_bytes_per_s=factor * 3.3e12))
    harder = replace(CHIP, peak_flop_per_s={k: v * factor for k, v in CHIP.peak_flop_per_s.items()})
    vector = replace(CHIP, vector_flop_per_s=CHIP.vector_flop_per_s * factor)
    for chip in (wider, harder, vector):
        assert price(op, chip).seconds <= price(op).seconds * (1 + 1e-12)
    assert price(op, CHIP.partition(cube_ratio=0.5, vector_ratio=0.5)).seconds >= price(op).seconds


@both
def test_the_roofline_is_never_beaten(phase, data):
    op = data.draw(operators(phase))
    cost = price(op)
    assert cost.seconds >= cost.flop / CHIP.peak(op.dtype)
    assert cost.seconds >= cost.moved_bytes / CHIP.memory.bandwidth_bytes_per_s
    parts = (cost.compute_s, cost.memory_s, cost.latency_s)
    assert max(parts) * (1 - 1e-12) <= cost.seconds <= sum(parts) * (1 + 1e-12)


@both
def test_two_launches_never_beat_one(phase, data):
    a, b = data.draw(operators(phase)), data.draw(operators(phase))
    b = replace(a, **{n: getattr(b, n) for n in ("sequences", "queries", "pairs", "context")})
    assert price(a).seconds + price(b).seconds >= price(merged(a, b)).seconds * (1 - 1e-12)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_an_engine_that_rereads_keeps_the_laws(data):
    op, factor, resident = data.draw(operators("decode")), data.draw(log(1, 100)), data.draw(st.booleans())
    cost = attend_gqa(op, CHIP, UNSPLIT, resident=resident)
    assert cost.seconds >= attend_gqa(op, CHIP, FITS["decode"], resident=resident).seconds
    stacked = {name: np.array([float(value), float(value)]) for name, value in counts(op).items()}
    assert attend_gqa(replace(op, **stacked), CHIP, UNSPLIT, resident=resident).seconds.tolist() == [cost.seconds] * 2
    parts = (cost.compute_s, cost.memory_s, cost.latency_s)
    assert max(parts) * (1 - 1e-12) <= cost.seconds <= sum(parts) * (1 + 1e-12)
    # Not kv_heads: with more of them the groups fit a tile, and the wider kernel is not needed any more.
    for names in (("heads",), ("context", "pairs"), ("qk_dim",), ("sequences", "queries", "pairs", "context")):
        more = replace(op, **{name: getattr(op, name) * factor for name in names})
        assert attend_gqa(more, CHIP, UNSPLIT, resident=resident).seconds >= cost.seconds * (1 - 1e-12)
