"""A profile recovers what was changed, and leaves alone what was not."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from taicang import catalog
from taicang.app.main import cli
from taicang.errors import InvalidInput
from taicang.evidence import fit_stacks, served, suite_served, suite_training, training_rows
from taicang.evidence.calibrate import HOST, Space, calibrate, ratios_of, read
from taicang.evidence.tables import parsed

HEAD = {
    "id": "", "source": "me", "measured": "2026-04-10", "backend": "vllm", "backend_version": "0.19.0",
    "model_path": "Qwen/Qwen3-32B", "system": "h100_sxm", "precision": "bf16", "mode": "agg", "isl": 1024,
    "osl": 512, "concurrency": 16, "gemm_quant_mode": "bf16", "moe_quant_mode": "", "batch_size": "", "tp_size": 2,
    "silicon_ttft_ms": 0.0, "silicon_tpot_ms": 0.0,
}  # fmt: skip
LOADS = [
    (model, tp, isl, osl, clients)
    for model, tp in (("Qwen/Qwen3-32B", 2), ("Qwen/Qwen3-8B", 1), ("Qwen/Qwen3-32B", 4))
    for isl, osl in ((512, 512), (4000, 600))
    for clients in (1, 32)
]


def rows(engine="vllm@0.19.0", change=None, noise=0.0):
    """Rows that a stack would give, one constant of which may be another."""
    name, version = engine.split("@")
    made = []
    for number, (model, tp, isl, osl, clients) in enumerate(LOADS):
        line = HEAD | {
            "id": f"r{number}", "backend": name, "backend_version": version, "model_path": model, "tp_size": tp,
            "isl": isl, "osl": osl, "concurrency": clients, "batch_size": clients,
        }  # fmt: skip
        row = served.row_of({key: str(value) for key, value in line.items()})
        stack = row.stack
        if change is not None:
            key, value = change
            fields = HOST
            space = Space(fields=fields, ratios=ratios_of(stack))
            values = space.at(stack)
            values[space.names.index(key)] = value
            stack = fit_stacks.with_values(stack, space.ratios, values, fields)
        found = suite_served.predict(row, stack)
        off = math.exp(noise * math.sin(7.0 * number))
        line |= {"silicon_ttft_ms": f"{found.ttft_s * 1e3:.4f}", "silicon_tpot_ms": f"{found.tpot_s * off * 1e3:.5f}"}
        made.append(line)
    return made


def written(path, lines):
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


def fitted(path, base=""):
    found = read(path, base)
    return calibrate(found.base, found.space, found.items, measured=found.measured)


@pytest.mark.parametrize(
    ("engine", "key", "factor", "more"),
    [
        ("vllm@0.19.0", "gemm", 1.4, 0.0),
        ("sglang@0.5.9", "attend", 1.5, 0.0),
        ("vllm@0.19.0", "step_host_s", 1.0, 4e-3),
        ("tensorrt-llm@1.2.0", "collective", 1.6, 0.0),
        ("vllm@0.19.0", "sequence_host_s", 4.0, 0.0),
    ],
)
def test_one_constant_that_was_changed_is_found(tmp_path, engine, key, factor, more):
    before = read(written(tmp_path / "plain.csv", rows(engine)))
    was = before.space.at(before.base)[before.space.names.index(key)]
    true = was * factor + more
    profile = fitted(written(tmp_path / "rows.csv", rows(engine, (key, true), noise=0.01)))
    now = {name: now for name, (_, now) in profile.constants.items()}
    assert key in now
    assert now[key] - was == pytest.approx(true - was, rel=0.2)
    assert profile.after["tpot"] < 0.02 < profile.before["tpot"]


@pytest.mark.parametrize("engine", ["vllm@0.19.0", "sglang@0.5.9", "tensorrt-llm@1.2.0"])
def test_predictions_of_the_stack_itself_change_nothing(tmp_path, engine):
    profile = fitted(written(tmp_path / "rows.csv", rows(engine)))
    assert not profile.constants
    assert profile.before["tpot"] == pytest.approx(profile.after["tpot"])
    assert profile.before["tpot"] < 1e-3


def test_rows_too_alike_move_nothing_and_say_so(tmp_path):
    lines = [line for line in rows(change=("gemm", 2.0)) if line["model_path"].endswith("8B")]
    profile = fitted(written(tmp_path / "rows.csv", lines))
    assert not profile.constants
    assert not profile.bands
    assert any("2 of the 3 configurations" in note for note in profile.notes)


def test_bad_rows_are_named_by_their_line(tmp_path):
    lines = rows(change=("gemm", 1.8))
    lines[2] |= {"silicon_tpot_ms": "fast"}
    lines[4] |= {"system": "moon"}
    lines[6] |= {"backend": "sglang", "backend_version": "0.5.9"}
    lines[8] |= {"silicon_tpot_ms": "0"}
    path = written(tmp_path / "rows.csv", lines)
    found = read(path)
    assert [line.split(": ")[0] for line in found.refused] == [f"{path}:{n}" for n in (4, 6, 8, 10)]
    assert len(found.items) == len(lines) - 4
    strange = tmp_path / "strange.csv"
    strange.write_text("name,time\na,1\n")
    with pytest.raises(InvalidInput, match="no kind of evidence"):
        read(strange)


def test_a_profile_is_a_stack_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = written(tmp_path / "rows.csv", rows(change=("gemm", 2.0)))
    run = CliRunner()

    def call(*words):
        found = run.invoke(cli, [*words], standalone_mode=False)
        assert found.exception is None, found.exception
        return found.output

    said = json.loads(call("calibrate", str(path), "--name", "my-cluster", "--json"))
    assert said["constants"]
    assert said["after"]["tpot"] < said["before"]["tpot"]
    written_there = yaml.safe_load(Path(said["file"]).read_text())
    assert written_there["base"] == "vllm@0.19.0"
    mine, own = catalog.stack("my-cluster"), catalog.stack("vllm@0.19.0")
    assert (mine.engine, mine.version) == (own.engine, own.version)
    assert mine.kernel_ratio["gemm"] > 1.5 * own.kernel_ratio["gemm"]
    assert mine.kernel_ratio["gemm/fp8"] == own.kernel_ratio["gemm/fp8"]
    job = ["qwen3-32b", "--on", "hgx-h100", "--input", "1024", "--output", "256"]
    answer = json.loads(call("infer", *job, "--tp", "2", "--mode", "agg", "--stack", "my-cluster", "--json"))
    assert "my-cluster" in answer["stack"]
    assert "your rows" in json.dumps(answer["bands"])
    assert "my-cluster" in call("search", *job, "--stack", "my-cluster")
    assert "my-cluster" in call("catalog", "list", "--kind", "stack")
    assert "configurations" in call("catalog", "show", "my-cluster")
    scored = json.loads(call("score", str(path), "--stack", "my-cluster", "--suite", "served_tpot_agg", "--json"))
    found = [row["predicted"] / row["measured"] for row in scored["rows"] if row["predicted"]]
    assert len(found) == len(LOADS)
    assert max(abs(ratio - 1.0) for ratio in found) < 0.05
    again = json.loads(
        call("calibrate", str(path), "--out", str(tmp_path / "two.yaml"), "--base", "my-cluster", "--json")
    )
    assert not again["constants"]
    assert catalog.stack(str(tmp_path / "two.yaml")).kernel_ratio == mine.kernel_ratio
    itself = run.invoke(
        cli, ["calibrate", str(path), "--name", "my-cluster", "--base", "my-cluster"], standalone_mode=False
    )
    assert "start from itself" in str(itself.exception)
    for wrong in ("vllm", "My Cluster", "../up"):
        bad = run.invoke(cli, ["calibrate", str(path), "--name", wrong], standalone_mode=False)
        assert isinstance(bad.exception, InvalidInput)


TRAINED = {
    "id": "", "kind": "training", "system": "DGX-H100", "chip": "H100-SXM", "count": "8", "model": "Llama-3.1-8B",
    "dtype": "bf16", "par": "", "batch": "", "seq": "", "metric": "step_time", "value": "1", "unit": "s", "src": "me",
    "sw": "megatron@0.12", "grade": "A", "role": "either", "extra": "{}", "notes": "",
}  # fmt: skip


def test_training_rows_make_a_profile_of_a_training_stack(tmp_path):
    lines = []
    for number, (tp, micro, seq) in enumerate([(1, 1, 4096), (2, 1, 4096), (4, 2, 8192), (2, 4, 2048), (1, 2, 8192)]):
        line = TRAINED | {
            "id": f"t{number}", "par": json.dumps({"tp": tp, "pp": 1}), "seq": json.dumps({"seq_len": seq}),
            "batch": json.dumps({"gbs": 64, "mbs": micro}),
        }  # fmt: skip
        row = training_rows.row_of(parsed(line))
        stack = catalog.stack(training_rows.stack_of(row))
        slow = replace(stack, kernel_ratio={**stack.kernel_ratio, "gemm": 1.5 * stack.kernel_ratio.get("gemm", 1.0)})
        lines.append(line | {"value": f"{suite_training.predict(row, slow).seconds:.5f}"})
    profile = fitted(written(tmp_path / "rows.csv", lines))
    found = {name: now / was for name, (was, now) in profile.constants.items()}
    assert found == {"gemm": pytest.approx(1.5, rel=0.05)}
    assert profile.before["step_time"] > 0.1 > 0.02 > profile.after["step_time"]
