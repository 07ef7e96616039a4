"""Laws of captured programs over all built-in machines: kernels drawn at random on streams that wait for each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.errors import MissingFigure, TaicangError
from taicang.search.explain import RESOURCES
from taicang.virtual.capture import BLOCK, KERNEL, MARK, RECORD, WAIT_DEVICE, Capture, Rank
from taicang.virtual.operators import Spec, kernel
from taicang.virtual.report import report

SIZES = st.floats(0.0, 13.5).map(lambda x: round(2.0**x))
TYPES = st.sampled_from(["bfloat16", "float16", "float32"])


def spec(*shape, dtype="bfloat16"):
    return Spec(shape, dtype, int(np.prod(shape)) * (4 if dtype == "float32" else 2))


@st.composite
def kernels(draw):
    m, n, k, dtype = draw(SIZES), draw(SIZES), draw(SIZES), draw(TYPES)
    name = draw(st.sampled_from(["mm", "add", "native_layer_norm", "_softmax", "copy_", "embedding", "topk", "sum"]))
    if name == "mm":
        return kernel(
            name, "forward", [spec(m, k, dtype=dtype), spec(k, n, dtype=dtype)], [spec(m, n, dtype=dtype)], {}
        )
    return kernel(name, "forward", [spec(m, n, dtype=dtype)], [spec(m, n, dtype=dtype)], {})


@st.composite
def captures(draw):
    """Two steps of one rank: kernels on three streams, with events between them."""
    made = tuple(draw(st.lists(kernels(), min_size=1, max_size=12)))
    rows = []
    for _ in range(2):
        for number in range(len(made)):
            stream = draw(st.integers(0, 2))
            rows.append((KERNEL, stream, number))
            if draw(st.booleans()):
                rows += [(RECORD, stream, len(rows)), (BLOCK, draw(st.integers(0, 2)), len(rows))]
        rows += [(WAIT_DEVICE, 0, 0), (MARK, 0, 1 + len(rows))]
    rank = Rank(rank=0, kernels=made, work=np.array(rows, np.int64), changes=np.empty((0, 4), np.int64),
                operands=np.empty((0, 3), np.int64), kinds={}, invented={}, notes=())  # fmt: skip
    return Capture(command=("x",), machine="hgx-h100", world=1, torch="2", ranks=(rank,))


@st.composite
def machines(draw):
    try:
        return catalog.machine(draw(st.sampled_from(catalog.names("machine"))))
    except MissingFigure:
        assume(False)


def timed(capture, machine, issue_s=None):
    try:
        return report(capture, machine, None, issue_s)
    except TaicangError:  # a format that the chip lacks
        assume(False)


@settings(max_examples=40, deadline=None)
@given(captures(), machines(), st.sampled_from(sorted(RESOURCES)), st.floats(1.05, 8.0))
def test_more_of_a_resource_never_slows_a_program(capture, machine, resource, ratio):
    less, more = timed(capture, machine), timed(capture, RESOURCES[resource](machine, ratio))
    assert more.step_s <= less.step_s * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(captures(), machines(), st.floats(-7.0, -3.0).map(lambda x: 10.0**x), st.floats(1.0, 10.0))
def test_a_step_is_no_shorter_than_its_longest_stream_nor_longer_than_all_after_another(
    capture, machine, issue_s, more
):
    made = timed(capture, machine, issue_s)
    rank = made.ranks[0]
    alone = sum(line.seconds for line in rank.lines)
    host = sum(line.launches for line in rank.lines) * issue_s
    assert rank.step_s <= (alone + rank.slowed_s + host) * (1 + 1e-9)
    assert rank.compute_s <= alone * (1 + 1e-9)
    assert rank.step_s >= rank.compute_s * (1 - 1e-9)
    assert 0.0 <= rank.mfu_ratio <= 1.0
    assert rank.flop <= made.peak_flop_per_s * rank.step_s
    assert timed(capture, machine, issue_s * more).ranks[0].step_s >= rank.step_s * (1 - 1e-9)


@settings(max_examples=40, deadline=None)
@given(captures(), machines(), st.randoms(use_true_random=False))
def test_numbers_of_streams_and_kernels_are_names(capture, machine, random):
    """Renamed, they are the same program; with one kernel less it is none longer."""
    rank = capture.ranks[0]
    order = list(range(len(rank.kernels)))
    random.shuffle(order)
    streams = [0, *random.sample([1, 2], 2)]
    work = rank.work.copy()
    named = work[:, 0] == KERNEL
    work[named, 2] = np.array([order.index(each) for each in work[named, 2]])
    work[:, 1] = np.array(streams)[work[:, 1]]
    moved = replace(rank, kernels=tuple(rank.kernels[each] for each in order), work=work)
    less = replace(rank, work=np.delete(rank.work, np.flatnonzero(named)[random.randrange(named.sum())], axis=0))
    same, renamed, shorter = (timed(replace(capture, ranks=(each,)), machine) for each in (rank, moved, less))
    assert renamed.ranks[0].steps_s == pytest.approx(same.ranks[0].steps_s, rel=1e-12)
    assert sum(shorter.ranks[0].steps_s) <= sum(same.ranks[0].steps_s) * (1 + 1e-9)
