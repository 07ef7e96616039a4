"""A study that is killed at random moments ends with the very results of one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from taicang.app.study_points import ASKED, served
from taicang.errors import InvalidInput
from taicang.search import workers
from taicang.search.journal import Journal
from taicang.search.study import points, read_study

STUDY = {
    "base": {"model": "llama-3.1-8b", "on": "hgx-h100", "input": 1000, "output": 200, "tp": 1, "mode": "agg"},
    "axes": {
        "batch": {"from": 1, "to": 256, "scale": "log"},
        "chip.memory.bandwidth": {"from": "2 TB/s", "to": "6 TB/s"},
        "quant": ["auto", "fp8"],
    },
    "sample": {"kind": "latin", "points": 80, "seed": 3},
}


def write(folder, **changes):
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY | changes))
    return path


def command(study, out, *args):
    return [sys.executable, "-m", "taicang", "sweep", str(study), "--out", str(out), *args]


def test_killed_at_random_moments_the_results_are_the_same(tmp_path):
    study = write(tmp_path)
    subprocess.run(command(study, tmp_path / "whole", "--workers", "1"), check=True, capture_output=True)
    dice, journal = random.Random(1), tmp_path / "torn" / "journal.jsonl"
    for goal in sorted(dice.sample(range(3, 70), 4)):  # kill once so many points are done, whatever the machine's speed
        process = subprocess.Popen(command(study, tmp_path / "torn", "--workers", "1"), stderr=subprocess.DEVNULL)
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < goal):
            time.sleep(0.001)
        process.kill()
        process.wait()
        assert journal.read_bytes().count(b"\n") >= goal
    subprocess.run(command(study, tmp_path / "torn", "--workers", "1"), check=True, capture_output=True)
    results = [(tmp_path / name / "results.jsonl").read_bytes() for name in ("whole", "torn")]
    assert results[0] == results[1]
    lines = (tmp_path / "torn" / "journal.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 81  # nothing was written twice


def test_a_bayesian_study_that_is_killed_ends_as_if_left_alone(tmp_path):
    """Killed twice, within a round and after one; each round is chosen from the rows of those before."""
    pytest.importorskip("optuna", reason="Bayesian sampling is an extra")
    study = write(tmp_path, sample={"kind": "bayesian", "points": 40, "seed": 3})
    subprocess.run(command(study, tmp_path / "whole", "--workers", "1"), check=True, capture_output=True)
    journal = tmp_path / "torn" / "journal.jsonl"
    for goal in (9, 25):
        process = subprocess.Popen(command(study, tmp_path / "torn", "--workers", "2"), stderr=subprocess.DEVNULL)
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < goal):
            time.sleep(0.001)
        process.kill()
        process.wait()
        assert goal <= journal.read_bytes().count(b"\n") < 41
    subprocess.run(command(study, tmp_path / "torn", "--workers", "1"), check=True, capture_output=True)
    results = [(tmp_path / name / "results.jsonl").read_bytes() for name in ("whole", "torn")]
    assert results[0] == results[1]
    assert len(results[0].splitlines()) == 40


def test_a_torn_line_is_dropped_and_another_study_is_refused(tmp_path):
    journal = Journal(tmp_path, {"study": "one"})
    journal.add({"point": 0, "x": 1})
    with journal.path.open("ab") as file:
        file.write(b'{"point": 1, "x"')
    assert Journal(tmp_path, {"study": "one"}).done == {0: {"point": 0, "x": 1}}
    assert journal.path.read_bytes().endswith(b"}\n")
    with pytest.raises(InvalidInput, match="another study"):
        Journal(tmp_path, {"study": "two"})


def suicidal(task, _):
    """A row, unless this is the first attempt at point 3: then the worker dies."""
    index, point = task
    mark = point["mark"]
    if index == 3 and not os.path.exists(mark):
        open(mark, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"point": index}


def test_a_worker_that_dies_costs_no_point(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "row_of", suicidal)
    tasks = [(i, {"mark": str(tmp_path / "mark")}) for i in range(8)]
    rows = [row["point"] for row in workers.local(tasks, 2, served)]
    assert sorted(rows) == list(range(8))


def group(leader):
    """Processes of the session that ``leader`` started."""
    listed = subprocess.run(["ps", "-eo", "sid=,stat=,pid="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [int(pid) for sid, state, pid in rows if int(sid) == leader and not state.startswith("Z")]


def test_workers_end_with_the_process_that_started_them(tmp_path):
    """Killed, it leaves no worker behind, nor what multiprocessing starts beside them."""
    journal = tmp_path / "out" / "journal.jsonl"
    study = write(tmp_path, sample={"kind": "latin", "points": 3000, "seed": 3})
    process = subprocess.Popen(
        command(study, tmp_path / "out", "--workers", "2"), stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < 4):
            time.sleep(0.01)
        assert len(group(process.pid)) >= 3
        process.kill()
        process.wait()
        end = time.monotonic() + 60  # at once, on a machine with nothing else to do
        while group(process.pid) and time.monotonic() < end:
            time.sleep(0.05)
        assert not group(process.pid)
    finally:
        for pid in group(process.pid):
            os.kill(pid, signal.SIGKILL)


def test_a_latin_hypercube_has_one_sample_in_each_share_of_each_axis(tmp_path):
    study = read_study(write(tmp_path), ASKED)
    made = points(study)
    assert made == points(read_study(tmp_path / "study.yaml", ASKED))
    speed = np.array([float(point["chip.memory.bandwidth"].split()[0]) for point in made])
    assert sorted(np.floor((speed - 2.0) / 4.0 * 80).astype(int)) == list(range(80))
    assert sum(point["quant"] == "fp8" for point in made) == 40


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"axes": {"bacth": [1]}}, "did you mean batch"),
        ({"axes": {"batch": {"from": 1}}}, "range"),
        ({"axes": {"chip.memory.bandwidth": {"from": "1 TB/s", "to": "2 GB/s"}}}, "one unit"),
        ({"sample": {"kind": "latin"}}, "sample.points: needs a whole number"),
        ({"sample": {"kind": "gird"}}, "did you mean grid"),
        ({"axes": {"batch": {"from": 0, "to": 8, "scale": "log"}}}, "positive"),
    ],
)
def test_a_study_that_is_not_understood_is_refused(tmp_path, changes, said):
    with pytest.raises(InvalidInput, match=said):
        points(read_study(write(tmp_path, **changes), ASKED))


def test_infeasible_and_illegal_points_are_rows():
    row = workers.row_of((0, {"model": "deepseek-r1", "on": "hgx-h100", "tp": 3}), served)
    assert not row["feasible"]
    assert "tp=3" in row["error"]


def test_results_are_a_table_where_pyarrow_is_installed(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet is an extra")
    journal = Journal(tmp_path, {"study": "one"})
    journal.add({"point": 1, "batch": 2, "chip.memory.bandwidth": "2 TB/s", "feasible": False, "error": "full"})
    journal.add({"point": 0, "batch": 1.5, "feasible": True, "error": "", "pools": [{"role": "both"}]})
    assert [path.name for path in journal.finish(2)] == ["results.jsonl", "results.parquet"]
    table = parquet.read_table(tmp_path / "results.parquet").to_pydict()
    assert table["point"] == [0, 1]
    assert table["pools"] == ['[{"role": "both"}]', None]
