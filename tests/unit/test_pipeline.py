"""Simulated pipelines against the published bubble formulas, and orders that are complete."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.train import pipeline

STAGES = st.sampled_from([1, 2, 4, 8])
TIMES = st.floats(1e-3, 1e3)


def _run(schedule: str, pp: int, vpp: int, micro: int, f: float, b: float, w: float = 0.0, **more: float) -> float:
    chunks = pp * vpp
    return pipeline.seconds(
        schedule,
        pp,
        vpp,
        micro,
        forward_s=[f] * chunks,
        data_s=[b] * chunks,
        weight_s=[w] * chunks,
        **more,  # type: ignore[arg-type]
    )


@settings(max_examples=60, deadline=None)
@given(pp=STAGES, micro=st.integers(1, 70), f=TIMES, ratio=st.floats(0.5, 4.0))
def test_1f1b_and_gpipe_meet_the_bubble_formula(pp: int, micro: int, f: float, ratio: float) -> None:
    expected = (micro + pp - 1) * (f + f * ratio)
    assert _run("gpipe", pp, 1, micro, f, f * ratio) == pytest.approx(expected)
    if micro >= pp:
        assert _run("1f1b", pp, 1, micro, f, f * ratio) == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(pp=st.sampled_from([2, 4, 8]), vpp=st.integers(2, 5), rounds=st.integers(1, 9), f=TIMES)
def test_interleaving_divides_the_bubble(pp: int, vpp: int, rounds: int, f: float) -> None:
    micro = pp * rounds
    assert _run("1f1b", pp, vpp, micro, f, 2 * f) == pytest.approx((micro * vpp + pp - 1) * 3 * f)


@pytest.mark.parametrize(("pp", "micro"), [(4, 8), (4, 30), (8, 64)])
def test_zero_bubble_meets_its_formula(pp: int, micro: int) -> None:
    f = b = w = 1.0
    assert _run("zero_bubble", pp, 1, micro, f, b, w) == pytest.approx(3.0 * micro + (pp - 1) * (f + b - w))


@pytest.mark.parametrize(("vpp", "expected"), [(1, 0.3045), (6, 0.068)])
def test_pangu_ultra_s_bubbles(vpp: int, expected: float) -> None:
    """8 stages and 16 microbatches (global batch 2048 over 128 replicas); arXiv 2504.07866, section 4."""
    seconds = _run("1f1b", 8, vpp, 16, 1.0 / vpp, 2.0 / vpp)
    assert 1.0 - 16 * 3.0 / seconds == pytest.approx(expected, abs=0.002)


@settings(max_examples=40, deadline=None)
@given(pp=STAGES, rounds=st.integers(1, 12), send=st.floats(0, 0.2))
def test_more_microbatches_never_raise_the_bubble(pp: int, rounds: int, send: float) -> None:
    def bubble(micro: int) -> float:
        return 1.0 - 3.0 * micro / _run("1f1b", pp, 1, micro, 1.0, 2.0, send_s=send)

    assert bubble(pp * (rounds + 1)) <= bubble(pp * rounds) + 1e-12


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "zero_bubble"])
def test_long_steps_continue_the_simulation_exactly(schedule: str) -> None:
    rng = np.random.default_rng(1)
    times = [rng.uniform(0.5, 1.5, 6).tolist() for _ in range(3)]
    keys = dict(zip(("forward_s", "data_s", "weight_s"), times, strict=True))
    for vpp, pp in ((1, 6), (2, 3)):
        if schedule == "zero_bubble" and vpp > 1:
            continue
        whole = pipeline.simulate(schedule, pp, vpp, 60, **keys, send_s=0.1).seconds  # type: ignore[arg-type]
        assert pipeline.seconds(schedule, pp, vpp, 60, **keys, send_s=0.1) == pytest.approx(whole, rel=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize(("schedule", "vpp"), [("1f1b", 1), ("1f1b", 3), ("gpipe", 1), ("zero_bubble", 1)])
def test_every_rank_does_everything_once_and_never_two_things_at_a_time(schedule: str, vpp: int) -> None:
    pp, micro = 4, 8
    run = pipeline.simulate(
        schedule, pp, vpp, micro,  # type: ignore[arg-type]
        forward_s=[1.0] * pp * vpp, data_s=[1.5] * pp * vpp, weight_s=[0.5] * pp * vpp, send_s=0.1,
    )  # fmt: skip
    graph = run.graph
    passes = 3 if schedule == "zero_bubble" else 2
    assert len(set(zip(graph.kind, graph.chunk, graph.micro, strict=True))) == passes * micro * pp * vpp
    for rank in range(pp):
        mine = graph.rank == rank
        at = np.argsort(run.start_s[mine])
        assert (run.start_s[mine][at][1:] >= run.end_s[mine][at][:-1] - 1e-12).all()
