"""A band is chosen by what is new about a run; where nobody measured anything near, it is unvalidated."""

import math
from dataclasses import replace

import pytest

from taicang import catalog
from taicang.catalog.grounds import ground, trained
from taicang.catalog.models import model
from taicang.catalog.trust import NINE_IN_TEN, SERVED, UNVALIDATED, band, bands, novelty, table
from taicang.plans import Quantisation
from taicang.predict import Prediction, infer
from taicang.search.training import changed
from taicang.train_plans import TrainPlan

RUN = ground(
    model("llama-3.1-8b"), catalog.machine("hgx-h100"), catalog.stack("vllm@0.19.0"), use="aggregated", ranks=1,
    quant=Quantisation(),
)  # fmt: skip


def known(**cells):
    near = {"version": [RUN.version], "kind": [RUN.kind], "model": [RUN.model], "form": [RUN.form],
            "chip": [RUN.chip], "generation": [RUN.generation], "size": ["domain 1", "domain 8"],
            "source": ["they", ""], "layout": ["", "tp"]}  # fmt: skip
    return {"tpot": {RUN.pool: {"rows": 100, "engines": {RUN.engine: near}, "cells": {"": cells}}}}


def test_what_is_new_adds_its_own_excess():
    told = known(seen=[0.03, 0.1], model=[0.06, 0.2], sibling=[0.08, 0.3])
    assert band("tpot", RUN, told).high_ratio == pytest.approx(math.exp(0.1))
    assert band("tpot", replace(RUN, model="another"), told).high_ratio == pytest.approx(math.exp(0.2))
    both = band("tpot", replace(RUN, model="another", chip="h20-96g"), told)
    assert both.high_ratio == pytest.approx(math.exp(math.sqrt(0.2**2 + 0.3**2 - 0.1**2)))
    assert both.low_ratio * both.high_ratio == pytest.approx(1.0)
    assert "model" in both.basis
    assert "chip" in both.basis


def test_each_end_of_a_band_is_its_own_and_that_of_a_rate_is_turned_round():
    told = known(seen=[0.03, 0.1, 0.2], model=[0.06, 0.2, 0.5])
    other = band("tpot", replace(RUN, model="another"), told)
    assert (other.low_ratio, other.high_ratio) == pytest.approx((math.exp(-0.2), math.exp(0.5)))
    assert other.wide_ratio == pytest.approx(math.expm1(0.35))
    assert band("tpot", replace(RUN, form="int3"), told).wide_ratio == 0.0
    pools = {"step_time": {f"training {RUN.vendor}": told["tpot"][RUN.pool]}}
    found = bands(replace(RUN, use="training", own=pools), ("step_time", "days", "throughput", "mfu"))
    step, rate = found["step_time"], found["throughput"]
    assert (step.low_ratio, step.high_ratio) == pytest.approx((math.exp(-0.1), math.exp(0.2)))
    assert (rate.low_ratio * step.high_ratio, rate.high_ratio * step.low_ratio) == pytest.approx((1.0, 1.0))
    assert (found["days"], found["mfu"]) == (step, rate)


def test_what_is_left_out_with_a_publisher_counts_once():
    """But for the chip, whose kernels are fitted apart."""
    told = known(seen=[0.03, 0.1], source=[0.06, 0.4], model=[0.06, 0.2], version=[0.06, 0.3])
    other = replace(RUN, source="others", model="another", version="2")
    assert band("tpot", other, told).high_ratio == pytest.approx(math.exp(0.4))
    assert band("tpot", replace(RUN, model="another", version="2"), told).high_ratio == pytest.approx(math.exp(0.3))


def test_a_way_that_no_measured_run_has_is_unvalidated():
    told = known(seen=[0.03, 0.1], layout=[0.06, 0.2])
    assert band("tpot", replace(RUN, layout="tp"), told).high_ratio == pytest.approx(math.exp(0.1))
    two = band("tpot", replace(RUN, layout="tp+pp"), told)
    assert (two.verdict, "pp" in two.basis) == (UNVALIDATED, True)


def test_of_one_publisher_its_own_rows_stand():
    """And where engines could be left out, which takes their publishers with them, these tell."""
    alone = band("tpot", replace(RUN, source="others"), known(seen=[0.03, 0.1]))
    assert alone.high_ratio == pytest.approx(math.exp(0.1))
    assert "one publisher" in alone.basis
    engines = known(seen=[0.03, 0.1], engine=[0.06, 0.3])
    assert band("tpot", replace(RUN, source="others"), engines).high_ratio == pytest.approx(math.exp(0.3))


@pytest.mark.parametrize(
    "change",
    [{"vendor": "AMD"}, {"use": "training"}, {"engine": "mindie"}, {"generation": "rubin", "chip": "r100"},
     {"ranks": 32}, {"span": "network"}, {"form": "int3"}, {"version": "0.1"}],
)  # fmt: skip
def test_nothing_is_borrowed_where_nothing_was_left_out(change):
    found = band("tpot", replace(RUN, **change), known(seen=[0.03, 0.1], model=[0.06, 0.2]))
    assert (found.verdict, found.low_ratio, found.rows) == (UNVALIDATED, None, 0)
    assert found.basis


def test_a_changed_chip_is_no_measured_one():
    changed = catalog.machine("hgx-h100", ("chip.memory.bandwidth=4 TB/s",))
    made = ground(
        model("llama-3.1-8b"), changed, catalog.stack("vllm"), use="aggregated", ranks=1, quant=Quantisation()
    )
    assert made.chip != RUN.chip
    new, why = novelty(made, table()["tpot"][made.pool])
    assert "sibling" in new
    assert not why


def width(machine, name="llama-3.1-8b", metric="tpot", **more):
    found = infer(name, machine, input_tokens=512, output_tokens=128, **more)
    assert isinstance(found, Prediction)
    assert set(found.bands) == set(SERVED)
    each = found.bands[metric]
    return each.high_ratio if each.verdict == NINE_IN_TEN else math.inf


def test_what_is_further_off_has_a_wider_band():
    known = width("hgx-h100", stack="vllm@0.19.0")
    assert 1.0 < known < width("hgx-h20") < math.inf
    assert known < width("hgx-h100", "gemma-3-27b")
    assert known <= width("hgx-h100", stack="vllm@0.10.0")  # versions left out were no further off
    assert width("mi300x-8") == math.inf
    assert width("hgx-h100", metric="memory") == math.inf


def test_a_band_of_one_machine_and_model_speaks_for_no_other():
    """CloudMatrix384 was measured with one model: another on an Atlas gets nothing of it."""
    assert width("atlas-800-a2-313t", metric="throughput") == math.inf
    assert width("cloudmatrix384", "qwen3-235b-a22b", stack="cloudmatrix-infer") == math.inf


def test_every_figure_of_every_pool_has_a_band_or_none():
    for metric, pools in table().items():
        for pool in pools:
            use, _, vendor = pool.partition(" ")
            each = band(metric, replace(RUN, use=use, vendor=vendor))
            assert each.verdict in (NINE_IN_TEN, UNVALIDATED)
    assert set(bands(RUN, SERVED)) == set(SERVED)


@pytest.mark.parametrize(
    ("job", "name", "stack", "why"),
    [
        ({"dp": 16, "zero": 3}, "qwen3-30b-a3b", "deepspeed@0.15.0", "experts one by one"),
        ({"dp": 16, "ep": 8}, "qwen3-30b-a3b", changed(catalog.stack("megatron"), fused=("-grouped",)), "one by one"),
        ({"dp": 16, "ep": 8, "trained_ratio": 0.0}, "qwen3-30b-a3b", "megatron", "experts: no adapters"),
        ({"dp": 16, "ep": 8}, "qwen3-30b-a3b", "megatron", ""),
        ({"dp": 16, "zero": 3}, "qwen3-14b", "deepspeed", ""),
    ],
)
def test_kinds_of_layers_that_nobody_trained_have_no_band(job, name, stack, why):
    """Dense rows say nothing of experts, nor experts in one product of those that the host runs one by one."""
    machine, engine = catalog.machine("hgx-h100 x 2"), catalog.stack(stack) if isinstance(stack, str) else stack
    run = trained(model(name), machine, engine, TrainPlan(global_batch=16, seq=8192, **job))
    found = band("step_time", run)
    assert (found.verdict == UNVALIDATED) == bool(why)
    assert why in found.basis
