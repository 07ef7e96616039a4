"""Optimizer and weights in host memory or on drives, over machines, models, ZeRO stages and sizes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.costing import sustained, training_price
from taicang.catalog.models import model
from taicang.errors import InvalidPlan
from taicang.hardware import Machine
from taicang.train.memory import layer_parameters
from taicang.train.setup import Setup
from taicang.train.step import TrainStep, train_step
from taicang.train.sync import layer_load
from taicang.train_plans import TrainPlan, check

MACHINES = ("hgx-a100", "hgx-h100", "atlas-800-a2", "l40s-pcie", "mi300x-8")
NETS = ("llama-2-7b", "qwen2.5-7b", "mixtral-8x7b", "llama-3.2-1b")
machines, nets = st.sampled_from(MACHINES), st.sampled_from(NETS)


@cache
def _machine(name: str, nodes: int) -> Machine:
    return catalog.machine(f"{name} x {nodes}")


@cache
def _step(name: str, nodes: int, net: str, plan: TrainPlan) -> TrainStep:
    machine, engine = _machine(name, nodes), catalog.stack("deepspeed")
    whole = replace(plan, dp=machine.ranks, global_batch=machine.ranks * plan.global_batch)
    price = training_price(machine, engine)
    return train_step(Setup(model=model(net), plan=whole, machine=machine, stack=engine, price=price))


@settings(deadline=None)
@given(machines, st.sampled_from((1, 4)), nets, st.sampled_from((1, 2, 3)), st.sampled_from((1, 2)))
def test_what_leaves_the_device_lies_in_the_host(name: str, nodes: int, net: str, zero: int, micros: int) -> None:
    """16 bytes a parameter (18 with the weights) over all ranks; the device keeps less, the step takes longer."""
    plan = TrainPlan(zero=zero, global_batch=micros, recompute="full")
    here = _step(name, nodes, net, plan)
    away = _step(name, nodes, net, replace(plan, offload="optimizer"))
    ranks = _machine(name, nodes).ranks
    assert here.memory.host_bytes == 0.0
    assert float(away.memory.host_bytes) * ranks == pytest.approx(16.0 * here.parameters, rel=1e-9)
    assert float(away.memory.total_bytes) < float(here.memory.total_bytes)
    assert away.memory.optimizer_bytes == 0.0
    assert away.seconds > here.seconds
    if zero == 3:
        all_away = _step(name, nodes, net, replace(plan, offload="weights"))
        assert float(all_away.memory.host_bytes) * ranks == pytest.approx(18.0 * here.parameters, rel=1e-9)
        assert float(all_away.memory.total_bytes) < float(away.memory.total_bytes)


@settings(deadline=None)
@given(machines, nets, st.floats(0.01, 1.0), st.sampled_from((0, 1, 3)), st.sampled_from(("none", "full")))
def test_activations_that_leave_the_device_lie_in_the_host(
    name: str, net: str, away: float, zero: int, recompute: str
) -> None:
    """What a rank kept is there or here; the step waits at most for all of it to go and come back."""
    plan = TrainPlan(zero=zero, global_batch=2, recompute=recompute)  # type: ignore[arg-type]
    here, split = (_step(name, 1, net, replace(plan, activations_away_ratio=share)) for share in (0.0, away))
    whole = float(here.memory.activations_bytes)
    assert float(split.memory.host_bytes) == pytest.approx(away * whole, rel=1e-9)
    assert float(split.memory.activations_bytes) == pytest.approx((1.0 - away) * whole, rel=1e-9, abs=1.0)
    link = _machine(name, 1).plane("host").levels[0].bandwidth_bytes_per_s
    waited = split.seconds - here.seconds
    assert -1e-9 * here.seconds <= waited <= 2 * 2 * 1.1 * (away * whole / link + 1e-3)


@settings(deadline=None)
@given(machines, nets, st.floats(8.0, 11.0).map(lambda x: 10.0**x))
def test_drives_are_never_faster_than_memory(name: str, net: str, drive: float) -> None:
    """Nor a slower drive than a faster one."""
    plan = TrainPlan(zero=3, global_batch=1, recompute="full", offload="weights")
    memory = _step(name, 1, net, plan)
    drives = _step(name, 1, net, replace(plan, nvme_bytes_per_s=drive))
    slower = _step(name, 1, net, replace(plan, nvme_bytes_per_s=drive / 2.0))
    assert slower.seconds >= drives.seconds >= memory.seconds
    assert drives.memory.host_bytes == memory.memory.host_bytes


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"zero": 0, "offload": "optimizer"}, "--zero 1"),
        ({"zero": 2, "offload": "weights"}, "--zero 3"),
        ({"zero": 2, "offload": "optimizer", "nvme_bytes_per_s": 1e9}, "--zero 3"),
        ({"zero": 1, "nvme_bytes_per_s": 1e9}, "--offload"),
        ({"zero": 1, "offload": "optimizer", "pp": 2, "dp": 4}, "pp=2"),
    ],
)
def test_what_cannot_be_offloaded(fields: dict[str, object], says: str) -> None:
    plan = replace(TrainPlan(dp=8, global_batch=8), **fields)
    with pytest.raises(InvalidPlan, match=says):
        check(plan, 32)


@settings(deadline=None)
@given(machines, st.sampled_from((2, 4, 8)), nets, st.floats(0.02, 1.0))
def test_a_slower_network_keeps_copies_less_busy(name: str, nodes: int, net: str, slower: float) -> None:
    """What collectives of sharded weights take of the cores goes by what they move, not by how long they wait."""
    found = []
    for ratio in (1.0, slower):
        key = "planes.scale_up.scale_out.bandwidth"
        rate = _machine(name, 2).plane("scale_up").levels[-1].bandwidth_bytes_per_s * ratio
        at = catalog.machine(f"{name} x {nodes}", (f"{key}={rate} B/s",))
        stack = catalog.stack("deepspeed")
        price, plan = training_price(at, stack), TrainPlan(dp=at.ranks, zero=3)
        held = layer_parameters(model(net), model(net).blocks[0], plan)
        found.append(layer_load(held, plan, lambda op, price=price: price(op, 1.0, 1.0), stack.keeps))
    (ahead, behind, busy, *_), (later, after, less, *_) = found
    assert 0.0 < float(less) <= float(busy) * (1 + 1e-9) <= 1.0 + 1e-9
    assert float(later + after) >= float(ahead + behind) * (1 - 1e-9)


@pytest.mark.parametrize(("name", "low", "high"), [("mi300x", 0.5, 0.65), ("mi325x", 0.65, 0.75)])
def test_a_maker_s_clock_stands_in_where_nobody_trained(name: str, low: float, high: float) -> None:
    chip = replace(catalog.chip(name), name="another")
    assert low < sustained(chip).clock_ratio < high
    kin = catalog.chip(chip.profile)
    budget = (chip.tdp_w or 0.0) / chip.peak("bf16") / ((kin.tdp_w or 1.0) / kin.peak("bf16"))
    expected = min(sustained(kin).clock_ratio * budget ** (1 / 3), 1.0)
    assert sustained(replace(chip, sustained_ratio=None)).clock_ratio == pytest.approx(expected)


@given(watts=st.floats(0.2, 5.0), more=st.floats(1.0, 3.0), name=st.sampled_from(("h100", "b200", "mi300x")))
def test_more_watts_for_each_flop_never_slow_a_chip(watts: float, more: float, name: str) -> None:
    chip = replace(catalog.chip(name), name="another", sustained_ratio=None)
    tight, wide = (replace(chip, tdp_w=(chip.tdp_w or 0.0) * each) for each in (watts, watts * more))
    assert 0.0 < sustained(tight).clock_ratio <= sustained(wide).clock_ratio <= 1.0


def test_boards_of_one_silicon_sustain_one_clock_and_cut_ones_theirs() -> None:
    for bin_, whole in (("h800", "h100"), ("a800", "a100-80g")):
        assert sustained(catalog.chip(bin_)).clock_ratio == pytest.approx(
            sustained(catalog.chip(whole)).clock_ratio, rel=0.01
        )
    assert sustained(catalog.chip("h20-96g")).clock_ratio == 1.0
