"""Several models on the instances of one machine: who gets which, and what a change of model costs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from taicang import catalog
from taicang.app.main import cli
from taicang.catalog.costing import cost_model
from taicang.catalog.models import model
from taicang.errors import InvalidInput
from taicang.plans import ServePlan
from taicang.predict.replay import replay
from taicang.predict.standing import Tenant
from taicang.predict.system import System
from taicang.serve.build import loading_s
from taicang.serve.fleet import Weights
from taicang.serve.setup import Setup
from taicang.traffic.change import for_models
from taicang.traffic.generate import arriving, fixed, sessions

MAIN, OTHER = "llama-3.1-8b", "qwen3-8b"


def run(*also: Tenant, instances: int = 2, rate: float = 2.0, cache: float = 0.0):
    trace = arriving(fixed(200, 500, 20), rate, seed=1)
    return replay(MAIN, "hgx-h100", trace, System(instances=instances), also=also, model_cache_bytes=cache, seed=1)


def test_memory_keeps_the_models_used_last():
    weights = Weights(dict.fromkeys("abc", 1.0), dict.fromkeys("abc", 5), dict.fromkeys("abc", 100), capacity=2.0)
    assert weights.load("a", 0) == 100
    assert weights.load("b", 0) == 200  # the store serves one after the other
    assert weights.load("a", 300) == 305
    assert weights.load("c", 400) == 500  # b was used least recently
    assert weights.load("b", 600) == 700
    assert (weights.warm_loads, weights.cold_loads, weights.load_ticks) == (1, 4, 100 + 200 + 5 + 100 + 100)


def test_what_is_larger_than_memory_is_never_kept():
    weights = Weights({"a": 3.0}, {"a": 5}, {"a": 100}, capacity=2.0)
    assert [weights.load("a", 0), weights.load("a", 200)] == [100, 300]


def test_sessions_ask_for_one_model_and_share_no_blocks_across():
    trace = for_models(
        sessions(400, 3, shared_tokens=512, new_tokens=64, output_tokens=8, delay_s=1.0), [0.3, 0.1], seed=0
    )
    by_session = {}
    for session, asked in zip(trace.session.tolist(), trace.model.tolist(), strict=True):
        assert by_session.setdefault(session, asked) == asked
    counts = np.bincount(list(by_session.values()), minlength=3) / 400
    assert counts == pytest.approx([0.6, 0.3, 0.1], abs=0.06)
    held = [{block for i, ids in enumerate(trace.blocks) if trace.model[i] == n for block in ids} for n in range(3)]
    assert not held[0] & held[1]
    assert not held[1] & held[2]


def test_a_model_that_nobody_holds_is_loaded_once_and_stays():
    result = run(Tenant(model=OTHER, share_ratio=0.3, instances=0))
    assert (result.summary.loads.cold, result.summary.loads.warm) == (1, 0)
    asked = result.table["model"] == OTHER
    assert asked.sum() == pytest.approx(60, abs=20)
    machine, stack = catalog.machine("hgx-h100"), catalog.stack("vllm")
    setup = Setup(
        model=model(OTHER), plan=ServePlan(), machine=machine, stack=stack, price=cost_model(machine, stack).price
    )
    first = np.argmin(result.table["arrival_s"] + ~asked * 1e9)
    assert result.table["queue_s"][first] == pytest.approx(loading_s(setup, "cold"), rel=0.05)
    places = {name: set(result.table["instance"][result.table["model"] == name].tolist()) for name in (MAIN, OTHER)}
    assert not places[MAIN] & places[OTHER] or result.summary.loads.cold > 1


def test_one_instance_goes_to_and_fro_and_a_model_cache_pays():
    cold, warm = (run(Tenant(model=OTHER, share_ratio=0.5), instances=1, rate=0.2, cache=c) for c in (0.0, 1e12))
    for result in (cold, warm):
        assert result.summary.finished == 200
        assert {each.model for each in result.summary.models} == {MAIN, OTHER}
        assert sum(each.requests for each in result.summary.models) == 200
    assert cold.summary.loads.warm == 0
    assert warm.summary.loads.cold <= 1
    assert warm.summary.loads.warm > 10
    assert warm.summary.ttft.mean_s < cold.summary.ttft.mean_s


def test_a_crowded_model_takes_an_instance_from_one_that_has_several():
    trace = arriving(fixed(6000, 300, 30), 160.0, seed=1)
    also, system = [Tenant(model="qwen3-32b", share_ratio=0.5, instances=1)], System(instances=4, plan=ServePlan(tp=2))
    alone, helped = (
        replay(MAIN, "hgx-h100", trace, system, also=also, model_cache_bytes=1e12, crowd=n, seed=1) for n in (0, 96)
    )
    assert alone.summary.loads.warm == 0
    assert 1 <= helped.summary.loads.warm <= 2
    assert helped.summary.finished == 6000
    waits = [each.summary.models[1].ttft.mean_s for each in (alone, helped)]
    assert waits[1] < waits[0] / 2


def test_energy_and_tokens_are_those_of_all_models():
    result = run(Tenant(model=OTHER, share_ratio=0.5), instances=1, rate=0.2)
    usage = result.usage
    width = usage["time_s"][1] - usage["time_s"][0]
    assert float((usage["prompt_tokens_per_s"] * width).sum()) == pytest.approx(200 * 500, rel=1e-6)
    assert float(usage["energy_j"].sum()) == pytest.approx(result.summary.energy_j)
    assert float(usage["busy_ratio"].max()) <= 1.0 + 1e-9


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--also", "qwen3-8b"], "MODEL=SHARE"),
        (["--also", "qwen3-8b=1.5"], "between 0 and 1"),
        (["--also", "qwen3-8b=0.6", "--also", "llama-2-7b=0.5"], "leave nothing"),
        (["--also", "qwen3-8c=0.5"], "qwen3-8b"),
        (["--also", "llama-3.1-8b=0.5"], "there already"),
        (["--also", "llama-3.1-405b=0.5"], "llama-3.1-405b"),
        (["--also", "qwen3-8b=0.5:9"], "given away"),
        (["--also", "qwen3-8b=0.5", "--prefill", "1x1", "--decode", "1x1"], "--prefill"),
        (["--model-cache", "1TB"], "--also"),
        (["--crowd", "5"], "--also"),
    ],
)
def test_bad_options_are_refused(taicang, options, said):
    code, _, err = taicang("replay", "--rate", "1/s", "--requests", 10, MAIN, "--on", "hgx-h100", "--tp", 1, *options)
    assert code == 2
    assert said in err


def test_the_command_tells_models_apart(tmp_path):
    command = ["replay", "--rate", "2/s", "--requests", "60", MAIN, "--on", "hgx-h100", "--tp", "1", "--instances", "2"]
    command += ["--also", f"{OTHER}=0.4", "--model-cache", "1TB", "--out", str(tmp_path)]
    shown = CliRunner().invoke(cli, command)
    assert f"{OTHER}: " in shown.output
    made = json.loads((tmp_path / "summary.json").read_text())
    assert [each["model"] for each in made["summary"]["models"]] == [MAIN, OTHER]
    assert set((tmp_path / "requests.csv").read_text().split()[0].split(",")) >= {"model"}


def test_shares_must_leave_something():
    with pytest.raises(InvalidInput, match="leave nothing"):
        run(Tenant(model=OTHER, share_ratio=1.0))
