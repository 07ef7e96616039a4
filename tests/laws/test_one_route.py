"""One question, asked at every door, has one answer.

A ``Run`` is drawn (model, machine, formats, load, layout, batch) and asked of the Python function, the command, a
study's point, a search over a space of one, and replays of a lone request and of a full instance; another, of clients
in a closed loop, also of the scoreboard as a row of a user's file. All give the same feasibility, formats, stack,
assumptions and bands, and the same figures: to 1e-12 in closed form, to the bit where both replay, full
instances too. RUNS=2000 draws as many in the slow test; a part runs by default.
"""

from __future__ import annotations

import csv
import json
import os
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from taicang.app.study_points import served as evaluate
from taicang.catalog.models import model as load_model
from taicang.errors import InvalidInput, TaicangError
from taicang.evidence.board import band_of
from taicang.evidence.intake import file_outcomes
from taicang.evidence.served import completed, row_of
from taicang.evidence.suite_served import FEWEST, as_it_ran, held_back
from taicang.evidence.suite_served import job as scored_job
from taicang.evidence.suite_served import replayed as predict
from taicang.evidence.tables import lines
from taicang.models.types import routed
from taicang.plans import ServePlan
from taicang.predict import Infeasible, Served
from taicang.predict.check import check
from taicang.predict.replay import replay
from taicang.predict.serving import answer, closed_loop
from taicang.predict.system import System
from taicang.records import jsonable, plain
from taicang.search.door import PLAN, Run, Serving, forms_of, job_of, narrowed
from taicang.search.run import Ask, search
from taicang.search.space import default
from taicang.search.trusted import assumptions, bands_of, one_token, told
from taicang.search.words import MODES as WORDS
from taicang.traffic.generate import fixed

FEW, ALL = 40, int(os.environ.get("RUNS", "300"))
QUEUES = "no queueing in TTFT"
MODELS = (
    "llama-3.1-8b", "llama-3.1-70b", "qwen3-32b", "qwen3-next-80b-a3b", "gpt-oss-120b", "qwen3-235b-a22b",
    "deepseek-r1", "minimax-m2.5",
)  # fmt: skip
MACHINES = (
    "hgx-h100", "hgx-h200 x 2", "hgx-b200", "hgx-a100", "mi300x-8", "atlas-800-a2-313t", "cloudmatrix384",
    "gb200-nvl72",
)  # fmt: skip
SYSTEMS = {"h100_sxm": "hgx-h100", "h200_sxm": "hgx-h200", "b200_sxm": "hgx-b200", "gb200": "gb200-nvl72"}
STACKS = {"vllm": "vllm@0.12.0", "sglang": "sglang@0.5.9", "trtllm": "tensorrt-llm@1.0.0"}
KEYS = {"input_tokens": "input", "output_tokens": "output", "drafts": "mtp", "acceptance_ratio": "acceptance"}
"""Fields of a ``Run`` that options and studies call otherwise."""
MODES = {"aggregated": "agg", "decode": "decode"}
powers = st.integers(0, 12).map(lambda power: 2**power)
lengths = st.floats(0, 12).map(lambda power: round(2**power))
whole = settings(max_examples=ALL, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
part = settings(parent=whole, max_examples=FEW)
some = settings(parent=whole, max_examples=max(FEW, ALL // 8))


@st.composite
def runs(draw, machines=MACHINES):
    name = draw(st.sampled_from(MODELS))
    tp, dp = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from([1, 1, 2, 4, 8]))
    plan = ServePlan(tp=tp, moe_tp=tp)
    if routed(load_model(name)) is not None:
        ep = draw(st.sampled_from([1, tp * dp]))
        plan = ServePlan(tp=tp, dp=dp, ep=ep, moe_tp=tp * dp // ep)
    return Run(
        model=name, on=draw(st.sampled_from(machines)), input_tokens=draw(lengths), output_tokens=draw(lengths),
        batch=draw(powers), quant=draw(st.sampled_from(["auto", "auto", "bf16", "fp8", "int8"])),
        drafts=draw(st.sampled_from([0, 0, 1])), acceptance_ratio=draw(st.sampled_from([0.0, 0.6, 1.0])),
        skew=draw(st.sampled_from([0.0, 1.01])), plan=plan,
    )  # fmt: skip


def said(run):
    """The fields of ``run`` as options and points name them."""
    plan = {key: getattr(run.plan, key) for key in PLAN[:5] if getattr(run.plan, key) != 1}
    fields = ("model", "on", "input_tokens", "output_tokens", "batch", "quant", "drafts", "acceptance_ratio", "skew")
    return {KEYS.get(name, name): getattr(run, name) for name in fields} | (plan or {"tp": 1})


def words(run):
    given = said(run)
    first = [given.pop("model")]
    return first + [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]


def by_function(run):
    """The prediction, why it does not fit, or the error."""
    try:
        return answer(run)
    except TaicangError as error:
        return error


def the_same_everywhere(run, taicang):
    run = replace(run, modes=WORDS["both"])
    found = by_function(run)
    code, out, err = taicang("infer", *words(run), "--json")
    if isinstance(found, TaicangError):
        assert code == 2
        assert str(found) in err
        assert not evaluate(said(run) | {"mode": "decode"})["feasible"]
        return
    assert code == int(isinstance(found, Infeasible))
    shown = {key: value for key, value in json.loads(out).items() if key not in ("cost", "cost_unknown")}
    assert shown == {"infeasible": bool(code)} | jsonable(plain(found))
    if code:
        assert not evaluate(said(run))["feasible"]
        return
    kind = "aggregated" if found.mode == "aggregated" else "decode"
    job = job_of(run)
    run = replace(run, modes=(kind,), chunk=int(job.stack.chunk_tokens))
    forms = forms_of(run, job.model, job.machine, job.stack)
    only = dict.fromkeys(("both", "decode", "prefill"), (replace(run.plan, quant=forms),))
    asked = job, [("", forms)], narrowed(default(job.model), run), Ask(modes=run.modes, top=1), only
    point = evaluate(said(run) | {"mode": MODES[kind], "chunk": run.chunk})
    if kind == "decode" and run.output_tokens == 1:
        with pytest.raises(InvalidInput, match="one token has no decode step"):
            search(*asked)
        assert "one token has no decode step" in point["error"]
        return
    choice = search(*asked).best[0]
    assert point["feasible"], point["error"]
    about = told(job, choice, run.sets)
    assert found.stack == about["stack"] == point["stack_used"]
    # prefill instances beside those asked for are infer's own choice, with redundant experts or without
    beside = tuple(line for line in found.assumptions if not line.startswith("with redundant experts"))
    assert beside == about["assumptions"] == tuple(point["assumptions"])
    assert found.bands == choice.bands
    assert jsonable(plain(found.bands)) == jsonable(point["bands"])
    assert found.decode.plan.quant == choice.pools[-1].plan.quant
    assert jsonable(plain(choice.pools)) == jsonable(point["pools"])
    assert (choice.tpot_s is None) == (point["tpot_s"] is None) == (found.tpot_s is None) == (run.output_tokens == 1)
    figures = ["tpot_s"] if run.output_tokens > 1 else []
    if kind == "aggregated":
        np.testing.assert_allclose([choice.ttft_s, point["ttft_s"]], found.loaded_ttft_s, rtol=1e-12)
        figures += ["output_tokens_per_s_per_chip", "machine_output_tokens_per_s"]
        point["machine_output_tokens_per_s"] = point["output_tokens_per_s"]
    for name in figures:
        mine = getattr(choice, name.removeprefix("machine_"))
        np.testing.assert_allclose([mine, point[name]], getattr(found, name), rtol=1e-12)


@part
@given(run=runs())
def test_every_door_gives_the_same_answer(run, taicang):
    the_same_everywhere(run, taicang)


@pytest.mark.slow
@whole
@given(run=runs())
def test_every_door_gives_many_times_the_same_answer(run, taicang):
    the_same_everywhere(run, taicang)


def one_of(run, **more):
    """One instance that runs as ``run`` says."""
    return System(instances=1, **{each.name: getattr(run, each.name) for each in fields(Serving)}, **more)


def replayed(run, requests, clients):
    """The replay of ``run`` on one instance, which says of itself all that the prediction says but for queues."""
    found = by_function(replace(run, modes=("aggregated",)))
    try:
        trace = fixed(requests, run.input_tokens, run.output_tokens)
        ran = replay(run.model, run.on, trace, one_of(run), clients=clients)
    except TaicangError:
        assert not isinstance(found, Served)
        assume(False)
    assume(isinstance(found, Served))  # else the least batch of the closed form, with its prompts, needs more memory
    assert (ran.model, ran.machine, ran.stack, ran.sources) == (found.model, found.machine, found.stack, found.sources)
    mine = tuple(line.partition(f"; {QUEUES}")[0] for line in found.assumptions)
    beside = [line for line in ran.assumptions[len(mine) :] if "drafts by default" not in line]  # how many run at once
    assert (ran.assumptions[: len(mine)], beside) == (mine, [])
    assert ran.bands == bands_of(job_of(run), "aggregated", found.decode.plan, replay=True)
    return ran


@some
@given(run=runs())
def test_a_lone_request_is_replayed_as_it_is_predicted(run):
    run = replace(run, batch=1, output_tokens=max(run.output_tokens, 8), drafts=0)
    found = by_function(replace(run, modes=("disaggregated",)))  # a step of decode alone
    assume(isinstance(found, Served))
    ran = replayed(run, requests=1, clients=1)
    assert float(ran.table["tpot_s"][0]) == pytest.approx(found.tpot_s, rel=0.02)


@some
@given(run=runs(), clients=st.integers(2, 64))
def test_clients_of_a_loop_see_the_same_at_every_door(run, clients, taicang):
    """In closed form: of the function, the command, and the loop by itself."""
    run = replace(run, batch=None, clients=clients, modes=("aggregated",))
    found = by_function(run)
    given = words(run)
    at = given.index("--batch")
    code, out, _ = taicang("infer", *given[:at], *given[at + 2 :], "--mode", "agg", "--clients", str(clients), "--json")
    assert code == (2 if isinstance(found, TaicangError) else int(isinstance(found, Infeasible)))
    assume(isinstance(found, Served))
    assert json.loads(out)["loop"] == jsonable(plain(found.loop))
    alone = closed_loop(job_of(run), found.decode.plan, clients)
    for name in ("ttft_s", "tpot_s", "output_tokens_per_s"):
        if name == "tpot_s" and run.output_tokens == 1:
            assert found.loop.tpot_s is None
        else:
            assert float(getattr(alone, name)) == getattr(found.loop, name)


@some
@given(run=runs(), batch=st.integers(2, 16))
def test_a_full_instance_is_replayed_alike_at_every_door(run, batch, taicang):
    """Simulated: by the function, the command, and a check of a benchmark that measured just that."""
    run = replace(run, batch=batch, input_tokens=min(run.input_tokens, 512), output_tokens=64)
    many = batch * run.plan.dp
    ran = replayed(run, requests=4 * many, clients=many)
    assert ran.summary.finished == 4 * many
    given = words(run)
    at = given.index("--batch")
    loop = ("--instances", "1", "--closed-loop", str(many), "--requests", str(4 * many))
    code, out, err = taicang("replay", *given[:at], *given[at + 2 :], *loop, "--json")
    assert code == 0, err
    shown = json.loads(out)
    said = jsonable(plain({name: getattr(ran, name) for name in shown}))
    assert shown == said
    order = np.argsort(ran.table["id"])
    measured = {name: ran.table[name][order] for name in ("ttft_s", "tpot_s", "e2e_s")}
    trace = replace(fixed(4 * many, run.input_tokens, run.output_tokens), measured=measured)
    found = check(run.model, run.on, trace, one_of(run), clients=many, causes=False)
    assert len(found.figures) >= 3
    wrong = [each.metric for each in found.figures if abs(each.error_ratio) > 1e-12]  # their sums run in another order
    assert not wrong


def scored(asked, path):
    """The same questions as rows of a user's file: predicted times, or why there are none."""
    with path.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "source", "measured", "backend", "backend_version", "model_path", "system", "precision",
                         "mode", "isl", "osl", "concurrency", "gemm_quant_mode", "moe_quant_mode", "batch_size",
                         "tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size", "silicon_ttft_ms",
                         "silicon_tpot_ms"])  # fmt: skip
        for number, (system, engine, run) in enumerate(asked):
            plan = run.plan
            writer.writerow([number, "mine", "", engine, STACKS[engine].partition("@")[2], run.model, system, run.quant,
                             "agg", run.input_tokens, run.output_tokens, run.clients, run.quant, run.quant, run.clients,
                             plan.tp, 1, plan.dp, plan.moe_tp, plan.ep, 1.0, 1.0])  # fmt: skip
    wanted = {"served_ttft_agg", "served_tpot_agg"}
    return {(each.id, each.suite[7:11]): each for each in file_outcomes(path, wanted)}


def asked_of(run, engine, clients):
    """``run`` as a row can state it."""
    net, plan = load_model(run.model), replace(run.plan, tp=1 if run.plan.dp > 1 else run.plan.tp)
    if routed(net) is not None:
        plan = ServePlan(tp=plan.tp, dp=plan.dp, ep=plan.tp * plan.dp, moe_tp=1)
    quant = "bf16" if net.dtype == "bf16" else "fp8"
    return replace(run, stack=STACKS[engine], plan=plan, clients=clients, batch=None, drafts=0, skew=1.01, quant=quant)


@settings(parent=whole, max_examples=3, phases=[Phase.generate])  # a failure names its row
@given(data=st.data())
def test_the_scoreboard_asks_as_users_do(data, tmp_path):
    asked = []
    for _ in range(40):
        system, engine = data.draw(st.sampled_from(list(SYSTEMS))), data.draw(st.sampled_from(list(STACKS)))
        run = data.draw(runs(machines=(SYSTEMS[system],)))
        asked.append((system, engine, asked_of(run, engine, run.batch)))
    rows = scored(asked, tmp_path / "mine.csv")
    cells = lines(tmp_path / "mine.csv")
    for number, (_, _, said) in enumerate(asked):
        row = as_it_ran(row_of(completed(cells[number], number)))
        run = replace(said, memory_ratio=row.settings.memory_ratio)  # what ran had the memory that it took
        own = run.model == "gpt-oss-120b"  # served in its own formats, whatever they are called
        found = by_function(replace(run, quant="auto") if own else run)
        ttft, tpot = rows[str(number), "ttft"], rows[str(number), "tpot"]
        several = said.output_tokens > 1
        assert (ttft.predicted is None) == (not isinstance(found, Served))
        assert (tpot.predicted is None) == (ttft.predicted is None or not several)
        if isinstance(found, Served):
            job = job_of(replace(run, quant="auto") if own else run)
            plan = replace(run.plan, quant=found.decode.plan.quant)
            near = bands_of(job, "aggregated", plan)
            scored_figures = {"ttft": ttft} | ({"tpot": tpot} if several else {})
            assert {name: band_of(each) for name, each in scored_figures.items()} == {
                name: near[name] for name in scored_figures
            }
            assert tpot.run == ttft.run
            experts = plan.quant.experts if routed(job.model) else plan.quant.dense
            assert (tpot.run.engine, tpot.run.version, tpot.run.form) == (job.stack.engine, job.stack.version, experts)
            assert found.stack.startswith(job.stack.name)
            setup = scored_job(row, row.decode).setup(row.decode.plan)
            told = assumptions(setup, setup, length=run.input_tokens + run.output_tokens, apart=False)
            assert told == tuple(line for line in found.assumptions if several or line != one_token(np.inf))
            mine = [getattr(found.loop, f"{name}_s") * 1e3 for name in scored_figures]
            np.testing.assert_allclose([each.predicted for each in scored_figures.values()], mine, rtol=1e-12)


@settings(parent=whole, max_examples=max(FEW, ALL // 8))
@given(data=st.data(), clients=st.integers(1, 64))
def test_the_scoreboard_replays_as_users_do(data, clients, tmp_path):
    """A row's closed loop, to the bit."""
    system, engine = data.draw(st.sampled_from(list(SYSTEMS))), data.draw(st.sampled_from(list(STACKS)))
    run = asked_of(data.draw(runs(machines=(SYSTEMS[system],))), engine, clients)
    run = replace(run, input_tokens=min(run.input_tokens, 2048), output_tokens=min(run.output_tokens, 64))
    scored([(system, engine, run)], tmp_path / "mine.csv")
    row = as_it_ran(row_of(completed(lines(tmp_path / "mine.csv")[0], 0)))
    trace = fixed(
        max(clients * row.settings.rounds, FEWEST), run.input_tokens, run.output_tokens, spread=row.spread_ratio
    )
    ratio = row.settings.memory_ratio
    run = replace(run, memory_ratio=ratio, quant="auto" if run.model == "gpt-oss-120b" else run.quant)
    try:
        wanted = predict(row)
    except TaicangError:
        with pytest.raises(TaicangError):
            replay(run.model, run.on, trace, one_of(run), clients=clients)
        return
    ran = replay(run.model, run.on, trace, one_of(run), clients=clients)
    late = ran.table["id"] >= (clients if row.settings.warm and len(trace) > clients else 0)
    gaps = np.maximum(ran.table["output_tokens"] - 1, 1)
    back = held_back(row, gaps)
    ttft, tpot = ran.table["ttft_s"] + back * ran.table["tpot_s"], ran.table["tpot_s"] * (1 - back / gaps)
    assert (float(np.mean(ttft[late])), float(np.mean(tpot[late]))) == wanted
