"""A search never misses a better plan of its space; more room and looser limits never hurt."""

from dataclasses import fields, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.catalog.models import model as load_model
from taicang.plans import decode_batch, prefill_batch
from taicang.predict import Infeasible, infer
from taicang.search.door import PLAN, formats, plan_of, prepare
from taicang.search.join import front
from taicang.search.once import distinct
from taicang.search.points import handover_s, prefill_points, serving_points
from taicang.search.run import Ask, every, search
from taicang.search.space import AXES, Space, default, pinned, wide
from taicang.serve.memory import memory_use
from taicang.serve.queueing import busiest
from taicang.serve.setup import step
from taicang.serve.steady import Load, aggregated

SMALL = Space(
    tp=(1, 4),
    pp=(1, 2),
    expert_tp=(1, 2),
    spare=(0,),
    drafts=(0, 2),
    chunks=(2048, 8192),
    batches=(1, 40, 300),
    prompts=(1, 3),
    most_ranks=8,
)
CASES = [("deepseek-v3", "hgx-h200 x 2"), ("llama-3.1-70b", "hgx-h100"), ("mixtral-8x7b", "hgx-h100")]


def job(model, on, **limits):
    return prepare(model, on, input_tokens=4000, output_tokens=1000, **limits)


def fits(one, plan, sequences, context, tokens):
    use = memory_use(
        one.model, plan, one.machine.chip, one.stack.memory, sequences=sequences, context=context, tokens=tokens
    )
    return float(use.spare_bytes) >= 0 and sequences >= plan.pp * plan.microbatches


@pytest.mark.parametrize(("model", "on"), CASES)
def test_brute_force_finds_nothing_better(model, on):
    """Every plan priced alone, as floats: the tables hold the same numbers and the search the best of them."""
    one = job(model, on, ttft_s=4.0, tpot_s=0.1)
    quants = formats(["auto"], one)
    plans = every(one, quants[0][1], SMALL)["both"]
    context = one.input_tokens + one.output_tokens
    agg, dec, pre = [], [], []
    for plan, n in product(plans, SMALL.batches):
        chips = -(-plan.ranks // one.machine.chip.dies)
        for depth in SMALL.drafts_of(one.model):
            if depth and plan.pp > 1 and not one.stack.staged_drafts:
                continue
            setup = one.setup(replace(plan, draft_tokens=depth))
            if fits(one, setup.plan, n, context, n * setup.plan.query_len):
                seconds = step(
                    setup, decode_batch(sequences=n, context=one.input_tokens + one.output_tokens / 2)
                ).seconds
                steps = max((one.output_tokens - 1) / setup.plan.tokens_per_step, 1.0)
                dec.append((seconds / setup.plan.tokens_per_step, n * plan.dp / (steps * seconds), chips))
            for chunk in SMALL.chunks:
                cut = replace(setup, stack=replace(setup.stack, chunk_tokens=chunk))
                if fits(one, setup.plan, n, context, max(n * setup.plan.query_len, chunk)):
                    lengths = {"input_tokens": one.input_tokens, "output_tokens": one.output_tokens}
                    load = Load(concurrency=n * plan.dp, **lengths, at_random=True)
                    found = aggregated(cut, load)
                    agg.append((found.ttft_s, found.tpot_s, found.output_tokens_per_s / one.output_tokens, chips))
    for plan, n in product(plans, SMALL.prompts):
        setup = one.setup(plan)
        budget = max(setup.stack.chunk_tokens, *SMALL.chunks, one.input_tokens)
        if n * one.input_tokens <= budget and fits(one, plan, n, one.input_tokens, n * one.input_tokens):
            seconds = step(setup, prefill_batch(sequences=n, length=one.input_tokens)).seconds
            chips = -(-plan.ranks // one.machine.chip.dies)
            move = handover_s(setup, one)
            pre.append((seconds + move, min(n * plan.dp / seconds, 1.0 / move), chips))

    tables = serving_points(plans, one, replace(SMALL, staged_drafts=one.stack.staged_drafts))
    table = tables["both"]
    mine = zip(table.ttft_s, table.tpot_s, table.requests_per_s, table.chips, strict=True)
    assert sorted(agg) == sorted(tuple(map(float, row)) for row in mine)
    table = tables["decode"]
    mine = zip(table.tpot_s, table.requests_per_s, table.chips, strict=True)
    assert sorted(dec) == sorted(tuple(map(float, row)) for row in mine)
    table = prefill_points(plans, one, SMALL)
    mine = zip(table.ttft_s, table.requests_per_s, table.chips, strict=True)
    assert sorted(pre) == sorted(tuple(map(float, row)) for row in mine)

    whole = one.machine.chips
    best = max((whole // c * r for ttft, tpot, r, c in agg if ttft <= one.ttft_s and tpot <= one.tpot_s), default=0.0)
    for (ttft, fed, size), (tpot, drawn, other) in product(pre, dec):
        if ttft <= one.ttft_s and tpot <= one.tpot_s:
            for n in range(1, whole // size + 1):
                carried = n * fed * float(busiest(n * fed, ttft, limit_s=one.ttft_s, within_ratio=one.within_ratio))
                best = max(best, min(carried, (whole - n * size) // other * drawn))
    found = search(one, quants, SMALL, Ask()).best
    assert (found[0].requests_per_s if found else 0.0) == pytest.approx(best, rel=1e-12)


@settings(max_examples=5, deadline=None)
@given(
    ttft=st.floats(0.1, 5.0), tpot=st.floats(0.005, 0.2), looser=st.floats(1.0, 3.0), which=st.sampled_from(CASES[1:])
)
def test_looser_limits_and_larger_spaces_are_never_worse(ttft, tpot, looser, which):
    def best(space, *limits):
        one = job(*which, ttft_s=limits[0], tpot_s=limits[1])
        found = search(one, formats(["auto"], one), space, Ask(top=1)).best
        return found[0].output_tokens_per_s if found else 0.0

    reference = best(SMALL, ttft, tpot)
    assert best(SMALL, ttft * looser, tpot) >= reference
    assert best(SMALL, ttft, tpot * looser) >= reference
    assert best(replace(SMALL, tp=(1, 2, 4, 8), prompts=(1, 2, 3)), ttft, tpot) >= reference
    assert best(replace(SMALL, batches=(1, 4, 40, 100, 300)), ttft, tpot) >= reference


@pytest.mark.parametrize("name", ["deepseek-v3", "llama-3.1-405b", "nemotron-h-56b", "mixtral-8x7b", "qwen3-0.6b"])
def test_the_wide_space_holds_the_standard_one(name):
    """On every axis, whatever the kind of model."""
    model = load_model(name)
    small, large = default(model), wide(model)
    for axis in AXES:
        assert set(getattr(small, axis)) <= set(getattr(large, axis)), axis
    others = {f.name for f in fields(Space)} - set(AXES)
    assert all(getattr(small, name) == getattr(large, name) for name in others)


def test_the_wide_space_is_never_worse_for_a_dense_model():
    one = job("llama-3.1-405b", "gb200-nvl72", ttft_s=2.0, tpot_s=0.05)
    small, large = (
        search(one, formats(["auto"], one), space(one.model), Ask(top=1)).best[0].requests_per_s
        for space in (default, wide)
    )
    assert large >= small > 0.0


def test_instances_fit_the_machine_and_the_limits_hold():
    one = job("deepseek-v3", "hgx-h200 x 4", ttft_s=2.0, tpot_s=0.05)
    for choice in (found := search(one, formats(["auto"], one), SMALL, Ask(top=50))).best:
        assert sum(pool.instances * pool.chips for pool in choice.pools) == choice.chips <= one.machine.chips
        assert choice.ttft_s <= 2.0
        assert choice.tpot_s <= 0.05
    assert found.best


def test_smallest_machine_carries_the_load_with_no_chip_to_spare():
    one = job("llama-3.1-70b", "hgx-h200 x 4", tpot_s=0.05)
    ask = Ask(objective="smallest", load_per_s=5.0)
    small = search(one, formats(["auto"], one), SMALL, ask).best[0]
    assert small.requests_per_s >= 5.0 * (1 - 1e-12)
    more = search(one, formats(["auto"], one), SMALL, replace(ask, load_per_s=10.0)).best[0]
    assert more.chips >= small.chips


def test_the_smallest_machine_is_no_larger_than_the_one_named():
    one = job("llama-3.1-70b", "hgx-h200", tpot_s=0.05)
    found = search(one, formats(["auto"], one), SMALL, Ask(objective="smallest", load_per_s=40.0))
    assert not found.best
    assert found.takes_chips > 8
    units = -(-found.takes_chips // 8)
    assert f"--on 'hgx-h200 x {units}'" in found.nearest[0]
    grown = job("llama-3.1-70b", f"hgx-h200 x {units}", tpot_s=0.05)
    carried = search(grown, formats(["auto"], grown), SMALL, Ask(objective="smallest", load_per_s=40.0)).best
    assert carried[0].chips <= found.takes_chips
    assert all(each.chips <= 8 * units for each in carried)


def test_a_load_decides_the_size_of_decode_alone_too():
    one = job("llama-3.1-70b", "hgx-h200", tpot_s=0.05)
    ask = Ask(objective="smallest", load_per_s=0.5, modes=("decode",))
    few = search(one, formats(["auto"], one), SMALL, ask).best[0]
    assert few.chips < 8
    assert few.requests_per_s >= 0.5


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30))
def test_front_is_what_nothing_beats(points):
    low, high = np.array([p[0] for p in points], float), np.array([p[1] for p in points], float)
    kept = {points[i] for i in front(low=low, high=high)}
    beaten = {p for p in points for q in points if (q[0] <= p[0] and q[1] > p[1]) or (q[0] < p[0] and q[1] >= p[1])}
    assert kept == set(points) - beaten


@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    model=st.sampled_from(("llama-3.1-70b", "qwen3-30b-a3b", "deepseek-v3")),
    on=st.sampled_from(("hgx-h200 x 2", "gb200-nvl72", "cloudmatrix384")),
    users=st.sampled_from((None, 8, 300)),
    within=st.sampled_from((0.5, 0.9, 0.99)),
    ttft=st.sampled_from((0.3, 2.0)),
)
def test_a_wider_space_is_never_worse_and_more_users_within_limits_are_never_slower(model, on, users, within, ttft):
    asked = {"input_tokens": 1000, "output_tokens": 200, "ttft_s": ttft, "tpot_s": 0.05, "within_ratio": within}
    found = infer(model, on, **asked, users=users)
    job = prepare(model, on, **asked, users=users)
    best = search(job, formats(["auto"], job), default(job.model), Ask(top=1)).best
    if not best:
        assert isinstance(found, Infeasible)
        return
    if not isinstance(found, Infeasible):
        assert found.output_tokens_per_s_per_chip <= best[0].output_tokens_per_s_per_chip * (1 + 1e-9)
    free = search(replace(job, users=None), formats(["auto"], job), default(job.model), Ask(top=1)).best
    assert best[0].requests_per_s <= free[0].requests_per_s * (1 + 1e-9)
    if users:
        assert best[0].users == pytest.approx(users)


@given(
    shapes=st.lists(st.tuples(*(st.booleans(),) * 3), min_size=1, max_size=4), few=st.integers(1, 5000),
    there=st.floats(0.0, 1.0), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_candidates_that_are_alike_are_told_apart_from_all_others(shapes, few, there, seed):
    dice, whole = np.random.default_rng(seed), (3, 20, 40)
    drawn = np.concatenate([[0.0, np.inf], 10.0 ** dice.uniform(-9.0, 12.0, few)])
    arrays = {
        str(number): dice.choice(drawn, [size if wide else 1 for size, wide in zip(whole, shape, strict=True)])
        for number, shape in enumerate(shapes)
    }
    shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
    mask = dice.random(shape) < there
    rows, place = distinct(arrays, mask)
    for name, array in arrays.items():
        np.testing.assert_array_equal(rows[name][place], np.broadcast_to(array, shape)[mask])
    assert len(set(zip(*(values.tolist() for values in rows.values()), strict=True))) == len(np.unique(place))


@settings(max_examples=6, deadline=None)
@given(data=st.data(), which=st.sampled_from(CASES))
def test_what_is_pinned_decodes_and_costs_no_more_than_the_choice(data, which):
    """Pinned to some fields of a layout of the space, all that decodes has them; pinned to the winner's, it wins."""
    one = job(*which, ttft_s=4.0, tpot_s=0.1)
    quants = formats(["auto"], one)
    plan = data.draw(st.sampled_from(every(one, quants[0][1], SMALL)["both"]))
    names = data.draw(st.sets(st.sampled_from(PLAN), min_size=1))
    free = search(one, quants, SMALL, Ask()).best
    held = search(one, quants, pinned(SMALL, {name: getattr(plan, name) for name in names}), Ask()).best
    for choice in held:
        assert all(getattr(choice.pools[-1].plan, name) == getattr(plan, name) for name in names)
        assert choice.requests_per_s <= free[0].requests_per_s
    if free:
        winner = {name: getattr(free[0].pools[-1].plan, name) for name in PLAN}
        assert search(one, quants, pinned(SMALL, winner), Ask()).best[0].requests_per_s == free[0].requests_per_s


DEGREES = st.integers(0, 13).map(lambda power: 1 << power) | st.integers(1, 10_000)


@given(given=st.dictionaries(st.sampled_from(["tp", "dp", "ep", "moe_tp"]), DEGREES, min_size=1))
def test_degrees_that_are_given_stay_and_the_others_are_degrees(given):
    plan = plan_of(given)
    assert all(getattr(plan, name) == value for name, value in given.items())
    assert min(plan.tp, plan.dp, plan.ep, plan.moe_tp) >= 1
