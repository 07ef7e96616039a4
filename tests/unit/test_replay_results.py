"""What a replay reports and writes: tables, energy, limits, a Perfetto trace."""

from __future__ import annotations

import builtins
import csv
import json
from collections import Counter

import numpy as np
import pytest
from click.testing import CliRunner

from taicang.app.main import cli
from taicang.catalog import machine
from taicang.errors import InvalidInput, NotModelled, UnknownName
from taicang.plans import ServePlan
from taicang.predict.replay import replay
from taicang.predict.system import System
from taicang.serve import simulate
from taicang.traffic.generate import arriving, fixed

ON = ["llama-3.1-8b", "--on", "hgx-h100"]
LOAD = ["--rate", "8/s", "--requests", "200", "--input", "800", "--output", "60", "--spread", "0.5"]


def run(*arguments: str):
    return CliRunner().invoke(cli, ["replay", *arguments], catch_exceptions=False, standalone_mode=False)


@pytest.fixture(scope="module")
def result():
    trace = arriving(fixed(300, 900, 80, spread=0.5), 10.0, seed=1)
    return replay("llama-3.1-8b", "hgx-h100", trace, System(prefill="1x1", decode="2x1"))


def test_usage_adds_up(result):
    usage, summary = result.usage, result.summary
    assert set(usage["pool"]) == {"prefill", "decode"}
    width = usage["time_s"][1] - usage["time_s"][0]
    decoded = (usage["decoded_tokens_per_s"] * width).sum()
    assert decoded == pytest.approx((result.table["output_tokens"] - 1).sum(), rel=1e-6)
    prompts = (usage["prompt_tokens_per_s"] * width).sum()
    assert prompts == pytest.approx(result.table["input_tokens"].sum(), rel=1e-6)
    assert np.all((usage["busy_ratio"] >= 0) & (usage["busy_ratio"] <= 1 + 1e-9))
    assert usage["waiting"].min() >= 0
    assert usage["running"][-1] == 0
    assert summary.energy_j == pytest.approx(usage["energy_j"].sum())


def test_power_lies_between_idle_and_limit(result):
    chip = machine("hgx-h100").chip
    for pool, chips in (("prefill", 1), ("decode", 2)):
        power = result.usage["power_w"][result.usage["pool"] == pool]
        assert np.all(power >= chip.idle_w * chips * 0.999)
        assert np.all(power <= chip.tdp_w * chips * 1.001)
        assert power.max() > 1.5 * chip.idle_w * chips
    assert result.summary.power_w * result.usage["time_s"][-1] == pytest.approx(result.summary.energy_j, rel=0.01)


def test_a_busier_hour_draws_more():
    trace = arriving(fixed(200, 900, 80), 4.0, seed=1)
    slow, fast = (
        replay("llama-3.1-8b", "hgx-h100", t, System(instances=1))
        for t in (trace, arriving(fixed(200, 900, 80), 40.0, seed=1))
    )
    assert fast.summary.power_w > slow.summary.power_w
    assert fast.summary.output_tokens_per_j > slow.summary.output_tokens_per_j


def test_a_chip_without_a_public_limit_takes_the_machines_power_or_none():
    trace = arriving(fixed(20, 900, 8), 4.0, seed=1)
    plan = ServePlan(tp=8)
    hidden = ("chip.power.tdp=unknown",)
    shared = replay("llama-3.1-8b", "hgx-h100", trace, System(plan=plan, instances=1, sets=hidden))
    it = machine("hgx-h100")
    assert shared.summary.power_w == pytest.approx(it.power_w, rel=0.01)
    assert any("stands for it at all times" in note for note in shared.notes)
    without = System(plan=plan, instances=1, sets=(*hidden, "power.load=unknown"))
    nothing = replay("llama-3.1-8b", "hgx-h100", trace, without)
    assert nothing.summary.energy_j is None
    assert any("so no power and energy" in note for note in nothing.notes)


def test_named_limits_of_the_model():
    kept = run(*ON, *LOAD, "--instances", "4", "--slo", "mlperf-server")
    assert "within TTFT 2 s and TPOT 100 ms" in kept.output
    assert "mlperf-server, 99% of requests within each limit: kept" in kept.output
    lost = json.loads(run(*ON, *LOAD, "--slo", "mlperf-interactive", "--tpot", "1ms", "--json").output)
    assert lost["summary"]["slo_met"] is False
    assert lost["limits"] == {"name": "mlperf-interactive", "ttft_s": 0.5, "tpot_s": 0.001, "within_ratio": 0.99}
    with pytest.raises(UnknownName, match="mlperf-server"):
        run(*ON, *LOAD, "--slo", "mlperf-srver")


def test_tables_agree_in_every_format(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet is an extra")
    for form in ("csv", "json", "parquet"):
        assert run(*ON, *LOAD, "--out", str(tmp_path / form), "--format", form).exit_code == 0
        assert {p.name for p in (tmp_path / form).iterdir()} == {"summary.json", f"requests.{form}", f"usage.{form}"}
    with (tmp_path / "csv" / "requests.csv").open() as file:
        rows = list(csv.DictReader(file))
    objects = json.loads((tmp_path / "json" / "requests.json").read_text())
    table = parquet.read_table(tmp_path / "parquet" / "requests.parquet")
    assert len(rows) == len(objects) == len(table) == 200
    assert rows[7]["ttft_s"] == f"{objects[7]['ttft_s']:.9f}" == f"{table['ttft_s'][7].as_py():.9f}"
    about = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    summary = json.loads((tmp_path / "csv" / "summary.json").read_text())
    assert about["taicang.digest"] == summary["digest"]
    assert about["taicang.seed"] == "0"
    usage = json.loads((tmp_path / "json" / "usage.json").read_text())
    assert usage[0]["pool"] == "all"


def test_parquet_is_refused_before_the_run_where_it_is_missing(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr("taicang.app.replay_files.import_module", without)
    with pytest.raises(NotModelled, match=r"taicang\[parquet\]"):
        run(*ON, *LOAD, "--out", str(tmp_path / "x"), "--format", "parquet")
    assert not (tmp_path / "x").exists()


def test_the_perfetto_trace_is_valid(tmp_path):
    assert run(*ON, *LOAD, "--out", str(tmp_path), "--perfetto", "--prefill", "1x1", "--decode", "1x1").exit_code == 0
    made = json.loads((tmp_path / "trace.json").read_text())
    events = made["traceEvents"]
    kinds = Counter(event["ph"] for event in events)
    assert set(kinds) == {"M", "X", "b", "e", "C"}
    assert kinds["b"] == kinds["e"]
    assert made["otherData"]["seed"] == "0"
    assert all(isinstance(e["pid"], int) and isinstance(e["tid"], int) and e["name"] for e in events)
    assert all(e["ts"] >= 0 for e in events if e["ph"] != "M")
    steps = {}
    for e in events:
        if e["ph"] == "X":
            assert e["dur"] > 0
            assert e["ts"] >= steps.get(e["tid"], 0.0) - 1e-3  # one after the other
            steps[e["tid"]] = e["ts"] + e["dur"]
    open_ = {}
    for e in sorted((e for e in events if e["ph"] in "be"), key=lambda e: e["ts"]):
        open_[e["id"], e["name"]] = open_.get((e["id"], e["name"]), 0) + (1 if e["ph"] == "b" else -1)
    assert not any(open_.values())
    with pytest.raises(InvalidInput, match="needs --out"):
        run(*ON, *LOAD, "--perfetto")


def test_interrupted_runs_write_what_is_finished_and_say_so(tmp_path, monkeypatch):
    real = simulate.serve

    def interrupted(cluster, arrivals, finished, **more):
        class Once:
            def __len__(self):
                return len(finished)

            def append(self, request):
                finished.append(request)
                if len(finished) == 50:
                    raise KeyboardInterrupt

        return real(cluster, arrivals, Once(), **more)

    monkeypatch.setattr("taicang.predict.replay.serve", interrupted)
    made = run(*ON, *LOAD, "--out", str(tmp_path))
    assert made.return_value == 130
    assert made.output.startswith("PARTIAL: interrupted after 50 of 200 requests")
    assert json.loads((tmp_path / "summary.json").read_text())["summary"]["partial"] is True
    assert len((tmp_path / "requests.csv").read_text().splitlines()) == 51


def test_profiles_and_days_are_refused_by_name(tmp_path):
    with pytest.raises(UnknownName, match="servegen-deepseek-r1"):
        run(*ON, "--profile", "servegen-deepsek-r1", "--rate", "4/s", "--requests", "10")
    with pytest.raises(InvalidInput, match="needs --rate"):
        run(*ON, "--requests", "10", "--diurnal", "0.5", "--closed-loop", "2")
    with pytest.raises(InvalidInput, match="between 0 and 1"):
        run(*ON, "--requests", "10", "--diurnal", "1.5", "--rate", "1/s")
    with pytest.raises(InvalidInput, match="with rates by time"):
        run(*ON, "--requests", "10", "--diurnal", "profile", "--rate", "1/s")
    rates = tmp_path / "rates.csv"
    rates.write_text("window_start_s,rate\n0,1\n600,x\n")
    with pytest.raises(InvalidInput, match=r"rates\.csv:3"):
        run(*ON, "--requests", "10", "--diurnal", str(rates), "--rate", "1/s")


def test_a_day_a_client_set_and_sessions_run(tmp_path):
    rates = tmp_path / "rates.csv"
    rates.write_text("window_start_s,rate\n0,1\n10,0\n")
    day = run(*ON, "--requests", "60", "--diurnal", str(rates), "--rate", "2/s", "--out", str(tmp_path))
    assert day.exit_code == 0
    with (tmp_path / "requests.csv").open() as file:
        at = [float(row["arrival_s"]) for row in csv.DictReader(file)]
    assert all(t % 20 <= 10.001 for t in at)
    talks = run(*ON, "--turns", "3", "--shared", "512", "--think", "2s", "--random-think", "--closed-loop", "4",
                "--requests", "60")  # fmt: skip
    assert "60 requests" in talks.output
    assert "prefix cache" in talks.output
