"""Training plans handed to Megatron-LM ask for the plan's ranks, and say what the plan says."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.app.main import cli
from taicang.catalog.models import model
from taicang.errors import NotModelled
from taicang.search.handover.megatron import megatron
from taicang.train_plans import TrainPlan, recipe

MACHINE = catalog.machine("hgx-h100 x 2048")
LAYOUT = "--pipeline-model-parallel-layout"
NAMES = ("llama-3.1-405b", "deepseek-v3", "mixtral-8x7b", "qwen3-32b")


@st.composite
def plans(draw: st.DrawFn) -> TrainPlan:
    power = st.integers(0, 3).map(lambda n: 2**n)
    tp, cp, pp, dp, ep = draw(power), draw(power), draw(power), draw(power) * draw(power), draw(power)
    vpp = draw(st.sampled_from([1, 1, 2])) if pp > 1 else 1
    micro = draw(st.sampled_from([1, 2]))
    return TrainPlan(
        tp=tp, cp=cp, pp=pp, dp=dp, ep=ep if (tp * cp * dp) % ep == 0 else 1, vpp=vpp, micro_batch=micro,
        global_batch=dp * micro * draw(st.integers(1, 64)), seq=draw(st.sampled_from([4096, 8192])),
        zero=draw(st.sampled_from([0, 1, 1, 3])) if pp == 1 else 1,
        recipe=recipe(draw(st.sampled_from(["bf16", "fp8"]))),
        recompute=draw(st.sampled_from(["none", "selective", "full"])),
        recompute_ratio=draw(st.sampled_from([0.5, 1.0])), context=draw(st.sampled_from(["ring", "ulysses"])),
    )  # fmt: skip


def words_of(script: str) -> list[str]:
    return shlex.split(script.splitlines()[-1].removeprefix("exec "))


def value(words: list[str], key: str, default: int = 1) -> int:
    return int(words[words.index(key) + 1]) if key in words else default


@settings(max_examples=500, deadline=None)
@given(plans(), st.sampled_from(NAMES))
def test_ranks_nodes_and_batches_are_those_of_the_plan(plan, name):
    net = model(name)
    files = megatron(plan, net, MACHINE)
    words = words_of(files["train.sh"])
    world = value(words, "--nnodes") * value(words, "--nproc-per-node")
    assert world == plan.ranks
    assert value(words, "--nproc-per-node") <= 8
    job = yaml.load(files["train.yaml"], getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    replicas = job["spec"]["pytorchReplicaSpecs"].values()
    devices = [each["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for each in replicas]
    assert sum(n * each["replicas"] for n, each in zip(devices, replicas, strict=True)) == plan.ranks
    inner = [value(words, f"--{axis}-parallel-size") for axis in ("tensor-model", "pipeline-model", "context")]
    assert world % (inner[0] * inner[1] * inner[2]) == 0
    assert world // (inner[0] * inner[1] * inner[2]) == plan.dp
    assert value(words, "--global-batch-size") % (value(words, "--micro-batch-size") * plan.dp) == 0
    if LAYOUT in words:
        layout = words[words.index(LAYOUT) + 1]
        assert (layout.count("t"), layout.count("|") + 1) == (net.layers, plan.chunks)
        assert layout.startswith("E")
        assert layout.endswith("L")
    else:
        assert net.layers % (plan.pp * value(words, "--num-virtual-stages-per-pipeline-rank")) == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schedule": "dualpipe", "pp": 2}, "dualpipe"),
        ({"zero": 2}, "ZeRO 2"),
        ({"recipe": recipe("nvfp4")}, "nvfp4"),
        ({"order": "cp-tp-ep-dp-pp"}, "order"),
        ({"trained_ratio": 0.01}, "adapters"),
    ],
)
def test_what_it_cannot_express_is_refused(change, reason):
    plan = TrainPlan(tp=8, dp=2, global_batch=16)
    with pytest.raises(NotModelled, match=reason):
        megatron(replace(plan, **change), model("llama-3.1-70b"), MACHINE)


def test_the_command_writes_the_searched_plan(tmp_path):
    arguments = ["train", "llama-3.1-8b", "--on", "hgx-h100", "--search", "--emit", "megatron", "--out", str(tmp_path)]
    assert CliRunner().invoke(cli, arguments, catch_exceptions=False).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"train.sh", "train.yaml"}
    assert "--nproc-per-node 8" in (tmp_path / "train.sh").read_text()


VENDORS = {"hgx-h100 x 64": "nemo", "mi300x-8 x 64": "rocm/megatron-lm", "atlas-800-a2-313t x 64": "cann"}


@settings(max_examples=150, deadline=None)
@given(plans(), st.sampled_from(sorted(VENDORS)), st.sampled_from(["", "bf16", "fp32"]), st.booleans())
def test_files_are_those_of_the_machine(plan, on, gradients, overlapped):
    """Image, resource and entry of the chip's vendor, or a refusal; what the prediction assumes is asked for."""
    machine, plan = catalog.machine(on), replace(plan, gradients=gradients)
    ascend = machine.chip.ascend
    if plan.ranks > machine.ranks:
        return
    words = {"tensor"} if overlapped else set()
    if ascend and (plan.zero == 3 or plan.recipe.name == "fp8"):
        with pytest.raises(NotModelled, match="MindSpeed"):
            megatron(plan, model("llama-3.1-405b"), machine, overlap=words)
        return
    files = megatron(plan, model("llama-3.1-405b"), machine, overlap=words)
    for text in files.values():
        assert VENDORS[on] in files["train.yaml"]
        assert ("huawei.com/Ascend910" in files["train.yaml"]) == ascend
        assert ("mindspeed.megatron_adaptor" in text) == ascend
        assert ("pretrain_mindspeed.py" in text) == ascend
        assert ("--use-ascend-mc2" in text) == (ascend and overlapped and plan.tp > 1)
        assert ("--grad-reduce-in-bf16" in text) == (gradients == "bf16")
    assert ":latest" not in files["train.yaml"]
