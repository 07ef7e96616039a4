"""Laws of the price of latent attention: arrays, monotony, roofline, batching."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.cost.attend_mla import attend_mla
from taicang.evidence.kernels import mla_constants
from taicang.hardware import Chip
from taicang.ops import Attend

CHIPS = ("a100", "l40s", "h100", "h200", "b200", "b300", "gb200", "h20", "ascend-910c")
PHASES = ("prefill", "decode")
FIELDS = ("seconds", "compute_s", "memory_s", "latency_s", "flop", "moved_bytes")
SLACK = 1.0 + 1e-12


def whole(high: float) -> st.SearchStrategy[float]:
    """Whole numbers, log-uniform from one."""
    return st.floats(0.0, np.log(high)).map(lambda x: float(round(np.exp(x))))


sizes = st.tuples(whole(1024), whole(131072), whole(128), whole(4))
cases = st.tuples(st.sampled_from(CHIPS), st.sampled_from(PHASES), st.sampled_from(("bf16", "fp8")))


def attention(phase: str, sequences, length, heads, queries, kv_dtype: str = "bf16") -> Attend:
    """Whole prompts of ``length``, or ``queries`` tokens per sequence over ``length`` cached ones."""
    decode = phase == "decode"
    return Attend(
        kind="mla",
        phase="decode" if decode else "prefill",
        sequences=sequences,
        queries=sequences * (queries if decode else length),
        pairs=sequences * (queries * length if decode else length * (length + 1.0) / 2.0),
        context=sequences * length,
        heads=heads,
        kv_heads=1 if decode else heads,
        qk_dim=576 if decode else 192,
        v_dim=512 if decode else 128,
        dtype="bf16",
        kv_dtype=kv_dtype,
    )


def seconds(op: Attend, chip: Chip) -> float:
    return float(np.asarray(attend_mla(op, chip, mla_constants(chip, op)).seconds).item())


def joined(a: Attend, b: Attend) -> Attend:
    """The two batches as one."""
    return replace(
        a,
        sequences=a.sequences + b.sequences,
        queries=a.queries + b.queries,
        pairs=a.pairs + b.pairs,
        context=a.context + b.context,
    )


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("name", CHIPS)
def test_scalars_and_arrays_agree_bit_for_bit(name: str, phase: str) -> None:
    random = np.random.default_rng(7)
    draw = [np.round(np.exp(random.uniform(0.0, np.log(high), 64))) for high in (1024, 131072, 128, 4)]
    chip = catalog.chip(name)
    op = attention(phase, *draw)
    together = attend_mla(op, chip, mla_constants(chip, op))
    for i in range(64):
        one = attention(phase, *(float(column[i]) for column in draw))
        alone = attend_mla(one, chip, mla_constants(chip, one))
        for field in FIELDS:
            assert float(getattr(alone, field)) == float(getattr(together, field)[i]), (field, i)


@given(case=cases, size=sizes)
@settings(max_examples=40, deadline=None)
def test_integers_cost_the_same_as_floats(case, size) -> None:
    name, phase, kv = case
    chip = catalog.chip(name)
    base = seconds(attention(phase, *size, kv), chip)
    integers = [int(value) for value in size]
    assert seconds(attention(phase, *integers, kv), chip) == base
    assert seconds(attention(phase, *(np.array([value]) for value in integers), kv), chip) == base


@given(case=cases, size=sizes, factor=st.floats(1.0, 8.0))
@settings(max_examples=80, deadline=None)
def test_more_work_is_never_faster(case, size, factor: float) -> None:
    name, phase, kv = case
    chip = catalog.chip(name)
    sequences, length, heads, queries = size
    op = attention(phase, *size, kv)
    base = seconds(op, chip)
    more = [
        attention(phase, sequences * factor, length, heads, queries, kv),
        attention(phase, sequences, length * factor, heads, queries, kv),
        attention(phase, sequences, length, heads * factor, queries, kv),
        attention(phase, sequences, length, heads, queries * factor, kv),
        replace(op, pairs=op.pairs * factor),
        replace(op, context=op.context * factor),
        replace(op, queries=op.queries * factor),
    ]
    for bigger in more:
        assert seconds(bigger, chip) * SLACK >= base, bigger


@given(case=cases, size=sizes, factor=st.floats(1.0, 8.0))
@settings(max_examples=60, deadline=None)
def test_a_faster_chip_is_never_slower(case, size, factor: float) -> None:
    name, phase, kv = case
    chip = catalog.chip(name)
    op = attention(phase, *size, kv)
    base = seconds(op, chip)
    memory = replace(chip.memory, bandwidth_bytes_per_s=chip.memory.bandwidth_bytes_per_s * factor)
    peaks = {key: value * factor for key, value in chip.peak_flop_per_s.items()}
    for better in (
        replace(chip, memory=memory),
        replace(chip, peak_flop_per_s=peaks),
        replace(chip, vector_flop_per_s=chip.vector_flop_per_s * factor),
    ):
        assert seconds(op, better) <= base * SLACK
    assert seconds(op, chip.partition(cube_ratio=1.0 / factor, vector_ratio=1.0 / factor)) * SLACK >= base


@given(case=cases, size=sizes)
@settings(max_examples=80, deadline=None)
def test_never_beats_the_roofline(case, size) -> None:
    name, phase, kv = case
    chip = catalog.chip(name)
    op = attention(phase, *size, kv)
    fit = mla_constants(chip, op)
    cost = attend_mla(op, chip, fit)
    exact = 2.0 * op.pairs * op.heads * (op.qk_dim + op.v_dim)
    cache = op.context * op.qk_dim * (1.0 if kv == "fp8" else 2.0)
    assert cost.flop == pytest.approx(exact)
    assert cost.seconds >= exact / chip.peak(fit.arithmetic)
    assert cost.seconds >= cache / chip.memory.bandwidth_bytes_per_s
    assert cost.seconds >= cost.moved_bytes / chip.memory.bandwidth_bytes_per_s
    parts = (cost.compute_s, cost.memory_s, cost.latency_s)
    assert max(parts) <= cost.seconds * SLACK
    assert cost.seconds <= sum(parts) * SLACK


@given(case=cases, size=sizes, other=sizes)
@settings(max_examples=80, deadline=None)
def test_splitting_a_batch_never_gains(case, size, other) -> None:
    name, phase, kv = case
    chip = catalog.chip(name)
    heads = size[2]
    a = attention(phase, *size, kv)
    b = attention(phase, other[0], other[1], heads, other[3], kv)
    assert seconds(joined(a, b), chip) <= (seconds(a, chip) + seconds(b, chip)) * SLACK


def test_an_empty_batch_costs_the_launch() -> None:
    for phase in PHASES:
        op = attention(phase, 0.0, 0.0, 128.0, 1.0)
        chip = catalog.chip("h100")
        cost = attend_mla(op, chip, mla_constants(chip, op))
        assert float(cost.seconds) == pytest.approx(float(cost.latency_s), rel=0.2)
        assert float(cost.flop) == float(cost.moved_bytes) == 0.0
