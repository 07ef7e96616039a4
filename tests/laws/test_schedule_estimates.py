"""The search's closed forms of pipeline schedules against their simulation, over models, sizes and recompute."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.costing import training_price
from taicang.catalog.models import model
from taicang.errors import InvalidPlan
from taicang.train import estimate, pipeline
from taicang.train.memory import in_flight
from taicang.train.schedule import Shape
from taicang.train.setup import Setup
from taicang.train.space import Variant
from taicang.train.step import train_step
from taicang.train_plans import WAVES, TrainPlan
from taicang.train_plans.check import check


@cache
def _setup(net: str, rounds: int) -> Setup:
    machine, engine = catalog.machine("hgx-h100 x 8"), catalog.stack("nemo")
    plan = TrainPlan(tp=4, dp=16, global_batch=16 * rounds, seq=4096)
    return Setup(model=model(net), plan=plan, machine=machine, stack=engine, price=training_price(machine, engine))


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(("zero_bubble", "zb_2p", "zb_v", "dualpipev")), st.sampled_from(("llama-3-70b", "qwen2.5-72b")),
    st.sampled_from((2, 4, 8)), st.sampled_from((16, 32)), st.sampled_from(("none", "full")),
)  # fmt: skip
def test_closed_forms_propose_what_the_simulation_prices(
    schedule: str, net: str, pp: int, rounds: int, recompute: str
) -> None:
    setup = _setup(net, rounds)
    stages, chunks = np.array([pp]), np.array([2 if schedule in WAVES else 1])
    modes = ((recompute, 1.0),)
    found = list(estimate.estimates(setup, setup.plan, stages, chunks, modes, {"schedule": schedule, "zero": 1}))
    assert found
    for one in found:
        plan = replace(one.plan, pp=pp, vpp=int(chunks[0]), dp=16 // pp, recompute=recompute)
        exact = train_step(replace(setup, plan=plan))
        assert float(one.seconds[0]) == pytest.approx(exact.seconds, rel=0.06)
        assert float(one.memory_bytes[0]) == pytest.approx(float(exact.memory.total_bytes), rel=0.04)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(("torchtitan", "torchtune", "deepspeed")), st.sampled_from(("llama-3-8b", "qwen2.5-72b")),
    st.sampled_from((1, 2, 4)), st.sampled_from((1024, 4096, 16384)), st.sampled_from(("none", "full")),
)  # fmt: skip
def test_what_the_search_says_of_weights_gathered_by_layer_is_what_a_step_costs(
    engine: str, net: str, tp: int, seq: int, recompute: str
) -> None:
    machine, stack = catalog.machine("hgx-h100 x 8"), catalog.stack(engine)
    plan = TrainPlan(tp=tp, dp=64 // tp, global_batch=64 // tp, seq=seq, zero=3)
    setup = Setup(model=model(net), plan=plan, machine=machine, stack=stack, price=training_price(machine, stack))
    one = np.array([1])
    found = [
        each
        for each in estimate.estimates(
            setup, setup.plan, one, one, ((recompute, 1.0),), {"schedule": "1f1b", "zero": 3}
        )
        if each.plan.reshard and not each.plan.shard
    ]
    assert found
    exact = train_step(replace(setup, plan=replace(found[0].plan, pp=1, vpp=1, dp=64 // tp, recompute=recompute)))
    assert float(found[0].seconds[0]) == pytest.approx(exact.seconds, rel=0.02)
    assert float(found[0].memory_bytes[0]) == pytest.approx(float(exact.memory.total_bytes), rel=0.02)


TRAINING = {stack.keeps: name for name in catalog.names("stack") if (stack := catalog.stack(name)).use == "training"}
"""One for each way of keeping a step's tensors."""


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(list(TRAINING.values())), st.sampled_from(("llama-3-8b", "qwen2.5-7b", "llama-2-7b")),
    st.sampled_from((1, 4, 64)), st.sampled_from((512, 4096)), st.integers(0, 2), st.sampled_from(("none", "full")),
)  # fmt: skip
@example("internevo", "llama-3-8b", 64, 512, 1, "none")  # many more ranks than tensors
def test_without_stages_or_overlap_the_closed_form_is_the_step(
    engine: str, net: str, nodes: int, seq: int, zero: int, recompute: str
) -> None:
    machine, stack = catalog.machine(f"hgx-h100 x {nodes}"), replace(catalog.stack(engine), overlap=frozenset())
    plan = TrainPlan(dp=machine.ranks, global_batch=machine.ranks, seq=seq, zero=zero)
    setup = Setup(model=model(net), plan=plan, machine=machine, stack=stack, price=training_price(machine, stack))
    one, asked = np.array([1]), (((recompute, 1.0),), {"schedule": "1f1b", "zero": zero})
    assert list(estimate.estimates(setup, setup.plan, np.array([1, 2]), np.array([1, 1]), *asked))  # several at a time
    for found in estimate.estimates(setup, setup.plan, one, one, *asked):
        exact = train_step(replace(setup, plan=replace(found.plan, pp=1, vpp=1, dp=machine.ranks, recompute=recompute)))
        assert float(found.seconds[0]) == pytest.approx(exact.seconds, rel=1e-4)
        assert float(found.memory_bytes[0]) == pytest.approx(float(exact.memory.total_bytes), rel=1e-4)


SCHEDULES = ("gpipe", "1f1b", "zero_bubble", "zb_2p", "zb_v", "dualpipe", "dualpipev")

RUNS = [*((each, False) for each in SCHEDULES), ("1f1b", True)]
"""Schedules, and whether passes run in pairs."""


def _alike(schedule: str, layers: int, paired: bool) -> tuple[Any, Any]:
    """All that the closed forms ask a set-up and a plan for."""
    stack = SimpleNamespace(overlap=frozenset({"expert_exchange"} if paired else ()))
    return SimpleNamespace(model=SimpleNamespace(layers=layers), stack=stack), SimpleNamespace(schedule=schedule, ep=2)


@pytest.mark.parametrize(("schedule", "paired"), RUNS)
@settings(max_examples=15)
@given(pp=st.integers(1, 16), chunks=st.integers(1, 4), rounds=st.integers(1, 40))
def test_microbatches_in_flight_are_those_of_the_first_rank(
    schedule: str, paired: bool, pp: int, chunks: int, rounds: int
) -> None:
    vpp = 2 if schedule in WAVES else chunks if schedule == "1f1b" else 1
    shape = Shape(schedule=schedule, pp=pp, vpp=vpp, micro=pp * rounds, paired=paired)  # type: ignore[arg-type]
    setup, plan = _alike(schedule, pp, paired)
    sizes = [np.array([each]) for each in (pp, vpp, pp * rounds)]
    assert estimate._in_flight(setup, plan, *sizes) == pytest.approx(in_flight(shape, 0))


@pytest.mark.parametrize(("schedule", "paired"), RUNS)
@settings(max_examples=12)
@given(
    pp=st.sampled_from((2, 4, 8)), chunks=st.integers(1, 4), rounds=st.integers(2, 6),
    f=st.floats(-3.0, 3.0).map(lambda power: 10.0**power), saved=st.floats(0.0, 0.9),
)  # fmt: skip
def test_idle_time_of_equal_layers_is_that_of_the_simulation(
    schedule: str, paired: bool, pp: int, chunks: int, rounds: int, f: float, saved: float
) -> None:
    """Where data and weight gradients take as long as a forward pass, as the published formulas have it."""
    vpp = 2 if schedule in WAVES else chunks if schedule == "1f1b" else 1
    micro, layers = 2 * pp * rounds, 3 * pp * vpp
    saved = saved * f if paired or schedule.startswith("dualpipe") else 0.0
    layer: Any = SimpleNamespace(beside_s=saved, weight_s=f)
    setup, _ = _alike(schedule, layers, paired)
    sizes = [np.array([each]) for each in (pp, vpp, micro)]
    found = float(estimate._bubble(setup, schedule, layer, 3.0 * f, 2.0 * f, *sizes)[0])  # type: ignore[arg-type]
    shape = Shape(schedule=schedule, pp=pp, vpp=vpp, micro=micro, paired=paired)  # type: ignore[arg-type]
    passes = [np.full(shape.chunks, layers / (pp * vpp) * each) for each in (f, f, f, saved)]
    times = pipeline.Durations(forward_s=passes[0], data_s=passes[1], weight_s=passes[2], saved_s=passes[3])
    took, busy = pipeline.phase(shape, times).seconds, 3.0 * f * micro * layers / pp
    assert busy + found == pytest.approx(took, rel=0.015 if schedule == "zb_v" else 1e-6)


@given(st.sampled_from(SCHEDULES[2:]), st.integers(1, 12), st.integers(1, 3), st.integers(1, 40))
@example("dualpipe", 2, 1, 4)
@example("dualpipe", 2, 1, 6)
@example("dualpipe", 2, 1, 5)
@example("dualpipe", 2, 1, 2)
@example("dualpipe", 3, 1, 8)
@example("dualpipev", 3, 2, 6)
@example("dualpipev", 3, 2, 5)
def test_the_search_looks_at_every_shape_that_a_schedule_can_run(schedule: str, pp: int, vpp: int, micro: int) -> None:
    plan = TrainPlan(dp=1, pp=pp, vpp=vpp, global_batch=micro, schedule=schedule)  # type: ignore[arg-type]
    setup, _ = _alike(schedule, 100, False)
    setup.machine, setup.stack.keeps = SimpleNamespace(ranks=pp), SimpleNamespace(sharding="megatron")
    variant = Variant(zero=1, shard=0, reshard=True, order=plan.order, schedules=(plan.schedule,))
    sizes = [np.array([each]) for each in (pp, vpp, micro)]
    try:
        check(plan, 100)
        runs = pp > 1
    except InvalidPlan:
        runs = False
    assert estimate._legal(setup, plan, variant, plan.schedule, *sizes)[0] == runs
