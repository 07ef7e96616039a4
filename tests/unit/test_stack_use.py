"""A stack is for serving or for training, on chips of some vendors: another question or machine is refused, with those
that are for it."""

from dataclasses import replace

import pytest
from click.testing import CliRunner

from taicang import catalog
from taicang.app.main import cli
from taicang.catalog.costing import default_stack
from taicang.catalog.models import model as load_model
from taicang.catalog.stack_entry import engines, fit_for, hosts, nearest, runs_on
from taicang.errors import InvalidInput
from taicang.predict import infer
from taicang.predict.train import train
from taicang.search.choices import default_stack as default_engine
from taicang.search.handover import TARGETS
from taicang.train_plans import TrainPlan

STACKS = catalog.names("stack")
ON = {"nvidia": "hgx-h100", "amd": "mi300x-8", "huawei": "cloudmatrix384"}
CHIPS = {vendor: catalog.machine(name).chip for vendor, name in ON.items()}


def listed(refused):
    return str(refused.value).rpartition("one of ")[2].split(", ")


@pytest.mark.parametrize("name", STACKS)
def test_each_stack_of_the_package_is_for_one_use_on_chips_of_known_vendors(name):
    made = catalog.stack(name)
    assert made.use, f"data/stacks/{made.engine}.yaml says no use (serving or training)"
    assert frozenset() < made.runs_on <= set(CHIPS), f"data/stacks/{made.engine}.yaml: runs_on"
    other = {"serving": "training", "training": "serving"}[made.use]
    for vendor, chip in CHIPS.items():
        if vendor in made.runs_on:
            assert fit_for(made, made.use, chip) is made
            assert fit_for(made, "", chip) is made
        for use in {other, made.use} if vendor not in made.runs_on else {other}:
            with pytest.raises(InvalidInput, match=made.engine) as refused:
                fit_for(made, use, chip)
            assert {catalog.stack(each).use for each in listed(refused)} == {use}
            assert all(runs_on(hosts()[each], chip) for each in listed(refused))


@pytest.mark.parametrize("machine", ["hgx-h100", "cloudmatrix384"])
def test_both_questions_refuse_the_others_stacks_and_default_to_their_own(machine):
    with pytest.raises(InvalidInput, match="megatron"):
        infer("llama-3.1-8b", machine, stack="megatron")
    with pytest.raises(InvalidInput, match="vllm"):
        train("llama-3.1-8b", machine, TrainPlan(tp=8), stack="vllm")
    assert catalog.stack(default_stack(catalog.machine(machine))).use == "training"


@pytest.mark.parametrize("on", ON.values())
def test_what_is_taken_where_nobody_names_a_stack_runs_there(on):
    machine = catalog.machine(on)
    assert fit_for(catalog.stack(default_stack(machine)), "training", machine.chip)
    for net in ("deepseek-v3", "qwen3-8b"):
        assert fit_for(catalog.stack(default_engine(machine, load_model(net))), "serving", machine.chip)


SAID = {
    "infer": "qwen3-8b", "search": "qwen3-8b", "compare": "qwen3-8b", "train": "llama-3-8b --tp 8 --global-batch 8",
    "replay": "qwen3-8b --rate 1/s --requests 3", "fabric": "--collective all-reduce --bytes 1MiB",
}  # fmt: skip


@pytest.mark.parametrize("command", SAID)
@pytest.mark.parametrize("vendor", ON)
def test_every_command_refuses_a_stack_of_other_chips_with_those_of_the_machine(command, vendor, tmp_path):
    """Also a stack of the user's that derives from it."""
    use = "training" if command == "train" else "serving"
    engine = next(e for e in sorted(engines()) if catalog.stack(e).use == use and vendor not in hosts()[e])
    mine = tmp_path / "mine.yaml"
    mine.write_text(f"base: {nearest(engine)}\ntitle: Mine\n")
    for stack in (engine, str(mine)):
        said = [*SAID[command].split(), *(["--on", ON[vendor]] if command != "fabric" else []), "--stack", stack]
        ran = CliRunner().invoke(cli, [command, *([ON[vendor]] if command == "fabric" else []), *said])
        assert isinstance(ran.exception, InvalidInput), ran.output
        assert f"does not run on {CHIPS[vendor].name}" in str(ran.exception)


def test_a_chip_of_a_vendor_whom_no_stack_names_is_refused_by_none():
    mtt = replace(CHIPS["nvidia"], name="mtt-s4000", vendor="Moore Threads")
    assert mtt.vendor.lower() not in frozenset().union(*hosts().values())
    assert all(runs_on(vendors, mtt) for vendors in hosts().values())


def test_what_a_choice_is_handed_to_runs_where_its_stack_does():
    for to, target in TARGETS.items():
        assert target.chips, to
        assert not target.stack or target.chips == hosts()[target.stack]
