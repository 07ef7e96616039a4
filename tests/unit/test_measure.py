"""Measuring: the plan, the journal, what a run writes, and what calibrate makes of it."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from taicang import catalog, measure
from taicang.app.main import cli
from taicang.app.measure_cmd import _guess
from taicang.errors import InvalidInput
from taicang.evidence import calibrate_kernels, kernels
from taicang.evidence.calibrate_kernels import MOVING, _with
from taicang.evidence.intake import table

GPU = measure.Device(kind="cuda", name="NVIDIA H200", count=8, torch="2.9")


def taken(folder, monkeypatch, chip=None, limit_s=60.0, system="h200"):
    """A run whose timings are what a chip would take."""

    def time_of(shape, _):
        line = measure._row({**shape, "ms": 1.0, "system": system, "device": GPU.name})
        found = kernels.tables()[SUITES[shape["table"]]]
        one = kernels.part(found, [kernels.enriched({k: str(v) for k, v in line} | {"line": "2"}, found)])
        return {"ms": float(kernels.price(calibrate_kernels.replace(one, given=chip))[0]) * 1e3}

    monkeypatch.setattr(measure, "_timed", time_of)
    monkeypatch.setattr(measure, "_collectives", lambda shapes, on: {measure._key(s): time_of(s, on) for s in shapes})
    return measure.measure(folder, system, GPU, limit_s=limit_s)


SUITES = {
    "gemm": "gemm", "attention_prefill_gqa": "attend_prefill", "attention_decode_gqa": "attend_decode", "nccl": "nccl",
}  # fmt: skip


def test_a_plan_covers_every_kind_coarsely_first():
    shapes = measure.plan(GPU)
    assert {shape["table"] for shape in shapes[:8]} == set(SUITES)
    assert len({measure._key(shape) for shape in shapes}) == len(shapes)
    assert len(measure.plan(measure.Device(kind="cpu", name="CPU", count=1, torch=""))) < 30


def test_a_stopped_run_goes_on_where_it_ended(tmp_path, monkeypatch):
    first = taken(tmp_path, monkeypatch, limit_s=0.0)
    assert first.new == 0
    whole = taken(tmp_path, monkeypatch)
    assert (whole.done, whole.new) == (whole.planned, whole.planned)
    with (tmp_path / measure.JOURNAL).open("r+") as journal:
        lines = journal.readlines()[:40]
        journal.seek(0)
        journal.truncate()
        journal.writelines([*lines, '{"table": "gemm", "m'])  # the power went
        journal.write("\n")
    again = taken(tmp_path, monkeypatch)
    assert again.new == whole.planned - 40
    assert again.done == whole.planned
    for path in whole.files:
        table(path)  # the formats of the project
    with pytest.raises(InvalidInput, match="another --out"):
        taken(tmp_path, monkeypatch, system="h100")


@pytest.mark.parametrize(
    ("family", "key", "constant", "factor"),
    [
        ("gemm", "bf16", "compute_efficiency_ratio", 0.7),
        ("gemm", "bf16", "memory_efficiency_ratio", 0.6),
        ("attend_decode", "bf16/bf16", "bandwidth_efficiency_ratio", 0.7),
        ("attend_prefill", "bf16/bf16", "matrix_efficiency_ratio", 0.6),
        ("collective", "all_reduce", "ratio", 1.5),
    ],
)
def test_a_constant_of_a_chip_that_was_changed_is_found(tmp_path, monkeypatch, family, key, constant, factor):
    chip = catalog.chip("h200")
    own = 1.0 if family == "collective" else getattr(kernels.constants_of(family, chip)[key], constant)
    taken(tmp_path, monkeypatch, _with(chip, family, key, {constant: own * factor}))
    found = {(one.family, one.key): one for one in calibrate_kernels.calibrate(tmp_path).kernels}
    one = found.pop((family, key))
    assert one.constants[constant][1] == pytest.approx(own * factor, rel=0.05)
    assert one.after_ratio < 0.02 < one.before_ratio
    assert all(not other.constants for other in found.values())
    assert constant in MOVING[family]


def test_rows_of_the_chip_itself_change_nothing_and_odd_lines_are_named(tmp_path, monkeypatch):
    taken(tmp_path, monkeypatch)
    path = tmp_path / "gemm.csv"
    with path.open(newline="") as handle:
        lines = list(csv.DictReader(handle))
    lines[3]["m"], lines[5]["system"], lines[7]["latency_ms_best"] = "many", "moon", "-1"
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    profile = calibrate_kernels.calibrate(tmp_path)
    assert all(not one.constants for one in profile.kernels)
    assert [line.split(": ")[0] for line in profile.refused] == [f"{path}:{number}" for number in (5, 7, 9)]


def test_the_chip_is_one_of_the_catalogue_from_then_on(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    chip = catalog.chip("h200")
    slow = _with(chip, "gemm", "bf16", {"compute_efficiency_ratio": 0.4, "memory_efficiency_ratio": 0.5})
    taken(tmp_path / "m", monkeypatch, slow)

    def call(*words):
        found = CliRunner().invoke(cli, list(words), standalone_mode=False)
        assert found.exception is None, found.exception
        return found.output

    said = json.loads(call("calibrate", str(tmp_path / "m"), "--name", "my-h200", "--json"))
    assert yaml.safe_load(Path(said["file"]).read_text())["base"] == "h200"
    job = ("infer", "llama-3.1-8b", "--on", "hgx-h200", "--input", "2000", "--output", "200", "--json")
    own, mine = (json.loads(call(*job, *more)) for more in ((), ("--set", "chip=my-h200")))
    assert mine["ttft_s"] > 1.2 * own["ttft_s"]
    assert "my-h200" in call("catalog", "list", "--kind", "chip")
    scored = json.loads(call("score", str(tmp_path / "m" / "gemm.csv"), "--json"))
    assert scored["rows"]


def test_a_driver_s_name_means_a_chip():
    assert _guess("NVIDIA H200") == "h200"
    assert _guess("NVIDIA L40S") == "l40s"
    with pytest.raises(InvalidInput, match="--chip"):
        _guess("Abacus 9")


def test_a_cpu_is_said_to_be_one(tmp_path):
    pytest.importorskip("torch")
    found = CliRunner().invoke(cli, ["measure", "--out", str(tmp_path), "--device", "cpu"], standalone_mode=False)
    assert found.exception is None, found.exception
    assert "this is a CPU" in found.output
    assert (tmp_path / "gemm.csv").is_file()
    again = CliRunner().invoke(
        cli, ["measure", "--out", str(tmp_path), "--device", "cpu", "--json"], standalone_mode=False
    )
    assert str(tmp_path / "gemm.csv") in json.loads(again.stdout)["files"]
