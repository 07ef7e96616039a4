"""Jobs in fp16 run at the chip's fp16 rate, those in bf16 at its bf16 rate, on chips that have one of them or both."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taicang import catalog
from taicang.errors import NotModelled
from taicang.hardware import Machine, in_half
from taicang.predict.prediction import Prediction
from taicang.predict.serving import infer
from taicang.predict.train import TrainPrediction, train
from taicang.train_plans import RECIPES, TrainPlan, recipe

MACHINES = ("hgx-a100", "hgx-h100", "hgx-h20", "gb200-nvl72", "atlas-800-a2-313t", "cloudmatrix384", "l40s-pcie")
PLAN = TrainPlan(dp=0, global_batch=0, seq=1024, recompute="full")


def _with(machine: Machine, **peaks: float | None) -> Machine:
    kept = {key: peak for key, peak in {**machine.chip.peak_flop_per_s, **peaks}.items() if peak is not None}
    return replace(machine, chip=replace(machine.chip, peak_flop_per_s=kept))


@given(st.sampled_from(MACHINES), st.floats(0.2, 5.0))
def test_half_precision_has_a_rate_of_its_own(name: str, ratio: float) -> None:
    """Only the format that is asked for counts: the other one's rate changes nothing, and may be missing."""
    machine = catalog.machine(name)
    fp16 = machine.chip.peak("fp16") * ratio
    runs = []
    for other in (machine.chip.peak("bf16"), 1e12, None):
        found = train("llama-3.2-1b", _with(machine, fp16=fp16, bf16=other), replace(PLAN, recipe=recipe("fp16")))
        assert isinstance(found, TrainPrediction)
        assert (found.peak, found.peak_flop_per_s) == ("fp16", fp16)
        runs.append(found.step.seconds)
    assert runs[0] == pytest.approx(runs[1], rel=0.2)  # constants of a cut bin may apply
    assert runs[2] > 0


@given(st.sampled_from(MACHINES), st.sampled_from(sorted(RECIPES)))
def test_what_a_chip_lacks_is_said_with_what_it_has(name: str, form: str) -> None:
    old = _with(catalog.machine(name), bf16=None)
    if form == "fp16":
        assert isinstance(train("llama-3.2-1b", old, replace(PLAN, recipe=recipe(form))), TrainPrediction)
        return
    with pytest.raises(NotModelled, match="has no bf16: use --dtype fp16"):
        train("llama-3.2-1b", old, replace(PLAN, recipe=recipe(form), trained_ratio=1.0 - recipe(form).frozen))


@given(st.sampled_from(MACHINES))
def test_a_chip_without_bf16_serves_in_fp16_and_says_so(name: str) -> None:
    machine = catalog.machine(name)
    job = {"input_tokens": 1024, "output_tokens": 64}
    old, both = (_with(machine, bf16=peak) for peak in (None, machine.chip.peak("fp16")))
    found, same = infer("llama-3.2-1b", old, **job), infer("llama-3.2-1b", both, **job)
    assert isinstance(found, Prediction)
    assert isinstance(same, Prediction)
    assert (found.ttft_s, found.tpot_s) == (same.ttft_s, same.tpot_s)
    assert any("no bf16" in said for said in found.assumptions)


def test_neither_is_named_too() -> None:
    with pytest.raises(NotModelled, match="has no fp16: it has"):
        in_half(_with(catalog.machine("hgx-h100"), fp16=None, bf16=None), "fp16")
