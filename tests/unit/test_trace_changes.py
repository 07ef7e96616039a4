"""Traces cut, thinned, scaled and joined."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taicang.errors import InvalidInput
from taicang.traffic.change import conversations, faster, longer, overlaid, spliced, thin, to_rate, window
from taicang.traffic.generate import arriving, fixed, sessions
from taicang.traffic.read import read_trace
from taicang.traffic.trace import infinite_hit_ratio

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "traces"
needs_traces = pytest.mark.skipif(not SHARED.is_dir(), reason="no public traces beside the repository (shared/traces)")


def talks(seed=0):
    made = sessions(200, 5, shared_tokens=200, new_tokens=150, output_tokens=60, delay_s=4.0, spread=0.5, seed=seed)
    return arriving(made, 2.0, seed=seed)


def test_thinning_by_session_keeps_what_prompts_share():
    trace = talks()
    half = thin(trace, 0.5, 3)
    assert 0.35 < len(half) / len(trace) < 0.65
    assert len(half) % 5 == 0
    assert infinite_hit_ratio(half) == pytest.approx(infinite_hit_ratio(trace), rel=0.03)


def test_sessions_are_found_by_their_prompts():
    trace = sessions(50, 4, shared_tokens=640, new_tokens=200, output_tokens=60, delay_s=4.0)
    found = conversations(replace(trace, session=None))
    assert len(np.unique(found)) == 50
    assert np.array_equal(found, np.repeat(found[::4], 4))


@needs_traces
def test_thinning_a_public_trace_keeps_its_hit_ratio():
    trace = read_trace(SHARED / "mooncake_fast25_conversation.jsonl.gz")
    third = thin(trace, 1 / 3, 0)
    assert 0.25 < len(third) / len(trace) < 0.42
    assert infinite_hit_ratio(third) == pytest.approx(infinite_hit_ratio(trace), abs=0.04)


@given(st.floats(0.05, 20.0), st.integers(0, 5))
def test_longer_prompts_keep_the_number_of_their_blocks(ratio, seed):
    trace = talks(seed % 2)
    made = longer(trace, ratio, 2.0)
    assert all(len(ids) == -(-int(n) // made.block) for ids, n in zip(made.blocks, made.input_tokens, strict=True))
    assert made.input_tokens.sum() == pytest.approx(trace.input_tokens.sum() * made.block / trace.block, rel=0.02)
    assert made.output_tokens.sum() == pytest.approx(2 * trace.output_tokens.sum())


def test_time_is_scaled_and_cut():
    trace = arriving(fixed(1000, 10, 10), 5.0, seed=1)
    assert to_rate(trace, 20.0).span_s == pytest.approx(999 / 20.0)
    assert faster(trace, 2.0).span_s == pytest.approx(trace.span_s / 2)
    part = window(trace, 50.0, 100.0)
    assert 150 < len(part) < 350
    assert part.arrival_s[0] == 0.0
    with pytest.raises(InvalidInput, match="no request arrives"):
        window(trace, 1e6, 2e6)
    with pytest.raises(InvalidInput, match="needs times"):
        window(fixed(5, 1, 1), 0.0, 1.0)


def test_a_cut_takes_sessions_with_their_turns():
    part = window(talks(), 10.0, 30.0)
    assert np.isnan(part.delay_s[0])
    assert (~np.isnan(part.delay_s)).sum() == 4 * np.isnan(part.delay_s).sum()


def test_joined_traces_share_nothing():
    one = talks()
    both = spliced([one, one], gap_s=10.0)
    assert both.span_s == pytest.approx(2 * one.span_s + 10.0)
    assert len(np.unique(both.session)) == 400
    assert infinite_hit_ratio(both) == pytest.approx(infinite_hit_ratio(one))
    beside = overlaid([one, one])
    assert beside.span_s == pytest.approx(one.span_s)
    assert np.all(np.diff(beside.arrival_s) >= 0)
    assert set(beside.client.tolist()) == {0, 1}
    other = longer(one, 0.5, 1.0)
    with pytest.raises(InvalidInput, match="blocks of 32 and 64"):
        spliced([one, other])
