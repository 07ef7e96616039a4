"""A study that cannot be meant is refused by file, line and key before any point runs."""

import sys

import pytest

from taicang.app.study_points import served

BASE = "base: {model: llama-3.1-8b, on: hgx-h100, input: 1000, output: 200, mode: agg}\n"
GRID = "sample: {kind: grid}\n"


def sweep(taicang, folder, text, *more):
    """Exit code and message of ``taicang sweep``, and whether it left anything."""
    (folder / "study.yaml").write_text(text)
    code, _, said = taicang("sweep", folder / "study.yaml", "--workers", 1, *more)
    return code, said, (folder / "study").exists()


@pytest.mark.parametrize(
    ("axis", "says"),
    [
        ("tp: [1, abc]", "axes.tp: expected a whole number of at least 1, got 'abc'"),
        ("tp: [0]", "axes.tp: expected a whole number of at least 1, got '0'"),
        ("tp: [true]", "got True"),
        ("tp: [[1, 2]]", "got [1, 2]"),
        ("input: [null]", "got None"),
        ("dp: [-1]", "axes.dp"),
        ("skew: [x]", "axes.skew: 'x' is neither an exponent from 0 to 2 nor a file"),
        ("input: [many]", "axes.input: expected a whole number of at least 1, got 'many'"),
        ("output: [.nan]", "axes.output"),
        ("microbatches: [0, 1]", "axes.microbatches: expected a whole number of at least 1, got '0'"),
        ("batch: [1, x]", "axes.batch: expected a whole number of at least 1, got 'x'"),
        ("batch: {from: 1.5, to: 3.7, steps: 3}", "axes.batch"),
        ("batch: {from: 1, to: 8, step: 3}", "unknown key 'step'; did you mean steps"),
        ("batch: {from: 1, to: 8, steps: x}", "needs a number of steps, got 'x'"),
        ("batch: {from: 1, to: 8}", "axes.batch: a range needs steps"),
        ("batch: {from: 1, to: 8, steps: 100000000000}", "more than 1,000,000"),
        ("batch: {from: 1, to: 8, steps: 3, scale: lgo}", "did you mean log"),
        ("batch: {from: 1.2.3, to: 8, steps: 3}", "axes.batch"),
        ("batch: [1], batch: [2]", "stands twice"),
        ("chunk: [0]", "axes.chunk"),
        ("exchange: [foo]", "axes.exchange: 'foo' is not one of 'auto', 'all_to_all', 'gather'"),
        ("mtp: [-1]", "axes.mtp: expected a whole number of at least 0, got '-1'"),
        ("acceptance: [2]", "axes.acceptance"),
        ("tpot: [50]", "axes.tpot: '50' has no unit"),
        ("tpot: [0ms]", "axes.tpot: must be more than nothing"),
        ("model: [llama-3.1-8]", "axes.model: unknown model 'llama-3.1-8'; did you mean llama-3.1-8b"),
        ("on: [nosuch]", "axes.on: unknown machine 'nosuch'; the nearest are"),
        ("stack: [vlm]", "did you mean vllm"),
        ("slo: [nosuch]", "one of mlperf-server, mlperf-interactive"),
        ("profile: [nosuch]", "axes.profile: unknown profile 'nosuch'"),
        ("mode: [zzz]", "'zzz' is not one of 'agg', 'disagg', 'both'"),
        ("quant: [fp9]", "did you mean fp8"),
        ("quant: {from: 1, to: 2, steps: 2}", "axes.quant: has no range"),
        ("chip.memory.bandwith: [3 TB/s]", "did you mean chip.memory.bandwidth"),
        ("chip.memory.bandwidth: [3]", "axes.chip.memory.bandwidth: 3 has no unit"),
        ("objective: [qqq]", "'qqq' is not one of 'tokens/s/chip'"),
        ("objective: [smallest]", "needs the load"),
        ("load: [0]", "axes.load: 0.0 is not in the range x>0"),
    ],
)
def test_a_bad_value_is_named(taicang, tmp_path, axis, says):
    code, said, left = sweep(taicang, tmp_path, BASE + f"axes: {{{axis}}}\n" + GRID)
    assert code == 2
    assert f"{tmp_path / 'study.yaml'}:2" in said or "1,000,000" in said or "needs the load" in said
    assert says in said
    assert not left


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        ("{kind: lhs, points: 3}", "unknown sampling 'lhs'; one of grid, random, latin, bayesian"),
        ("{kind: random, points: 3, seed: q}", "sample.seed: needs a whole number from 0"),
        ("{kind: random, points: 3, seed: -1}", "sample.seed"),
        ("{kind: random, points: true}", "sample.points"),
        ("{kind: latin, points: 1000000000}", "more than 1,000,000"),
        ("{objective: speed}", "unknown figure 'speed'; one of ttft_s"),
    ],
)
def test_a_bad_sampling_is_named(taicang, tmp_path, sample, says):
    axes = "axes: {batch: {from: 1, to: 8}}\n"
    code, said, left = sweep(taicang, tmp_path, BASE + axes + f"sample: {sample}\n")
    assert code == 2
    assert f"{tmp_path / 'study.yaml'}:3" in said
    assert says in said
    assert not left


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("base: {on: hgx-h100}\naxes: {batch: [1]}\n", "study.yaml:1: base: a study needs 'model'"),
        ("base: {model: llama-3.1-8b, on: hgx-h100, tp: x}\n", "study.yaml:1: base.tp: expected a whole number"),
        ("base: {model: llama-3.1-8b, on: hgx-h100, profile: azure-2023-conv, input: 3}\n", "drop 'input'"),
        ("base: [1]\n", "study.yaml:1: base: expected a mapping"),
        ("base: {}\n\tx: 1\n", "study.yaml:2: malformed YAML"),
        ("", "expected a mapping"),
    ],
)
def test_a_bad_base_is_named(taicang, tmp_path, text, says):
    code, said, left = sweep(taicang, tmp_path, text)
    assert code == 2
    assert says in said
    assert not left


def test_null_leaves_a_limit_open_and_numbers_may_be_text(taicang, tmp_path):
    text = BASE + "axes: {tpot: [null, 50ms], batch: ['4', 1e1], profile: [null], stack: [null]}\n"
    text = text.replace("input: 1000, output: 200, ", "")
    code, _, _ = sweep(taicang, tmp_path, text)
    assert code == 0
    assert (tmp_path / "study" / "results.jsonl").read_text().count('"feasible": true') == 4


def test_a_model_without_experts_has_none_to_lay_out():
    base = {"model": "llama-3.1-8b", "on": "hgx-h100", "mode": "agg", "tp": 2}
    assert served(base | {"moe_tp": 2, "ep": 1})["feasible"]
    for wrong in ({"ep": 2}, {"moe_tp": 4}, {"redundant": 1}):
        assert "has no experts" in served(base | wrong)["error"]


def test_the_smallest_machine_for_a_load_is_an_axis():
    base = {"model": "llama-3.1-8b", "on": "hgx-h100", "input": 1000, "output": 200, "tpot": "30ms"}
    whole = served(base)
    assert "only --objective smallest takes a load" in served(base | {"load": 1.0})["error"]
    small = served(base | {"load": 1.0, "objective": "smallest"})
    more = served(base | {"load": 100.0, "objective": "smallest"})
    assert small["chips"] < more["chips"] < whole["chips"] == 8


def test_a_folder_that_cannot_hold_results_is_named(taicang, tmp_path):
    (tmp_path / "study").write_text("a file")
    code, said, _ = sweep(taicang, tmp_path, BASE)
    assert code == 2
    assert f"{tmp_path / 'study'}: cannot write results here" in said
    (tmp_path / "study").unlink()
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "journal.jsonl").write_text("not ours\n")
    code, said, _ = sweep(taicang, tmp_path, BASE)
    assert code == 2
    assert "journal.jsonl:1: is not a line of a study's journal" in said
    assert (tmp_path / "study" / "journal.jsonl").read_text() == "not ours\n"


@pytest.mark.parametrize("extra", ["optuna", "ray"])
def test_a_missing_extra_is_said_before_anything_is_written(taicang, monkeypatch, tmp_path, extra):
    monkeypatch.setitem(sys.modules, extra, None)
    workers = ("--workers", "ray") if extra == "ray" else ()
    sample = "sample: {kind: bayesian, points: 3}\n" if extra == "optuna" else ""
    text = BASE + "axes: {batch: {from: 1, to: 8, steps: 2}}\n" + sample
    code, said, left = sweep(taicang, tmp_path, text, *workers)
    assert code == 2
    assert "pip install" in said
    assert not left


TRAIN = "ask: train\nbase: {model: llama-3-8b, on: hgx-h100}\n"
LINKS = "ask: fabric\nbase: {machine: hgx-h100, collective: all-reduce}\n"


@pytest.mark.parametrize(
    ("head", "axis", "says"),
    [
        (TRAIN, "tp: [0]", "axes.tp: expected a whole number of at least 1"),
        (TRAIN, "tp: [1, {a: 2}]", "axes.tp: expected a value, got {'a': 2}"),
        (TRAIN, "tp: {from: 1, to: 2.5, steps: 2}", "axes.tp"),
        (TRAIN, "schedule: [1f1c]", "axes.schedule: '1f1c' is not one of"),
        (TRAIN, "schedule: {from: 1, to: 2, steps: 2}", "axes.schedule: has no range"),
        (TRAIN, "zero: [zero4]", "axes.zero: 'zero4' is none of"),
        (TRAIN, "tokens: [some]", "axes.tokens"),
        (TRAIN, "on: [nosuch], tp: [1]", "axes.on: unknown machine 'nosuch'"),
        (TRAIN, "stack: [nemmo]", "axes.stack: unknown stack 'nemmo'; did you mean nemo"),
        (TRAIN, "input: [1]", "axes: unknown key 'input'"),
        (TRAIN, "set: [a=1]", "axes: unknown key 'set'"),
        (TRAIN, "chip.memory.bandwith: [3 TB/s]", "did you mean chip.memory.bandwidth"),
        (TRAIN.replace("train", "trian"), "tp: [1]", "ask: unknown question 'trian'; did you mean train"),
        (LINKS, "bytes: [7]", "axes.bytes: '7' has no unit"),
        (LINKS, "ranks: [1]", "a study needs 'bytes'"),
        (LINKS, "bytes: [1MB], routing: [ecpm]", "axes.routing: 'ecpm' is not one of"),
        (LINKS, "bytes: [1MB], draws: [10]", "axes: unknown key 'draws'"),
    ],
)
def test_points_of_other_questions_are_refused_by_the_options_that_read_them(taicang, tmp_path, head, axis, says):
    code, said, left = sweep(taicang, tmp_path, f"{head}axes: {{{axis}}}\n{GRID}")
    assert code == 2
    assert says in said
    assert not left
