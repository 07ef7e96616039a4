"""Virtual devices without PyTorch: operators from shapes, streams, captures, and what the commands refuse."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from taicang import catalog
from taicang.app.main import cli
from taicang.errors import InvalidInput
from taicang.ops import Attend, Collective, Gemm, Pointwise
from taicang.virtual.capture import (
    BLOCK,
    COLLECTIVE,
    KERNEL,
    MARK,
    MEET,
    RECORD,
    WAIT_DEVICE,
    Capture,
    Rank,
    load,
    save,
)
from taicang.virtual.launch import world_of
from taicang.virtual.members import Members, label, members_of
from taicang.virtual.memory import peak
from taicang.virtual.operators import Kernel, Spec, kernel
from taicang.virtual.report import report
from taicang.virtual.schedule import Clock, alone, covered, together

SIZES = st.integers(1, 4096)


def spec(*shape, dtype="bfloat16", wide=2):
    return Spec(tuple(shape), dtype, int(np.prod(shape)) * wide)


@given(SIZES, SIZES, SIZES)
def test_products_count_their_operands(m, n, k):
    made = kernel("addmm", "forward", [spec(n), spec(m, k), spec(k, n)], [spec(m, n)], {})
    assert made.op == Gemm(m=m, n=n, k=k, batch=1, dtype="bf16")
    assert made.flop == 2.0 * m * n * k


@given(SIZES, SIZES)
def test_everything_else_moves_its_operands_once(rows, width):
    made = kernel("gelu", "forward", [spec(rows, width)], [spec(rows, width)], {})
    assert isinstance(made.op, Pointwise)
    assert made.op.moved_bytes == 4 * rows * width


@given(st.integers(1, 8), st.integers(1, 512))
def test_a_causal_mask_halves_the_pairs(batch, tokens):
    shape = (batch, 8, tokens, 64)
    given_ = {"query": shape, "key": shape, "value": shape, "causal": True, "backward": False, "dtype": "bfloat16"}
    made = kernel("attention", "forward", [], [], given_)
    assert isinstance(made.op, Attend)
    assert made.op.pairs == batch * tokens * (tokens + 1) / 2
    backward = kernel("attention_backward", "backward", [], [], given_ | {"backward": True})
    assert backward.flop == 2 * made.flop
    assert backward.op == replace(made.op, phase="backward")
    assert backward.repeats == 1.0


@given(st.integers(0, 100), st.integers(1, 64), st.integers(2, 48))
def test_a_group_s_name_tells_its_ranks(first, step, count):
    ranks = tuple(range(first, first + step * count, step))
    assert members_of(label("mesh_dp", ranks, 4096)) == ranks
    assert Members(name="", ranks=ranks).operator("all_gather", 8.0) == Collective(
        kind="all_gather", payload_bytes=8.0, ranks=count, stride=step
    )


def test_irregular_groups_list_their_ranks():
    assert members_of(label("", (0, 1, 5), 8)) == (0, 1, 5)
    assert members_of(f"{MEET}:3>7") == (3, 7)


def log(*rows):
    return np.asarray(rows, np.int64)


def test_streams_overlap_until_an_event_joins_them():
    clock = Clock(seconds=[1.0, 2.0], groups=["", ""], issue_s=0.1)
    alone(
        clock, log((KERNEL, 0, 0), (KERNEL, 1, 1), (RECORD, 1, 7), (BLOCK, 0, 7), (KERNEL, 0, 0), (WAIT_DEVICE, 0, 0))
    )
    assert clock.begin[0] == pytest.approx(0.1)
    assert clock.begin[1] == pytest.approx(0.2)
    assert clock.begin[4] == pytest.approx(2.2)
    assert clock.host_s == pytest.approx(3.2)
    assert clock.waited_s == pytest.approx(3.2 - 0.3)


def test_collectives_start_when_the_last_rank_is_there():
    clocks = {r: Clock(seconds=[1.0, 5.0, 0.5], groups=["", "", "world:0+1*2"], issue_s=0.0) for r in (0, 1)}
    rows = {0: log((KERNEL, 0, 0), (COLLECTIVE, 1, 2)), 1: log((KERNEL, 1, 1), (COLLECTIVE, 1, 2))}
    together(clocks, rows, {"world:0+1*2": (0, 1)})
    assert clocks[0].begin[1] == clocks[1].begin[1] == 5.0


def test_messages_wait_for_their_sender_only():
    group = f"{MEET}:0>1"
    clocks = {r: Clock(seconds=[3.0, 0.5], groups=["", group], issue_s=0.0) for r in (0, 1)}
    together(clocks, {0: log((KERNEL, 0, 0), (COLLECTIVE, 0, 1)), 1: log((COLLECTIVE, 0, 1))}, {})
    assert clocks[1].begin[0] == 3.0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 10)), min_size=1, max_size=30))
def test_covered_time_is_no_longer_than_the_sum(pairs):
    begin = np.asarray([a for a, _ in pairs])
    end = begin + np.asarray([b for _, b in pairs])
    assert covered(begin, end) <= np.sum(end - begin) + 1e-9
    assert covered(begin, end) <= end.max() - begin.min() + 1e-9
    assert covered(begin, end) >= np.max(end - begin) - 1e-9


def capture(machine="hgx-h100"):
    product = Kernel(name="mm", phase="forward", op=Gemm(m=4096, n=4096, k=4096, dtype="bf16"), flop=2.0 * 4096**3)
    rank = Rank(
        rank=0,
        kernels=(product,),
        work=log((KERNEL, 0, 0), (MARK, 0, 1), (KERNEL, 0, 0), (KERNEL, 0, 0), (MARK, 0, 2)),
        changes=log((0, 0, 1 << 20, 2 << 20), (1, 1, 1 << 30, 3 << 30), (3, 1, -(1 << 30), 3 << 30)),
        operands=np.empty((0, 3), np.int64),
        kinds={"weights": (0,)},
        invented={},
        notes=(),
    )
    return Capture(command=("train.py",), machine=machine, world=1, torch="2.13.0", ranks=(rank,))


def test_a_capture_comes_back_and_reports_its_last_step(tmp_path):
    save(capture(), tmp_path)
    found = load(tmp_path)
    assert found.ranks[0].kernels == capture().ranks[0].kernels
    made = report(found, catalog.machine("hgx-h100"), issue_s=0.0)
    assert made.step_s == pytest.approx(2 * made.ranks[0].steps_s[0])
    assert made.ranks[0].memory.kinds_bytes == {"weights": 1 << 20, "activations and workspaces": 1 << 30}
    assert 0.3 < made.ranks[0].mfu_ratio < 1.0


@pytest.mark.parametrize("machine", ["cloudmatrix384", "gb200-nvl72", "atlas-800-a2", "hgx-a100", "mi300x-8"])
def test_a_capture_has_a_price_on_other_machines(machine):
    assert report(capture(), catalog.machine(machine)).step_s > 0


def test_nothing_allocated_is_no_peak():
    rank = capture().ranks[0]
    empty = Rank(
        rank=0, kernels=(), work=rank.work, changes=np.empty((0, 4), np.int64), operands=rank.operands, kinds={},
        invented={}, notes=(),
    )  # fmt: skip
    assert peak(empty).allocated_bytes == 0


def test_a_capture_of_another_version_is_refused(tmp_path):
    save(capture(), tmp_path)
    path = tmp_path / "capture.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"taicang_capture": 99}))
    with pytest.raises(InvalidInput, match="version 99"):
        load(tmp_path)
    done = CliRunner().invoke(cli, ["reprice", str(tmp_path), "--on", "hgx-h100"])
    assert isinstance(done.exception, InvalidInput)


@pytest.mark.parametrize("ranks", [[], [0, 0], [-1], [8], [0, 8], ["0"], None, 0])
def test_a_capture_of_no_rank_or_one_outside_its_world_is_refused(ranks, tmp_path):
    save(capture(), tmp_path)
    path = tmp_path / "capture.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"world": 8, "ranks": ranks}))
    done = CliRunner().invoke(cli, ["reprice", str(tmp_path), "--on", "hgx-h100"])
    assert isinstance(done.exception, InvalidInput), done.output
    assert "capture.json" in str(done.exception)


@pytest.mark.parametrize(
    ("ranks", "said"),
    [("0-9", "rank 9 is outside"), ("8", "rank 8 is outside"), *((w, "expected all") for w in ("a", "", "3-1"))],
)
def test_ranks_outside_the_world_are_refused(ranks, said):
    with pytest.raises(InvalidInput, match=f"--ranks: {said}"):
        world_of(catalog.machine("hgx-h100"), ranks, 8)


def test_ranks_of_a_list():
    assert world_of(catalog.machine("hgx-h100"), "0-2,5", 0) == ((0, 1, 2, 5), 8)
    assert world_of(catalog.machine("cloudmatrix384"), "reps", 0) == ((0,), 768)


@pytest.mark.skipif(find_spec("torch") is not None, reason="PyTorch is installed")
def test_without_pytorch_one_line_says_what_to_do(tmp_path):
    script = Path(tmp_path, "train.py")
    script.write_text("import torch\n")
    done = CliRunner().invoke(cli, ["run", "--on", "hgx-h100", str(script)])
    assert isinstance(done.exception, InvalidInput)
    assert "pip install 'taicang[torch]'" in str(done.exception)
    assert CliRunner().invoke(cli, ["doctor"]).exit_code == 2
