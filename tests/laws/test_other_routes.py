"""Training and collectives, too: one question, asked at every door, has one answer.

Random training jobs are asked of the Python function, the command, a study's point and the scoreboard (as rows of a
user's file), random collectives likewise. RUNS=2000 draws as many in the slow tests; a part runs by default.
"""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.app.study_points import LINKS, STEP, moved, trained
from taicang.catalog.models import model as load_model
from taicang.errors import TaicangError
from taicang.evidence.intake import file_outcomes
from taicang.models.types import routed
from taicang.predict import Infeasible, fabric
from taicang.predict.train import answer
from taicang.records import jsonable, plain
from taicang.search.collective import Ask
from taicang.search.training import Training
from taicang.train_plans import TrainPlan, recipe

FEW, ALL = 20, int(os.environ.get("RUNS", "300"))
MODELS = ("llama-3-8b", "llama-3.1-70b", "qwen3-32b", "gpt-oss-120b", "qwen3-30b-a3b", "deepseek-v3")
CHIPS = {
    "hgx-h100": "H100-SXM", "hgx-b200": "B200", "hgx-a100": "A100-80G", "mi300x-8": "MI300X", "hgx-h800": "H800-SXM",
}  # fmt: skip
"""Machines of eight chips, and what tables call their chips."""
KINDS = {name: name for name in ("all_reduce", "all_gather", "reduce_scatter")} | {"all_to_all": "alltoall"}
"""Collectives, and what tables call them."""
whole = settings(max_examples=ALL, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
part = settings(parent=whole, max_examples=FEW)
rows_of_few = settings(parent=whole, max_examples=3, phases=[Phase.generate])
powers = st.integers(0, 3).map(lambda power: 2**power)


@st.composite
def jobs(draw):
    name = draw(st.sampled_from(MODELS))
    tp, pp, cp = (draw(st.sampled_from([1, 1, *sizes])) for sizes in ((2, 4, 8), (2, 4), (2,)))
    dp = draw(st.sampled_from([1, 2, 8, 32]))
    nodes = -(-tp * pp * cp * dp // 8)
    ep = draw(st.sampled_from([1, 8, dp])) if routed(load_model(name)) else 1
    micro = draw(st.sampled_from([1, 1, 2]))
    plan = TrainPlan(
        tp=tp, pp=pp, cp=cp, dp=dp, ep=ep, micro_batch=micro, global_batch=dp * micro * pp * draw(powers),
        seq=draw(st.sampled_from([2048, 4096, 8192])), document_tokens=draw(st.sampled_from([0.0, 0.0, 700.5, 2048.0])),
        zero=draw(st.sampled_from([0, 1, 3])),
        recompute=draw(st.sampled_from(["none", "selective", "full"])),
        recipe=recipe(draw(st.sampled_from(["bf16", "fp8"]))),
        moments=draw(st.sampled_from(["fp32", "bf16"])), master=draw(st.sampled_from(["fp32", "none"])),
    )  # fmt: skip
    on = draw(st.sampled_from(list(CHIPS)))
    stack = (
        "primus@25.10" if on == "mi300x-8" else draw(st.sampled_from(["nemo@25.04", "megatron@0.15.0", "torchtitan"]))
    )
    return Training(model=name, on=on if nodes == 1 else f"{on} x {nodes}", plan=plan, stack=stack)


def found_by(function, *asked):
    """The answer or the error."""
    try:
        return function(*asked)
    except TaicangError as error:
        return error


def options_of(asked):
    plan = asked.plan
    fields = (
        "tp",
        "cp",
        "pp",
        "dp",
        "ep",
        "micro_batch",
        "global_batch",
        "seq",
        "zero",
        "moments",
        "master",
        "recompute",
    )
    said = {name.replace("_", "-"): getattr(plan, name) for name in fields}
    said |= {"documents": plan.document_tokens} if plan.document_tokens else {}
    return {"model": asked.model, "on": asked.on, "stack": asked.stack, "dtype": plan.recipe.name} | said


def words(said, *first):
    return [str(said[key]) for key in first] + [f"--{key}={value}" for key, value in said.items() if key not in first]


def trains_the_same_everywhere(asked, taicang):
    found, said = found_by(answer, asked), options_of(asked)
    code, out, err = taicang("train", *words(said, "model"), "--json")
    point = trained(said)
    if isinstance(found, TaicangError):
        assert code == 2
        assert str(found) in err
        assert point == {"feasible": False, "error": f"{type(found).__name__}: {found}"}
        return
    assert code == int(isinstance(found, Infeasible))
    assert json.loads(out) == {"infeasible": bool(code), "prediction": jsonable(plain(found))}
    assert point["feasible"] != bool(code)
    if code:
        assert point["error"] == found.reason
        return
    mine = {"step_s": found.step.seconds, "memory_bytes_per_rank": float(found.step.memory.total_bytes), "run_s": None}
    assert {name: point[name] for name in STEP} == mine | {n: getattr(found, n) for n in STEP if n not in mine}
    assert point["stack_used"] == found.stack
    assert tuple(point["assumptions"]) == found.assumptions
    assert jsonable(point["bands"]) == jsonable(plain(found.bands))


@part
@given(asked=jobs())
def test_every_door_trains_the_same(asked, taicang):
    trains_the_same_everywhere(asked, taicang)


@pytest.mark.slow
@whole
@given(asked=jobs())
def test_every_door_trains_many_times_the_same(asked, taicang):
    trains_the_same_everywhere(asked, taicang)


PUBLISHED = ("id", "kind", "system", "chip", "count", "model", "dtype", "par", "batch", "seq", "metric", "value",
             "unit", "src", "sw", "grade", "role", "extra", "notes")  # fmt: skip


def scored(rows, path, suites=()):
    """Predictions of rows of a user's file, by number."""
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, PUBLISHED, restval="")
        writer.writeheader()
        for number, row in enumerate(rows):
            cells = {key: json.dumps(value) if isinstance(value, dict) else value for key, value in row.items()}
            writer.writerow({"id": number, "src": "mine", "grade": "A", "role": "validation", **cells})
    return {int(each.id): each for each in file_outcomes(path, suites)}


def row_of(asked):
    plan = asked.plan
    return {
        "kind": "training", "chip": CHIPS[asked.on.partition(" ")[0]], "count": plan.ranks, "model": asked.model,
        "dtype": plan.recipe.name.upper(), "sw": asked.stack if "@" in asked.stack else f"{asked.stack} ",
        "par": {"tp": plan.tp, "pp": plan.pp, "cp": plan.cp, "dp": plan.dp, "ep": plan.ep, "zero": plan.zero},
        "batch": {"gbs": plan.global_batch, "mbs": plan.micro_batch}, "seq": {"seq_len": plan.seq},
        "metric": "step_time", "value": 1.0, "unit": "s",
        "extra": {"recompute": plan.recompute, "sp": True, "moments": plan.moments, "master": plan.master,
                  "documents": plan.document_tokens},
    }  # fmt: skip


@pytest.mark.slow
@rows_of_few
@given(listed=st.lists(jobs().filter(lambda asked: asked.stack != "torchtitan"), min_size=30, max_size=30))
def test_the_scoreboard_trains_as_users_do(listed, tmp_path):
    found = scored([row_of(asked) for asked in listed], tmp_path / "mine.csv")
    for number, asked in enumerate(listed):
        mine = found_by(answer, asked)
        if isinstance(mine, TaicangError):
            assert found[number].predicted is None
        elif not isinstance(mine, Infeasible):  # a row that was measured ran, whatever our memory says
            np.testing.assert_allclose(found[number].predicted, mine.step.seconds, rtol=1e-12)


@st.composite
def moves(draw, machines=("hgx-h100", "hgx-b200", "mi300x-8", "cloudmatrix384")):
    nodes = draw(st.sampled_from([1, 2, 4]))
    on = draw(st.sampled_from(machines))
    on = "cloudmatrix384" if on == "cloudmatrix384" else on if nodes == 1 else f"{on} x {nodes}"
    size = float(round(2.0 ** draw(st.floats(10, 32))))
    ranks = catalog.machine(on).ranks if on != "cloudmatrix384" else 32
    return on, Ask(kind=draw(st.sampled_from(list(KINDS))), payload_bytes=size, ranks=ranks)


def moves_the_same_everywhere(on, ask, taicang):
    found = fabric.run(on, ask)
    said = {
        "machine": on,
        "collective": ask.kind.replace("_", "-"),
        "bytes": f"{ask.payload_bytes!r} B",
        "ranks": ask.ranks,
    }
    code, out, _ = taicang("fabric", *words(said, "machine"), "--json")
    assert code == 0
    mine = {key: value for key, value in jsonable(plain(found)).items() if key != "ask"}
    assert {key: value for key, value in json.loads(out).items() if key != "ask"} == mine
    assert {name: moved(said)[name] for name in LINKS} == {name: getattr(found, name) for name in LINKS}


@part
@given(drawn=moves())
def test_every_door_moves_the_same(drawn, taicang):
    moves_the_same_everywhere(*drawn, taicang)


@pytest.mark.slow
@whole
@given(drawn=moves())
def test_every_door_moves_many_times_the_same(drawn, taicang):
    moves_the_same_everywhere(*drawn, taicang)


@rows_of_few
@given(listed=st.lists(moves(machines=("cloudmatrix384",)), min_size=10, max_size=10))
def test_the_scoreboard_moves_as_users_do(listed, tmp_path):
    rows = [
        {"kind": "collective", "system": "cloudmatrix384", "chip": "Ascend-910C", "count": ask.ranks,
         "model": KINDS[ask.kind], "metric": "latency", "value": 1.0, "unit": "us",
         "batch": {"bytes": ask.payload_bytes}}
        for _, ask in listed
    ]  # fmt: skip
    found = scored(rows, tmp_path / "mine.csv")
    for number, (on, ask) in enumerate(listed):
        np.testing.assert_allclose(found[number].predicted, fabric.run(on, ask).closed_s * 1e6, rtol=1e-12)
