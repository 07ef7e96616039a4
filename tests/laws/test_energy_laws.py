"""Laws of chip power: between idle and the limit, monotone in activity, the same for arrays and floats."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.costing import cost_model, energy_fit
from taicang.catalog.models import model
from taicang.cost.energy import Activity, chip_power_w
from taicang.errors import MissingFigure
from taicang.plans import ServePlan, decode_batch, prefill_batch
from taicang.predict.faults import Faults, Outage
from taicang.predict.replay import replay
from taicang.predict.system import System
from taicang.serve.setup import Setup, step
from taicang.serve.usage import activity, step_power_w
from taicang.traffic.generate import arriving, fixed

CHIPS = ("a100", "h100", "h200", "b200", "gb200", "gb300")
share = st.floats(min_value=0.0, max_value=1.0)


def power_w(name: str, compute: float, memory: float, network: float) -> float:
    chip = catalog.chip(name)
    seen = Activity(compute_ratio=compute, memory_ratio=memory, network_ratio=network)
    return float(chip_power_w(seen, chip, energy_fit(chip.profile)))


@given(name=st.sampled_from(CHIPS), compute=share, memory=share, network=share)
def test_power_stays_between_idle_and_the_limit(name: str, compute: float, memory: float, network: float) -> None:
    chip = catalog.chip(name)
    assert (chip.idle_w or 0.0) <= power_w(name, compute, memory, network) <= (chip.tdp_w or 0.0)


@given(name=st.sampled_from(CHIPS), shares=st.tuples(share, share, share), more=st.tuples(share, share, share))
def test_more_activity_never_draws_less(
    name: str, shares: tuple[float, float, float], more: tuple[float, float, float]
) -> None:
    raised = tuple(max(a, b) for a, b in zip(shares, more, strict=True))
    assert power_w(name, *raised) >= power_w(name, *shares)


@given(values=st.lists(share, min_size=1, max_size=8))
def test_arrays_give_the_numbers_of_floats(values: list[float]) -> None:
    chip = catalog.chip("h100")
    fit = energy_fit(chip.profile)
    seen = np.array(values)
    many = chip_power_w(Activity(compute_ratio=seen, memory_ratio=seen / 2, network_ratio=seen / 4), chip, fit)
    for at, value in enumerate(values):
        one = chip_power_w(Activity(compute_ratio=value, memory_ratio=value / 2, network_ratio=value / 4), chip, fit)
        assert np.asarray(many)[at] == one


def test_a_chip_without_a_public_limit_is_refused() -> None:
    chip = replace(catalog.chip("h100"), tdp_w=None)
    with pytest.raises(MissingFigure, match=r"power\.tdp"):
        chip_power_w(Activity(compute_ratio=0.5, memory_ratio=0.5, network_ratio=0.0), chip, energy_fit(chip.profile))


def test_unmeasured_architectures_take_the_mean_of_the_measured() -> None:
    assert energy_fit("ascend-910c") == energy_fit("no-such-profile")
    assert energy_fit("h100") != energy_fit("b200")


@settings(max_examples=10, deadline=None)
@given(sequences=st.floats(min_value=0.0, max_value=8.0).map(lambda x: 2.0**x))
def test_a_priced_step_draws_a_possible_power(sequences: float) -> None:
    machine = catalog.machine("hgx-h100")
    stack = catalog.stack("vllm")
    setup = Setup(
        model=model("llama-3.1-8b"),
        plan=ServePlan(),
        machine=machine,
        stack=stack,
        price=cost_model(machine, stack).price,
    )
    fit = energy_fit(machine.chip.profile)
    decode = step(setup, decode_batch(sequences=sequences, context=1000.0))
    prefill = step(setup, prefill_batch(sequences=4.0, length=2048.0))
    for timeline in (decode, prefill):
        assert (machine.chip.idle_w or 0) <= step_power_w(timeline, machine, fit) <= (machine.chip.tdp_w or 0)
        assert activity(timeline, machine).network_ratio == 0.0  # of one rank
    # weights stream in decode, arithmetic units work in prefill
    assert activity(prefill, machine).compute_ratio > 0.5 > activity(decode, machine).compute_ratio
    assert activity(decode, machine).memory_ratio > 0.3


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 60),
    rate=st.floats(-1.0, 2.0).map(lambda power: 10.0**power),
    instances=st.integers(1, 4),
    down_s=st.none() | st.floats(0.1, 500.0),
    clients=st.sampled_from([0, 0, 1, 8]),
    machine=st.sampled_from(["hgx-h100", "hgx-h20", "hgx-a100"]),
)
def test_energy_of_a_replay_is_power_times_its_span(
    count: int, rate: float, instances: int, down_s: float | None, clients: int, machine: str
) -> None:
    """Whatever still happens after the last answer, and never beyond what the chips may draw."""
    trace = arriving(fixed(count, 700, 60, spread=0.5, seed=count), rate, seed=1)
    faults = (
        Faults(outages=(Outage(part="instance", number=0, at_s=0.5, down_s=down_s),)) if instances > 1 else Faults()
    )
    ran = replay("llama-3.1-8b", machine, trace, System(instances=instances, plan=ServePlan(tp=2), faults=faults),
                 clients=clients).summary  # fmt: skip
    assert ran.energy_j is not None
    assert ran.power_w is not None
    assert ran.energy_j == pytest.approx(ran.power_w * ran.span_s, rel=1e-6)
    assert ran.power_w <= 2.0 * instances * (catalog.chip(machine.removeprefix("hgx-")).tdp_w or 0.0) * (1.0 + 1e-9)
    assert ran.output_tokens_per_j == pytest.approx(ran.output_tokens_per_s / ran.power_w, rel=1e-6)
