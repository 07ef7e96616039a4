"""Steps as Chakra traces: what is written reads back, runs in about the predicted time, and has all its bytes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from taicang import catalog
from taicang.app.main import cli
from taicang.catalog.costing import cost_model
from taicang.errors import NotModelled
from taicang.interop import chakra
from taicang.ops import Collective
from taicang.predict.chakra import training_graph
from taicang.predict.train import train
from taicang.predict.workload import on_machine
from taicang.stacks import BARE
from taicang.train_plans import TrainPlan, recipe


def asked(*words: str) -> None:
    said = CliRunner().invoke(cli, list(words), standalone_mode=False)
    assert said.exception is None, said.exception


def predicted(machine, model="llama-3-8b", **layout):
    plan = TrainPlan(dp=0, global_batch=64, seq=4096, recipe=recipe("bf16"), **layout)
    # registered buffers: collectives that a workload runs beside computing do not slow it
    return train(model, machine, plan, explained=True, overlap=["+registered"])


@pytest.mark.parametrize("layout", [
    {"tp": 2, "zero": 1}, {"tp": 8, "zero": 2, "recompute": "selective"}, {"zero": 3, "recompute": "full"},
    {"tp": 4, "cp": 2, "zero": 1, "recompute": "full"},
    {"model": "qwen3-30b-a3b", "ep": 8, "zero": 1},  # whose kernels are through before the host has launched them
    {"model": "qwen3-30b-a3b", "ep": 32, "zero": 1, "recompute": "full"},  # whose tokens cross to a node once
    {"model": "mixtral-8x7b", "tp": 2, "ep": 8, "zero": 1, "recompute": "full"},
])  # fmt: skip
def test_a_training_step_reads_back_and_takes_as_long(tmp_path, layout):
    machine = "hgx-h100 x 4"
    found = predicted(machine, **layout)
    workload = training_graph(found.explained.setup, "step")
    (name, data), *_ = chakra.write(workload, tmp_path / "step").items()
    (tmp_path / name).write_bytes(data)
    back = chakra.read(tmp_path / "step")
    assert back.groups == workload.groups
    first, second = (each.ranks[0] for each in (workload, back))
    assert len(second) == len(first) + bool(workload.groups)
    for one, other in zip(first, second, strict=False):
        assert (one.name, one.kind, one.after, one.group) == (other.name, other.kind, other.after, other.group)
        assert other.payload_bytes == pytest.approx(one.payload_bytes, abs=1.0)
    assert sum(t.seconds for t in second) == pytest.approx(sum(t.seconds for t in first), abs=1e-6)
    run = on_machine(tmp_path / "step", machine)
    exposed = sum(found.step.spent.get(line, 0.0) for line in ("bubble", "uneven stages", "stragglers", "host"))
    # one after the other, without the overlaps of the library inside a layer
    assert 0.85 < run.seconds / (found.step.seconds - exposed) < 1.35


@pytest.mark.parametrize(
    "layout",
    [
        {"tp": 8, "zero": 1},
        {"zero": 3},
        {"tp": 8, "zero": 1, "recompute": "full"},
        {"tp": 2, "cp": 2, "zero": 3, "recompute": "full"},
        {"tp": 4, "cp": 2, "zero": 1, "recompute": "selective"},
    ],
)
def test_bytes_of_a_trace_are_those_of_the_placement(layout):
    found = predicted("hgx-h100 x 4", **layout)
    on = catalog.machine("hgx-h100 x 4")
    costs = cost_model(on, BARE)
    sent = 0.0
    for task in training_graph(found.explained.setup, "step").ranks[0]:
        if task.kind == "collective":
            members, stride = map(int, task.group.split("x"))
            whole = task.payload_bytes * (members if task.collective == "all_gather" else 1)
            op = Collective(kind=task.collective, payload_bytes=whole, ranks=members, stride=stride)
            sent += float(costs.price(op, 1.0, 1.0).sent_bytes)
    said = sum(sum(one.level_bytes.values()) for one in found.explained.traffic)
    assert sent == pytest.approx(said, rel=0.05)


def test_commands_write_traces_that_run(tmp_path):
    prefix = tmp_path / "t"
    asked("infer", "llama-3.1-70b", "--on", "hgx-h100", "--tp", "8", "--batch", "16", "--json", "--chakra", str(prefix))
    decode = on_machine(prefix, "hgx-h100")
    work = ("--collective", "dispatch", "--ranks", "64", "--bytes", "7680B")
    asked("fabric", "cloudmatrix384", *work, "--chakra", str(prefix))
    alone = on_machine(prefix, "cloudmatrix384")
    assert 1e-3 < decode.seconds < 1.0
    assert 1e-5 < alone.seconds < 1e-2
    timeline = tmp_path / "run.json"
    asked("fabric", "run", str(prefix), "--on", "cloudmatrix384", "--perfetto", str(timeline))
    events = json.loads(timeline.read_text())["traceEvents"]
    assert {event["ph"] for event in events} >= {"X", "M", "C"}


@pytest.mark.parametrize(("model", "layout"), [
    ("llama-3-8b", {"pp": 4, "tp": 2}), ("llama-3-8b", {"pp": 2, "vpp": 2, "cp": 2, "zero": 2, "recompute": "full"}),
    ("llama-3-8b", {"pp": 4, "vpp": 2, "schedule": "zb_v"}), ("llama-3-8b", {"pp": 4, "order": "random:3"}),
    ("llama-3-8b", {"tp": 2, "order": "random", "global_batch": 32}),
    ("qwen3-30b-a3b", {"pp": 4, "ep": 4, "schedule": "dualpipe", "global_batch": 32}),
])  # fmt: skip
def test_stages_and_random_places_have_a_graph_of_each_rank(tmp_path, model, layout):
    machine = "hgx-h100 x 2"
    plan = TrainPlan(dp=0, seq=4096, recipe=recipe("bf16"), **{"global_batch": 16} | layout)
    found = train(model, machine, plan, explained=True, overlap=["+registered"])
    workload = training_graph(found.explained.setup, "step")
    assert sorted(workload.ranks) == list(range(16))
    sent, received = (
        sorted((at, task.peer, task.tag) if kind == "send" else (task.peer, at, task.tag)
               for at, tasks in workload.ranks.items() for task in tasks if task.kind == kind)
        for kind in ("send", "receive")
    )  # fmt: skip
    assert sent == received
    moved = sum(task.payload_bytes for tasks in workload.ranks.values() for task in tasks if task.kind == "send") / 16
    said = sum(sum(one.level_bytes.values()) for one in found.explained.traffic if one.axis == "pp")
    assert moved == pytest.approx(said, rel=1e-6)
    for name, data in chakra.write(workload, tmp_path / "step").items():
        (tmp_path / name).write_bytes(data)
    back = chakra.read(tmp_path / "step")
    assert back.groups == workload.groups
    run = on_machine(tmp_path / "step", machine)
    exposed = sum(found.step.spent.get(line, 0.0) for line in ("stragglers", "host"))
    # one after the other, without the overlaps of the library inside a layer
    assert 0.8 < run.seconds / (found.step.seconds - exposed) < 1.35


def test_what_no_trace_can_hold_is_refused():
    plan = TrainPlan(dp=0, global_batch=8192, seq=4096, recipe=recipe("bf16"), pp=2)
    large = train("llama-3-8b", "hgx-h100 x 32", plan, explained=True)
    with pytest.raises(NotModelled, match="fewer microbatches"):
        training_graph(large.explained.setup, "step")
