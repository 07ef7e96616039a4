"""A stack is for serving or for training: the other question is refused, with those that can answer it."""

import pytest

from taicang import catalog
from taicang.catalog.costing import default_stack
from taicang.catalog.stack_entry import fit_for
from taicang.errors import InvalidInput
from taicang.predict import infer
from taicang.predict.train import train
from taicang.train_plans import TrainPlan

STACKS = catalog.names("stack")


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("ascend", [False, True])
def test_each_stack_of_the_package_is_for_one_use_and_names_others_for_the_other(name, ascend):
    made = catalog.stack(name)
    other = {"serving": "training", "training": "serving"}[made.use]
    assert fit_for(made, made.use, ascend=ascend) is made
    with pytest.raises(InvalidInput, match=made.engine) as refused:
        fit_for(made, other, ascend=ascend)
    listed = str(refused.value).rpartition("one of ")[2].split(", ")
    assert listed
    assert {catalog.stack(each).use for each in listed} == {other}


@pytest.mark.parametrize("machine", ["hgx-h100", "cloudmatrix384"])
def test_both_questions_refuse_the_others_stacks_and_default_to_their_own(machine):
    with pytest.raises(InvalidInput, match="megatron trains models"):
        infer("llama-3.1-8b", machine, stack="megatron")
    with pytest.raises(InvalidInput, match="vllm serves models"):
        train("llama-3.1-8b", machine, TrainPlan(tp=8), stack="vllm")
    assert catalog.stack(default_stack(catalog.machine(machine))).use == "training"
