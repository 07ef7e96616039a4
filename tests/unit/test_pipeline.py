"""Simulated pipelines against the published bubble formulas, and orders that are complete."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.train import pipeline
from taicang.train.memory import in_flight
from taicang.train.schedule import BACKWARD, DATA, FORWARD, PAIR, WEIGHT, Shape

STAGES = st.sampled_from([1, 2, 4, 8])
TIMES = st.floats(1e-3, 1e3)
SHAPES = (
    Shape(schedule="gpipe", pp=4, vpp=1, micro=8),
    Shape(schedule="1f1b", pp=4, vpp=1, micro=8),
    Shape(schedule="1f1b", pp=4, vpp=3, micro=8),
    Shape(schedule="1f1b", pp=4, vpp=1, micro=8, paired=True),
    Shape(schedule="1f1b", pp=4, vpp=3, micro=8, paired=True),
    Shape(schedule="1f1b", pp=1, vpp=1, micro=8, paired=True),
    Shape(schedule="zero_bubble", pp=4, vpp=1, micro=8),
    Shape(schedule="zb_2p", pp=4, vpp=1, micro=8),
    Shape(schedule="zb_2p", pp=4, vpp=1, micro=3),
    Shape(schedule="zb_v", pp=4, vpp=2, micro=8),
    Shape(schedule="zb_v", pp=3, vpp=2, micro=7),
    Shape(schedule="zb_v", pp=4, vpp=2, micro=2),
    Shape(schedule="dualpipev", pp=4, vpp=2, micro=8),
    Shape(schedule="dualpipev", pp=3, vpp=2, micro=11),
    Shape(schedule="dualpipev", pp=1, vpp=2, micro=4),
    Shape(schedule="dualpipe", pp=4, vpp=1, micro=8),
    Shape(schedule="dualpipe", pp=8, vpp=1, micro=20),
)


def _times(shape: Shape, f: float, b: float, w: float = 0.0, **more: float) -> pipeline.Durations:
    columns = [np.full(shape.chunks, seconds) for seconds in (f, b, w)]
    saved = np.full(shape.chunks, more.pop("saved", 0.0))
    return pipeline.Durations(
        forward_s=columns[0], data_s=columns[1], weight_s=columns[2], saved_s=saved, **more  # type: ignore[arg-type]
    )  # fmt: skip


def _run(schedule: str, pp: int, vpp: int, micro: int, f: float, b: float, w: float = 0.0, **more: float) -> float:
    shape = Shape(schedule=schedule, pp=pp, vpp=vpp, micro=micro, paired=bool(more.pop("paired", 0)))  # type: ignore[arg-type]
    return pipeline.phase(shape, _times(shape, f, b, w, **more)).seconds


@settings(max_examples=60, deadline=None)
@given(pp=STAGES, micro=st.integers(1, 70), f=TIMES, ratio=st.floats(0.5, 4.0))
def test_1f1b_and_gpipe_meet_the_bubble_formula(pp: int, micro: int, f: float, ratio: float) -> None:
    expected = (micro + pp - 1) * (f + f * ratio)
    assert _run("gpipe", pp, 1, micro, f, f * ratio) == pytest.approx(expected)
    if micro >= pp:
        assert _run("1f1b", pp, 1, micro, f, f * ratio) == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(pp=st.integers(2, 8), micro=st.integers(1, 8), runs=st.integers(1, 9), f=TIMES)
def test_a_pipeline_that_drains_pays_its_bubble_each_time(pp: int, micro: int, runs: int, f: float) -> None:
    shape = Shape(schedule="1f1b", pp=pp, vpp=1, micro=micro * pp)
    once = pipeline.phase(shape, _times(shape, f, 2 * f)).seconds
    drained = pipeline.phase(shape, _times(shape, f, 2 * f), runs).seconds
    whole = pipeline.phase(replace(shape, micro=micro * pp * runs), _times(shape, f, 2 * f)).seconds
    assert drained == pytest.approx(runs * once)
    assert drained - whole == pytest.approx((runs - 1) * (pp - 1) * 3 * f)


@settings(max_examples=40, deadline=None)
@given(pp=st.sampled_from([2, 4, 8]), vpp=st.integers(2, 5), rounds=st.integers(1, 9), f=TIMES)
def test_interleaving_divides_the_bubble(pp: int, vpp: int, rounds: int, f: float) -> None:
    micro = pp * rounds
    assert _run("1f1b", pp, vpp, micro, f, 2 * f) == pytest.approx((micro * vpp + pp - 1) * 3 * f)


@pytest.mark.parametrize(("pp", "micro"), [(4, 8), (4, 30), (8, 64)])
def test_zero_bubble_meets_its_formula(pp: int, micro: int) -> None:
    f = b = w = 1.0
    assert _run("zero_bubble", pp, 1, micro, f, b, w) == pytest.approx(3.0 * micro + (pp - 1) * (f + b - w))


@settings(max_examples=30, deadline=None)
@given(pp=st.sampled_from([2, 4, 8, 16]), more=st.integers(0, 40), f=TIMES, saved=st.floats(0.0, 0.9))
def test_dualpipe_meets_its_formula(pp: int, more: int, f: float, saved: float) -> None:
    """Bubble (pp / 2 - 1) (pair + backward - 3 weight), arXiv 2412.19437, table 2, where data and weight gradients take
    as long as a forward pass; a backward pass is both."""
    micro = 2 * (pp + more)
    shape = Shape(schedule="dualpipe", pp=pp, vpp=1, micro=micro)
    phase = pipeline.phase(shape, _times(shape, f, f, f, saved=saved * f))
    pair, backward = 3 * f - saved * f, 2 * f
    busy = 3 * f * micro - phase.saved_s.max()  # of the ranks that pair most
    assert phase.seconds - busy == pytest.approx((pp / 2 - 1) * (pair + backward - 3 * f), abs=1e-6 * phase.seconds)


@settings(max_examples=30, deadline=None)
@given(pp=STAGES, vpp=st.integers(1, 3), rounds=st.integers(3, 8), saved=st.floats(0.0, 1.0))
def test_pairs_save_what_they_hide_and_cost_a_longer_start(pp: int, vpp: int, rounds: int, saved: float) -> None:
    micro = pp * rounds
    shape = Shape(schedule="1f1b", pp=pp, vpp=vpp, micro=micro, paired=True)
    phase = pipeline.phase(shape, _times(shape, 1.0, 1.0, 1.0, saved=saved))
    plain = _run("1f1b", pp, vpp, micro, 1.0, 2.0)
    assert phase.seconds >= plain - saved * micro * vpp - 1e-9
    assert phase.seconds <= plain - saved * (micro * vpp - 2 * pp * vpp) + 6.0 * pp + 1e-9
    assert (phase.saved_s <= saved * micro * vpp + 1e-9).all()


@pytest.mark.parametrize(("vpp", "expected"), [(1, 0.3045), (6, 0.068)])
def test_pangu_ultra_s_bubbles(vpp: int, expected: float) -> None:
    """8 stages and 16 microbatches (global batch 2048 over 128 replicas); arXiv 2504.07866, section 4."""
    seconds = _run("1f1b", 8, vpp, 16, 1.0 / vpp, 2.0 / vpp)
    assert 1.0 - 16 * 3.0 / seconds == pytest.approx(expected, abs=0.002)


@settings(max_examples=40, deadline=None)
@given(
    schedule=st.sampled_from(["gpipe", "1f1b", "zero_bubble", "dualpipe"]),
    pp=st.sampled_from([2, 4, 8]),
    rounds=st.integers(2, 12),
    send=st.floats(0, 0.2),
)
def test_more_microbatches_never_raise_the_bubble(schedule: str, pp: int, rounds: int, send: float) -> None:
    def bubble(micro: int) -> float:
        return 1.0 - 3.0 * micro / _run(schedule, pp, 1, micro, 1.0, 1.0, 1.0, send_s=send)

    assert bubble(pp * (rounds + 2)) <= bubble(pp * rounds) + 1e-12


@pytest.mark.parametrize(
    ("schedule", "pp", "vpp", "paired", "micro"),
    [
        ("1f1b", 6, 1, False, 60),
        ("1f1b", 3, 2, False, 60),
        ("1f1b", 6, 1, True, 60),
        ("1f1b", 3, 2, True, 60),
        ("1f1b", 1, 1, True, 60),
        ("gpipe", 6, 1, False, 60),
        ("zero_bubble", 6, 1, False, 61),
        ("zb_2p", 6, 1, False, 61),
        ("dualpipev", 3, 2, False, 61),
        ("dualpipe", 6, 1, False, 86),
    ],
)
def test_long_steps_continue_the_simulation_exactly(schedule: str, pp: int, vpp: int, paired: bool, micro: int) -> None:
    rng = np.random.default_rng(1)
    shape = Shape(schedule=schedule, pp=pp, vpp=vpp, micro=micro, paired=paired)  # type: ignore[arg-type]
    columns = [rng.uniform(0.5, 1.5, pp * vpp) for _ in range(4)]
    if shape.dual:
        columns = [np.concatenate([one, one]) for one in columns]
    times = pipeline.Durations(
        forward_s=columns[0], data_s=columns[1], weight_s=columns[2], saved_s=columns[3] / 3, send_s=0.1
    )
    whole = pipeline.simulate(shape, times)
    phase = pipeline.phase(shape, times)
    assert phase.seconds == pytest.approx(whole.span_s if schedule == "zb_2p" else whole.seconds, rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_rank_does_everything_once_and_never_two_things_at_a_time(shape: Shape) -> None:
    run = pipeline.simulate(shape, _times(shape, 1.0, 1.5, 0.5, send_s=0.1))
    graph = run.graph
    done: dict[int, set[tuple[int, int]]] = {FORWARD: set(), DATA: set(), WEIGHT: set()}
    kinds = {FORWARD: (FORWARD,), DATA: (DATA,), WEIGHT: (WEIGHT,), BACKWARD: (DATA, WEIGHT)}
    for kind, chunk, micro, beside, other in zip(
        graph.kind, graph.chunk, graph.micro, graph.beside, graph.beside_micro, strict=True
    ):
        passes = [(FORWARD, chunk, micro), (BACKWARD, beside, other)] if kind == PAIR else [(kind, chunk, micro)]
        for one, where, which in passes:
            for each in kinds[one]:
                assert (where, which) not in done[each]
                done[each].add((where, which))
    assert {len(seen) for seen in done.values()} == {shape.chunks * shape.streams}
    for rank in range(shape.pp):
        mine = graph.rank == rank
        at = np.argsort(run.start_s[mine])
        assert (run.start_s[mine][at][1:] >= run.end_s[mine][at][:-1] - 1e-12).all()


@pytest.mark.parametrize("schedule", ["zb_2p", "zb_v"])
@pytest.mark.parametrize(("pp", "rounds"), [(2, 4), (4, 2), (4, 9), (8, 3)])
def test_next_to_no_bubble_where_passes_are_equally_long(schedule: str, pp: int, rounds: int) -> None:
    vpp = 2 if schedule == "zb_v" else 1
    micro = max(pp * rounds, 2 * pp - 1)
    busy = 3.0 * micro * vpp
    took = _run(schedule, pp, vpp, micro, 1.0, 1.0, 1.0)
    assert busy <= took <= busy + (pp + 1) * (schedule == "zb_v")
    plain = _run("1f1b", pp, 1, micro, 1.0 * vpp, 1.0 * vpp, 1.0 * vpp)
    for f, b, w in ((1.0, 1.2, 0.8), (1.0, 1.5, 0.7)):
        assert _run(schedule, pp, vpp, micro, f, b, w) < plain * (f + b + w) / 3.0


@settings(max_examples=25, deadline=None)
@given(pp=st.sampled_from([2, 4, 8]), more=st.integers(0, 40), f=TIMES, saved=st.floats(0.0, 0.9))
def test_dualpipev_is_half_of_dualpipe(pp: int, more: int, f: float, saved: float) -> None:
    """On half the ranks, with every chunk in place once: the same bubble a rank, the same pairs."""
    micro = 4 * pp + 2 * more
    whole = _run("dualpipe", 2 * pp, 1, 2 * micro, f, f, f, saved=saved * f)
    half = _run("dualpipev", pp, 2, micro, f, f, f, saved=saved * f)
    assert half == pytest.approx(whole, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_rank_holds_more_than_memory_counts(shape: Shape) -> None:
    """Microbatches between a chunk's forward pass and its weight gradient, over all chunks of a rank; in a pair, one
    comes to be as the other goes."""
    run = pipeline.simulate(shape, _times(shape, 1.0, 1.0, 1.0))
    graph = run.graph
    for rank in range(shape.pp):
        moves: list[tuple[float, int]] = []
        for i in np.flatnonzero(graph.rank == rank):
            kind = graph.kind[i]
            moves += [(run.start_s[i], 1)] if kind == FORWARD else []
            moves += [(run.end_s[i], -1)] if kind in (WEIGHT, BACKWARD) else []
        held = np.cumsum([step for _, step in sorted(moves)])
        assert held.max() <= in_flight(shape, rank) + 1e-9, (rank, held.max())


def test_dualpipe_holds_half_the_bubble_of_1f1b() -> None:
    one = _run("1f1b", 8, 1, 40, 1.0, 1.0, 1.0)
    assert _run("dualpipe", 8, 1, 40, 1.0, 1.0, 1.0) < one
    assert _run("dualpipe", 8, 1, 40, 1.0, 1.0, 1.0, saved=0.5) < _run("dualpipe", 8, 1, 40, 1.0, 1.0, 1.0)
