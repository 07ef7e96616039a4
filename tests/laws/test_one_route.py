"""One question, asked at every door, has one answer.

A run is drawn (model, machine, formats, load, layout, batch) and asked of the Python function, the command, a study's
point and a search over a space of one: the same feasibility, formats and stack, and the same figures to 1e-12. A replay
of the run picks the same formats and stack, and one lone request takes the closed form's time.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from taicang.catalog.models import model as load_model
from taicang.errors import NotModelled, TaicangError
from taicang.models.types import routed
from taicang.plans import ServePlan
from taicang.predict import Infeasible, Prediction, infer
from taicang.predict.replay import replay
from taicang.predict.system import System
from taicang.search.door import formats, prepare
from taicang.search.evaluate import evaluate
from taicang.search.points import serving_points
from taicang.search.space import NARROW
from taicang.traffic.generate import fixed

COUNT = 2000 if os.environ.get("EXPLORE") else 100
MODELS = ("llama-3.1-8b", "qwen3-32b", "qwen3-next-80b-a3b", "gpt-oss-120b", "qwen3-235b-a22b", "deepseek-r1")
MACHINES = (
    "hgx-h100",
    "hgx-h200 x 2",
    "hgx-b200",
    "hgx-a100",
    "mi300x-8",
    "atlas-800-a2-313t",
    "cloudmatrix384",
    "gb200-nvl72",
)
powers = st.integers(0, 12).map(lambda power: 2**power)
lengths = st.floats(0, 12).map(lambda power: round(2**power))


@st.composite
def runs(draw):
    name, machine = draw(st.sampled_from(MODELS)), draw(st.sampled_from(MACHINES))
    net = load_model(name)
    tp, dp = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([1, 1, 2, 4, 8]))
    plan = {"tp": tp, "moe_tp": tp}
    if routed(net) is not None:
        ep = draw(st.sampled_from([1, tp * dp]))
        plan = {"tp": tp, "dp": dp, "ep": ep, "moe_tp": tp * dp // ep}
    return {
        "model": name, "on": machine, "input": draw(lengths), "output": draw(lengths), "batch": draw(powers),
        "quant": draw(st.sampled_from(["auto", "auto", "bf16", "fp8", "int8"])),
        "mtp": draw(st.sampled_from([0, 0, 1])), "acceptance": draw(st.sampled_from([0.0, 0.6, 1.0])),
        "skew": draw(st.sampled_from([0.0, 1.01])), **plan,
    }  # fmt: skip


def plan_of(run):
    fields = {name: run[name] for name in ("tp", "dp", "ep", "moe_tp") if name in run}
    return ServePlan(**fields, draft_tokens=run["mtp"])


def by_function(run, modes=("aggregated", "disaggregated")):
    """The prediction, why it does not fit, or the error."""
    try:
        return asked(run, modes)
    except TaicangError as error:
        return error


def asked(run, modes):
    return infer(
        run["model"], run["on"], modes=modes, input_tokens=run["input"], output_tokens=run["output"],
        quant=run["quant"], plan=plan_of(run), batch=run["batch"], drafts=run["mtp"], skew=run["skew"],
        acceptance_ratio=run["acceptance"],
    )  # fmt: skip


def by_space_of_one(run, role):
    """The same layout and batch as a space of one, decoding alone or with chunks of prompts between."""
    job = prepare(
        run["model"], run["on"], input_tokens=run["input"], output_tokens=run["output"],
        acceptance_ratio=run["acceptance"], skew=run["skew"],
    )  # fmt: skip
    plan = replace(plan_of(run), quant=formats([run["quant"]], job)[0][1], draft_tokens=0)
    chunks = (int(job.stack.chunk_tokens),)
    space = replace(NARROW, batches=(float(run["batch"]),), drafts=(run["mtp"],), chunks=chunks)
    return job, serving_points([plan], job, space, roles=[role])[role]


def words(run):
    listed = [word for key in ("input", "output", "batch", "quant", "mtp", "acceptance", "skew", "tp", "dp", "ep")
              if key in run for word in (f"--{key}", str(run[key]))]  # fmt: skip
    return (
        [run["model"], "--on", run["on"], *listed, "--moe-tp", str(run["moe_tp"])]
        if "ep" in run
        else [run["model"], "--on", run["on"], *listed]
    )


@settings(max_examples=COUNT, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(run=runs())
def test_every_door_gives_the_same_answer(run, taicang):
    found = by_function(run)
    code, out, said = taicang("infer", *words(run), "--json")
    if isinstance(found, TaicangError):
        assert code == 2
        assert str(found) in said
        assert not evaluate(run | {"mode": "decode"})["feasible"]
        return
    shown = json.loads(out)
    if isinstance(found, Infeasible):
        assert (code, shown["infeasible"], shown["reason"]) == (1, True, found.reason)
        assert not evaluate(run | {"mode": "both"})["feasible"]
        return
    assert code == 0
    alone = found.mode == "disaggregated"
    job, points = by_space_of_one(run, "decode" if alone else "both")
    chunk = {} if alone else {"chunk": int(job.stack.chunk_tokens)}
    point = evaluate(run | chunk | {"mode": "decode" if alone else "agg"})
    assert point["feasible"], point["error"]
    decode = found.decode
    assert (shown["tpot_s"], shown["ttft_s"]) == (found.tpot_s, found.ttft_s)
    np.testing.assert_allclose([point["tpot_s"], points.tpot_s[0]], found.tpot_s, rtol=1e-12)
    assert decode.plan.quant == points.plans[0].quant
    assert found.stack == f"{job.stack.name} ({job.stack.epoch})"


@settings(max_examples=COUNT // 4, suppress_health_check=[HealthCheck.too_slow])
@given(run=runs())
def test_a_lone_request_is_replayed_as_it_is_predicted(run):
    run = run | {"batch": 1, "output": max(run["output"], 8), "mtp": 0}
    plan = plan_of(run)
    found = by_function(run, ["disaggregated"])  # a step of decode alone
    assume(isinstance(found, Prediction))
    try:
        system = System(plan=plan, instances=1, quant=run["quant"], drafts=0, skew=run["skew"])
        ran = replay(run["model"], run["on"], fixed(1, run["input"], run["output"]), system, clients=1)
    except NotModelled:
        return
    except TaicangError:
        assume(False)
    assert ran.stack == found.stack
    assert float(ran.table["tpot_s"][0]) == pytest.approx(found.tpot_s, rel=0.02)
