"""Laws of runs and searches."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.costing import training_price
from taicang.catalog.models import model
from taicang.errors import InvalidInput, InvalidPlan, UnknownName
from taicang.models.count import parameters
from taicang.predict import Infeasible
from taicang.predict.train import train as predict_train
from taicang.reliability import DAY, broken_chips, components, rates_per_s, with_mtbf
from taicang.train.run import Policy, checkpoint, train_run
from taicang.train.search import Found, candidates, search, why
from taicang.train.setup import Setup
from taicang.train.space import layouts
from taicang.train.step import TrainStep, train_step
from taicang.train_plans import TrainPlan, recipe

MACHINE = catalog.machine("hgx-h100 x 4")
PLAN = TrainPlan(tp=4, dp=8, global_batch=64, seq=8192)


def _setup(plan: TrainPlan, net: str = "llama-3-8b") -> Setup:
    stack = catalog.stack("nemo")
    return Setup(model=model(net), plan=plan, machine=MACHINE, stack=stack, price=training_price(MACHINE, stack))


@cache
def _step() -> TrainStep:
    return train_step(_setup(PLAN))


@settings(max_examples=40, deadline=None)
@given(tokens=st.floats(2e6, 1e14), spares=st.integers(0, 64))
def test_two_halves_cost_exactly_the_whole(tokens: float, spares: int) -> None:
    policy = Policy(spare_chips=spares, chip_hour_usd=2.0)
    whole, half = (train_run(_step(), MACHINE, t, policy, samples=10) for t in (tokens, tokens / 2.0))
    assert whole.seconds == 2.0 * half.seconds
    assert whole.energy_j is not None
    assert half.energy_j is not None
    assert whole.energy_j == 2.0 * half.energy_j
    assert whole.rent_usd == 2.0 * half.rent_usd


def test_the_band_holds_the_expected_days() -> None:
    run = train_run(_step(), MACHINE, 1e13, Policy())
    assert run.band_s[0] <= run.seconds * 1.001
    assert run.band_s[1] >= run.seconds * 0.999
    assert run.band_s[0] >= run.busy_s


def test_the_best_interval_is_the_best() -> None:
    base = Policy(saving="synchronous", storage_bytes_per_s=32e7)
    best = train_run(_step(), MACHINE, 1e13, base, samples=10)
    for ratio in (0.3, 0.8, 1.25, 3.0):
        other = train_run(_step(), MACHINE, 1e13, replace(base, interval_s=best.interval_s * ratio), samples=10)
        assert other.seconds >= best.seconds


def test_spares_and_cheaper_checkpoints_never_slow_a_run() -> None:
    slow = train_run(_step(), MACHINE, 1e13, Policy(saving="synchronous"), samples=10)
    assert train_run(_step(), MACHINE, 1e13, Policy(saving="asynchronous"), samples=10).seconds <= slow.seconds
    alone = train_run(_step(), MACHINE, 1e13, Policy(), samples=10)
    assert train_run(_step(), MACHINE, 1e13, Policy(spare_chips=16), samples=10).seconds <= alone.seconds


def test_llama_3_s_failures() -> None:
    """419 unexpected interruptions in 54 days on 16,384 chips; links and switches come from another cluster's rates."""
    machine = catalog.machine("hgx-h100 x 2048")
    rates = rates_per_s(components(machine), 16384)
    assert sum(rates.values()) * 54 * DAY == pytest.approx(419, rel=0.02)
    assert (rates["switch"] + rates["optical module"]) * 54 * DAY == pytest.approx(35, rel=0.1)


def test_what_fails_takes_its_neighbours_along() -> None:
    nvl, node = components(catalog.machine("gb200-nvl72 x 4")), components(catalog.machine("hgx-h100"))
    assert nvl["rack"].blast_chips == 72
    assert nvl["chip"].blast_chips == 4
    assert set(node) == {"chip", "node", "software"}  # nothing between nodes to lose


@settings(max_examples=30, deadline=None)
@given(name=st.sampled_from(["chip", "node", "rack", "switch", "optical module"]), hours=st.floats(1e3, 1e9))
def test_sturdier_parts_never_slow_a_run(name: str, hours: float) -> None:
    def seconds(mtbf: float) -> float:
        return train_run(_step(), MACHINE, 1e13, Policy(mtbf_s={name: mtbf}), samples=10).seconds

    assert seconds(hours * 3600.0 * 2.0) <= seconds(hours * 3600.0)
    parts = components(MACHINE)
    assert broken_chips(with_mtbf(parts, {name: hours * 3600.0}), 32) >= 0.0


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(UnknownName, match="chip"):
        train_run(_step(), MACHINE, 1e13, Policy(mtbf_s={"chop": 1e6}))


def test_time_and_power_add_up() -> None:
    run = train_run(_step(), MACHINE, 1e13, Policy(spare_chips=2))
    assert run.busy_s + run.checkpoint_s + run.lost_s + run.waiting_s == pytest.approx(run.seconds)
    assert run.power is not None
    assert run.energy_j == pytest.approx(run.power.total_w * run.seconds)
    assert min(run.power.chips_w, run.power.hosts_w, run.power.network_w, run.power.cooling_w) > 0


@settings(max_examples=20, deadline=None)
@given(restart=st.floats(1.0, 1e5), tokens=st.floats(1e12, 1e14))
def test_the_simulation_centres_on_the_expectation(restart: float, tokens: float) -> None:
    run = train_run(_step(), MACHINE, tokens, Policy(restart_s=restart))
    assert run.band_s[0] <= run.seconds * 1.0001
    assert run.band_s[1] >= run.seconds * 0.9999 or sum(run.failures.values()) < 3.0


def test_a_checkpoint_holds_weights_and_optimizer_once() -> None:
    size, _, _ = checkpoint(_step(), 32, Policy())
    assert size == pytest.approx(8.03e9 * 14.0, rel=0.02)


@cache
def _found() -> tuple[Setup, Found]:
    setup = _setup(TrainPlan(global_batch=64, seq=8192, recipe=recipe("fp8")), "llama-3-70b")
    return setup, search(setup)


def test_a_search_prices_like_the_step() -> None:
    setup, _ = _found()
    listed = candidates(setup)
    capacity = MACHINE.chip.memory.capacity_bytes
    fits = np.flatnonzero(listed.memory_bytes < capacity)
    errors = []
    for i in np.random.default_rng(0).choice(fits, 60):
        step = train_step(replace(setup, plan=listed.plan(int(i), MACHINE.ranks)))
        errors.append(abs(listed.seconds[i] / step.seconds - 1.0))
    assert np.mean(errors) < 0.05


def test_the_best_plans_fit_and_are_sorted() -> None:
    setup, found = _found()
    assert found.fitting < found.candidates
    seconds = [step.seconds for step in found.best]
    assert seconds == sorted(seconds)
    assert all(float(step.memory.spare_bytes) >= 0 for step in found.best)
    assert all(step.plan.ranks == MACHINE.ranks for step in found.best)
    hand = TrainPlan(tp=4, pp=4, vpp=5, dp=2, global_batch=64, seq=8192, recipe=setup.plan.recipe, recompute="full")
    assert seconds[0] <= train_step(replace(setup, plan=hand)).seconds


def test_the_runner_up_loses_what_it_spends_more() -> None:
    _, found = _found()
    first, second = found.best[:2]
    more = dict(why(first, second))
    assert all(seconds > 0 for seconds in more.values())
    assert sum(more.values()) >= second.seconds - first.seconds - 1e-9


def test_the_front_fits_and_trades_time_for_memory() -> None:
    _, found = _found()
    seconds = [step.seconds for step in found.front]
    sizes = [float(step.memory.total_bytes) for step in found.front]
    assert len(seconds) > 3
    assert seconds == sorted(seconds)
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) <= MACHINE.chip.memory.capacity_bytes
    assert seconds[0] == found.best[0].seconds


def test_what_is_fixed_stays() -> None:
    setup, whole = _found()
    found = search(setup, {"tp": 4, "recompute": "full", "zero": 2})
    assert all((step.plan.tp, step.plan.recompute, step.plan.zero) == (4, "full", 2) for step in found.best)
    assert found.candidates < whole.candidates
    assert found.best[0].seconds >= whole.best[0].seconds


@settings(max_examples=25, deadline=None)
@given(
    shard=st.integers(1, 24), net=st.sampled_from(["llama-3.2-1b", "mixtral-8x7b"]), nodes=st.sampled_from([1, 2, 3]),
    zero=st.none() | st.sampled_from([0, 1, 2, 3]),
)  # fmt: skip
def test_any_shard_group_is_kept_or_refused(shard: int, net: str, nodes: int, zero: int | None) -> None:
    """A search holds to the group it was given, whether it divides or not; what no plan can keep is refused by name."""
    machine, stack = catalog.machine(f"hgx-h100 x {nodes}"), catalog.stack("nemo")
    setup = Setup(
        model=model(net), plan=TrainPlan(global_batch=48 * nodes, seq=1024), machine=machine, stack=stack,
        price=training_price(machine, stack),
    )  # fmt: skip
    fixed = {"shard": shard, "micro_batch": 1, "cp": 2} | ({} if zero is None else {"zero": zero})
    try:
        found = search(setup, fixed)
    except InvalidPlan:
        return
    for step in (*found.best, *found.front):
        assert step.plan.shard == shard
        assert step.plan.dp * step.plan.cp % shard == 0


def test_nothing_fits_is_said() -> None:
    small = _setup(TrainPlan(global_batch=64, seq=8192), "llama-3.1-405b")
    found = search(small)
    assert not found.best
    assert found.fitting == 0
    assert found.least_bytes > MACHINE.chip.memory.capacity_bytes


def test_no_layout_at_all_is_refused() -> None:
    wide = replace(_setup(PLAN), machine=catalog.machine("hgx-h100 x 512"), plan=TrainPlan(global_batch=1, seq=1))
    with pytest.raises(InvalidPlan, match="no layout"):
        search(wide)


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.floats(1e6, 1e14), hours=st.floats(100.0, 1e7),
    name=st.sampled_from(["chip", "node", "rack", "software"]),
    interval=st.none() | st.floats(1.0, 1e6), spares=st.integers(0, 32),
)  # fmt: skip
def test_expected_days_lie_in_their_own_band(
    tokens: float, hours: float, name: str, interval: float | None, spares: int
) -> None:
    """However often parts fail, however long the interval: the simulation's mean is the expectation."""
    policy = Policy(mtbf_s={name: hours * 3600.0}, interval_s=interval, spare_chips=spares)
    run = train_run(_step(), MACHINE, tokens, policy, samples=200)
    assert run.band_s[0] <= run.seconds <= run.band_s[1]
    assert run.busy_s + run.checkpoint_s + run.lost_s + run.waiting_s == pytest.approx(run.seconds)


@settings(max_examples=30, deadline=None)
@given(hours=st.floats(200.0, 1e4), tokens=st.floats(1e14, 1e15))
def test_the_simulated_mean_is_the_expectation(hours: float, tokens: float) -> None:
    """Many failures, at a known rate: the band lies about the expectation, not on one side of it."""
    run = train_run(_step(), MACHINE, tokens, Policy(mtbf_s=dict.fromkeys(("chip", "node", "rack"), hours * 3600.0)))
    assert sum(run.band_s) / 2.0 == pytest.approx(run.seconds, rel=0.05)


def test_a_machine_that_is_always_under_repair_is_refused() -> None:
    with pytest.raises(InvalidInput, match="under repair"):
        train_run(_step(), MACHINE, 1e13, Policy(mtbf_s={"chip": 3600.0}), samples=10)


@settings(max_examples=30, deadline=None)
@given(spares=st.integers(1, 1000))
def test_spares_are_paid_for(spares: int) -> None:
    none, some = (train_run(_step(), MACHINE, 1e13, Policy(spare_chips=n, chip_hour_usd=2.0)) for n in (0, spares))
    assert some.rent_usd / some.seconds == pytest.approx(none.rent_usd / none.seconds * (32 + spares) / 32)
    assert some.power is not None
    assert none.power is not None
    assert some.power.total_w > none.power.total_w


@pytest.mark.parametrize("net", ["llama-2-7b", "llama-3-8b", "mixtral-8x7b", "qwen2.5-7b"])
@pytest.mark.parametrize(
    "fields",
    [
        {"pp": 2, "dp": 16}, {"pp": 4, "dp": 8}, {"pp": 8, "dp": 4, "vpp": 2}, {"tp": 2, "pp": 4, "dp": 4},
        {"zero": 0, "dp": 32}, {"zero": 3, "dp": 32}, {"zero": 2, "pp": 3, "tp": 1, "dp": 8},
        {"pp": 2, "dp": 16, "moments": "bf16"},
    ],
)  # fmt: skip
def test_a_checkpoint_is_what_the_model_and_its_optimizer_are(net: str, fields: dict[str, int | str]) -> None:
    """However it is laid out and however uneven its stages: bytes a parameter, and no copies (a tied head apart)."""
    ep = 2 if net.startswith("mixtral") else 1
    plan = replace(TrainPlan(global_batch=64), **fields, ep=ep)  # type: ignore[arg-type]
    size, _, _ = checkpoint(train_step(_setup(plan, net)), 32, Policy())
    assert size == pytest.approx(parameters(model(net)).total * (2.0 + plan.optimizer_bytes), rel=0.002)


@settings(max_examples=40, deadline=None)
@given(rate=st.floats(1e6, 1e13), interval=st.none() | st.floats(1e-3, 1e5))
def test_no_checkpoint_starts_before_the_last_is_stored(rate: float, interval: float | None) -> None:
    run = train_run(_step(), MACHINE, 1e13, Policy(storage_bytes_per_s=rate, interval_s=interval), samples=10)
    assert run.written_s == pytest.approx(run.checkpoint_bytes / rate)
    assert run.interval_s >= run.written_s
    assert run.checkpoint_bytes / run.interval_s <= rate * (1.0 + 1e-9)
    assert run.stall_s >= 1.0


@pytest.mark.parametrize(
    ("net", "on"),
    [("llama-3.2-1b", "hgx-h100 x 2"), ("deepseek-v2-lite", "atlas-800-a2-280t x 2"), ("qwen3-30b-a3b", "hgx-b200")],
)
def test_a_plan_that_a_search_prints_gives_the_same_figures(net: str, on: str) -> None:
    asked = TrainPlan(tp=2, micro_batch=1, global_batch=32, seq=2048)
    found = predict_train(net, on, asked, searched=True, pinned=("tp", "micro_batch"))
    assert not isinstance(found, Infeasible)
    again = predict_train(net, on, found.step.plan)
    assert not isinstance(again, Infeasible)
    assert (again.step.seconds, again.mfu_ratio) == (found.step.seconds, found.mfu_ratio)
    assert again.step.memory == found.step.memory


@settings(max_examples=12)
@given(st.integers(0, 7), st.integers(9, 17), st.sampled_from(("llama-3-8b", "mixtral-8x7b", "qwen3-30b-a3b")))
def test_a_search_looks_at_every_power_of_two_that_the_machine_the_sequence_and_the_experts_allow(
    nodes: int, length: int, net: str
) -> None:
    machine = catalog.machine(f"hgx-h100 x {2**nodes}")
    setup = replace(_setup(TrainPlan(global_batch=64, seq=2**length), net), machine=machine)
    made = layouts(setup, {})
    experts = max(getattr(block.ffn, "experts", 1) for block in setup.model.blocks)
    ends = {
        "tp": 8,
        "cp": min(2**length // 1024, 32, machine.ranks),
        "ep": min(experts, machine.ranks),
        "micro_batch": 8,
    }
    for axis, most in ends.items():
        assert {getattr(each, axis) for each in made} == {2**n for n in range(9) if 2**n <= max(most, 1)}
