"""Laws of commands that hold no law of a floor below them: centres, ports, workloads, captures, queries."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.app.main import cli
from taicang.errors import MissingFigure, NotModelled
from taicang.ops import Gemm
from taicang.virtual import fusion
from taicang.virtual.capture import KERNEL, MARK, Capture, Rank
from taicang.virtual.operators import Kernel
from taicang.virtual.report import report

ROOT = Path(__file__).parents[2]
MACHINES = st.sampled_from(catalog.names("machine"))
LAW = settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


LACKING = ("is published; give --", "the network has")


def asked(*words):
    """What a command prints with ``--json``; None where the machine lacks a figure or does not fit the question."""
    done = CliRunner().invoke(cli, [*map(str, words)], standalone_mode=False)
    if isinstance(done.exception, MissingFigure | NotModelled) or any(each in str(done.exception) for each in LACKING):
        return None
    assert done.exception is None, done.exception
    told = json.loads(done.stdout)
    return None if isinstance(told, dict) and told.get("infeasible") else told


def bands(told):
    """Every band of an answer."""
    if isinstance(told, dict):
        if {"low", "mid", "high"} <= told.keys():
            yield told
        told = list(told.values())
    for each in told if isinstance(told, list) else ():
        yield from bands(each)


CENTRE = ("--samples", 200, "--price", "2..3 MCNY", "--serve", "llama-3.1-8b", "--json")


@LAW
@given(on=MACHINES, use=st.integers(5, 45), more=st.floats(1.1, 2.0), count=st.integers(1, 50))
def test_a_busier_centre_is_never_dearer_and_its_size_changes_no_price(on, use, more, count):
    base = asked("centre", on, *CENTRE, "--utilisation", f"{use}%")
    if base is None:
        return
    for band in bands(base):
        assert band["low"] <= band["mid"] <= band["high"]
    busier = asked("centre", on, *CENTRE, "--utilisation", f"{use * more:.3f}%")
    larger = asked("centre", on, *CENTRE, "--utilisation", f"{use}%", "--count", count)
    for end in ("low", "mid", "high"):
        assert busier["output_mtoken"][end] <= base["output_mtoken"][end] * (1 + 1e-9)
        assert larger["chip_hour"][end] <= base["chip_hour"][end] * (1 + 1e-9)  # people are shared
    assert larger["chips"] == count * base["chips"]


@LAW
@given(on=MACHINES, other=MACHINES)
def test_a_centre_beside_others_costs_what_it_costs_alone(on, other):
    alone = asked("centre", on, *CENTRE)
    beside = asked("centre", on, *CENTRE, "--compare", f"{other},{on}") if alone else None
    if beside is not None:
        assert {**beside, "compared": 0, "assumptions": 0} == {**alone, "compared": 0, "assumptions": 0}


NODES = st.sampled_from(["hgx-h100 x 4", "hgx-h200 x 2", "atlas-800-a2-376t x 4", "gb200-nvl72", "cloudmatrix384"])


@settings(LAW, max_examples=5)
@given(on=NODES, spares=st.integers(1, 64), hours=st.floats(2.0, 6.0), digits=st.floats(9.0, 13.0))
def test_days_of_a_run_count_its_failures_and_energy_is_power_times_them(on, spares, hours, digits):
    words = ("train", "llama-3-8b", "--on", on, "--tp", 8, "--global-batch", 576, "--chip-hour", 2, "--json")
    words = (*words, "--tokens", round(10.0**digits), "--mtbf", f"chip={10.0**hours}h")
    alone, spared = asked(*words), asked(*words, "--spares", spares)
    if alone is None or spared is None:
        return
    for told, idle in ((alone, 0), (spared, spares)):
        run, chips = told["prediction"]["run"], told["prediction"]["chips"] + idle
        spent = run["busy_s"] + run["checkpoint_s"] + run["lost_s"] + run["waiting_s"]
        assert spent == pytest.approx(run["seconds"])
        assert run["busy_s"] == pytest.approx(run["steps"] * told["prediction"]["step"]["seconds"], rel=1e-6)
        if run["energy_j"] is not None:
            assert run["energy_j"] == pytest.approx(sum(run["power"].values()) * run["seconds"])
        assert run["rent_usd"] == pytest.approx(2.0 / 3600.0 * chips * run["seconds"])
    assert spared["prediction"]["run"]["seconds"] <= alone["prediction"]["run"]["seconds"] * (1 + 1e-9)


@settings(LAW, max_examples=3)
@given(on=NODES, tariff=st.floats(-1.5, 0.5).map(lambda digits: 10.0**digits))
def test_dearer_power_never_makes_a_run_cheaper(on, tariff):
    words = (
        "centre",
        on,
        "--samples",
        200,
        "--price",
        "2..3 MCNY",
        "--json",
        "--train",
        "llama-3-8b",
        "--tokens",
        "1B",
    )
    once, twice = (asked(*words, "--tariff", f"{rate!r} CNY/kWh") for rate in (tariff, 2.0 * tariff))
    if once is not None:
        for end in ("low", "mid", "high"):
            for figure in ("run", "used_chip_hour", "bill_per_chip_month"):
                assert twice[figure][end] >= once[figure][end] * (1 - 1e-9)
            assert twice["parts"]["electricity"][end] == pytest.approx(2.0 * once["parts"]["electricity"][end])
            assert twice["parts"]["capital"] == once["parts"]["capital"]


def findings(root):
    told = asked("port", root, "--all", "--json", "-")
    told.pop("root")
    return told


def test_where_a_repository_lies_and_how_its_lines_end_changes_no_finding(tmp_path):
    plain, crlf = tmp_path / "plain", tmp_path / "deep" / "crlf"
    shutil.copytree(ROOT / "examples" / "to-port", plain)
    shutil.copytree(plain, crlf)
    for path in crlf.rglob("*.*"):
        if path.is_file():
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert findings(plain) == findings(crlf)


@LAW
@given(data=st.data())
def test_code_that_is_added_takes_nothing_away(data, tmp_path):
    files = sorted(path.relative_to(ROOT) for path in (ROOT / "examples" / "to-port").rglob("*.py"))
    fewer = data.draw(st.sets(st.sampled_from(files), min_size=1))
    counts = []
    for kept in (fewer, set(files)):
        root = tmp_path / "r"
        shutil.rmtree(root, ignore_errors=True)
        for path in kept:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, root / path)
        counts.append(sum(sum(tiers.values()) for tiers in findings(root)["tiers"].values()))
    assert counts[0] <= counts[1]


HEAD = (
    "HYBRID_TRANSFORMER_FWD_IN_BCKWD model_parallel_NPU_group: {tp} ep: 1 pp: 1 vpp: 1 ga: 1 all_gpus: 8 "
    "checkpoints: 0 checkpoint_initiates: 0"
)
SIZES = st.floats(2, 9).map(lambda digits: round(10**digits))
KINDS = st.sampled_from(["NONE", "ALLREDUCE", "ALLGATHER", "REDUCESCATTER", "ALLTOALL"])
LAYERS = st.lists(st.tuples(*[SIZES, KINDS, SIZES] * 3), min_size=1, max_size=4)


def workload(path, layers, tp):
    rows = [" ".join(map(str, ("layer", -1, *layer, 100))) for layer in layers]
    path.write_text("\n".join([HEAD.format(tp=tp), str(len(rows)), *rows]) + "\n")
    return path


@LAW
@given(layers=LAYERS, tp=st.sampled_from([1, 2, 4, 8]), on=MACHINES, at=st.integers(0, 8), ratio=st.integers(2, 9))
def test_a_workload_with_more_in_it_never_ends_sooner(layers, tp, on, at, ratio, tmp_path):
    first = asked("fabric", "run", workload(tmp_path / "a.txt", layers, tp), "--on", on, "--json")
    if first is None:
        return
    more = [list(layer) for layer in layers]
    if not isinstance(more[0][at], str):
        more[0][at] *= ratio
    second = asked("fabric", "run", workload(tmp_path / "b.txt", more, tp), "--on", on, "--json")
    third = asked("fabric", "run", workload(tmp_path / "c.txt", [*layers, layers[0]], tp), "--on", on, "--json")
    assert first["seconds"] <= second["seconds"] * (1 + 1e-9)
    assert first["seconds"] <= third["seconds"] * (1 + 1e-9)
    for each in first["by_rank"].values():
        assert max(each["compute_s"], each["communication_s"]) <= each["seconds"] * (1 + 1e-9)
        assert each["seconds"] <= (each["compute_s"] + each["communication_s"]) * (1 + 1e-9)


SIZE = st.floats(0, 4.5).map(lambda digits: round(10**digits))


@st.composite
def captures(draw):
    """A step of one rank: any products, one after the other."""
    kernels = tuple(
        Kernel(name=f"mm{i}", phase="forward", op=Gemm(m=m, n=n, k=k, dtype="bf16"), flop=2.0 * m * n * k)
        for i, (m, n, k) in enumerate(draw(st.lists(st.tuples(SIZE, SIZE, SIZE), min_size=1, max_size=4)))
    )
    work = [(KERNEL, 0, 0), (MARK, 0, 1), *((KERNEL, 0, i) for i in range(len(kernels))), (MARK, 0, 2)]
    rank = Rank(
        rank=0, kernels=kernels, work=np.array(work, np.int64), changes=np.array([(0, 0, 1 << 20, 2 << 20)], np.int64),
        operands=np.empty((0, 3), np.int64), kinds={"weights": (0,)}, invented={}, notes=(),
    )  # fmt: skip
    return Capture(command=("train.py",), machine="hgx-h100", world=1, torch="2.13.0", ranks=(rank,))


@LAW
@given(made=captures(), on=MACHINES, ratio=st.floats(1.0, 8.0))
def test_a_captured_step_keeps_its_bounds_and_is_never_slower_on_more(made, on, ratio):
    try:
        machine = catalog.machine(on)
        base = report(made, machine, issue_s=1e-6)
    except (MissingFigure, NotModelled):
        return
    (rank,) = base.ranks
    assert 0.0 <= rank.mfu_ratio <= 1.0
    assert rank.compute_s + rank.host_s <= rank.step_s * (1 + 1e-9)
    assert report(fusion.fuse(made), machine, issue_s=1e-6).step_s <= base.step_s * (1 + 1e-9)
    assert report(made, machine, issue_s=1e-6 * ratio).step_s >= base.step_s * (1 - 1e-9)
    memory = replace(machine.chip.memory, bandwidth_bytes_per_s=machine.chip.memory.bandwidth_bytes_per_s * ratio)
    wider = replace(machine, chip=replace(machine.chip, memory=memory))
    assert report(made, wider, issue_s=1e-6).step_s <= base.step_s * (1 + 1e-9)


def test_a_query_counts_what_the_study_has(tmp_path):
    pytest.importorskip("duckdb", reason="DuckDB is an extra")
    study = tmp_path / "s.yaml"
    study.write_text(
        "base: {model: llama-3.1-8b, on: hgx-h100, tp: 1, mode: agg}\naxes: {batch: [1, 4, 16, 10000000]}\n"
    )
    CliRunner().invoke(cli, ["sweep", str(study), "--workers", "1"], standalone_mode=False)
    rows = [json.loads(line) for line in (tmp_path / "s" / "results.jsonl").read_text().splitlines()]
    ((told,),) = (asked("sweep", "query", study, "select count(*) n, sum(feasible::int) f from results", "--json"),)
    assert told == {"n": 4, "f": sum(row["feasible"] for row in rows)}
    every = asked("sweep", "query", study, "select point, output_tokens_per_s_per_chip r from results", "--json")
    assert {row["point"]: row["r"] for row in every} == {
        row["point"]: row.get("output_tokens_per_s_per_chip") for row in rows
    }
