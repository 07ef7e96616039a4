"""Laws of the closed forms of serving: conservation, monotony, bounds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.catalog.models import model
from taicang.plans import ServePlan, decode_batch, prefill_batch
from taicang.serve.door import through_s
from taicang.serve.setup import Setup, scheduled_ahead, step
from taicang.serve.steady import Load, Pools, aggregated, disaggregated, in_step, together
from taicang.serve.uneven import Spread

CASES = (
    ("llama-3.1-8b", ServePlan()),
    ("qwen3-235b-a22b", ServePlan(tp=4, ep=4)),
    ("deepseek-r1", ServePlan(dp=8, ep=8, draft_tokens=1)),
)
SCHEDULERS = ("mixed", "prefill_first")


def setup_of(case, **changes):
    name, plan = case
    machine, stack = catalog.machine("hgx-h200"), replace(catalog.stack("vllm"), **changes)
    return Setup(
        model=model(name), plan=plan, machine=machine, stack=stack, price=cost_model(machine, stack).price, skew=1.01
    )


def log_uniform(low, high):
    return st.floats(np.log(low), np.log(high)).map(lambda x: float(np.round(np.exp(x))))


cases = st.sampled_from(CASES)
loads = st.builds(
    Load, concurrency=log_uniform(1, 2048), input_tokens=log_uniform(16, 16384), output_tokens=log_uniform(1, 8192)
)


@settings(max_examples=40, deadline=None)
@given(cases, st.sampled_from(SCHEDULERS), st.floats(0.0, 1.0), st.sampled_from([0, 16, 512]), loads)
@example(CASES[1], "mixed", 1.0, 512, Load(concurrency=600.0, input_tokens=64.0, output_tokens=500.0))
def test_tokens_in_are_tokens_out_and_steps_bound_tpot(case, scheduler, burst, graphs, load):
    """Also where a batch outgrows the engine's ``graphs`` and the host paces its steps."""
    setup = setup_of(case, scheduler=scheduler, burst_ratio=burst, graph_sequences=graphs, graph_wide_sequences=graphs)
    found = aggregated(setup, load)
    busy = found.tpot_s * max(load.output_tokens - 1.0, 1.0)
    # Little: requests in flight = their rate x their time
    assert found.output_tokens_per_s * (found.ttft_s + busy) / load.output_tokens == pytest.approx(load.concurrency)
    if load.output_tokens > 1:
        assert found.tpot_s >= found.step_s / setup.plan.tokens_per_step * (1 - 1e-9)
    assert found.ttft_s >= found.prefill_s  # who comes before it makes nobody's own prompt shorter


@settings(max_examples=40, deadline=None)
@given(cases, st.sampled_from(SCHEDULERS), st.booleans(), loads, st.sampled_from([8.0, 64.0, np.inf]))
def test_an_answer_of_one_token_takes_no_decode_step(case, scheduler, random, load, room):
    """It is there no later than one of two, and prompts are all that bounds how many there are."""
    setup = setup_of(case, scheduler=scheduler)
    one, two = (aggregated(setup, replace(load, output_tokens=n, room=room, at_random=random)) for n in (1.0, 2.0))
    assert one.tpot_s == 0.0
    assert one.ttft_s <= (two.ttft_s + two.tpot_s) * (1 + 1e-9)
    assert one.output_tokens_per_s >= two.output_tokens_per_s / 2.0 * (1 - 1e-9)
    if setup.plan.dp == 1 and load.concurrency <= room:
        budget = float(setup.stack.chunk_tokens)
        together_ = max(min(load.concurrency, budget / load.input_tokens), 1.0)
        if together_ < load.concurrency and load.input_tokens <= budget:
            full_s = step(setup, prefill_batch(sequences=together_, length=load.input_tokens)).seconds
            turns = load.concurrency / together_
            assert one.ttft_s == pytest.approx(turns * full_s + through_s(setup.stack, load.input_tokens))


@settings(max_examples=30, deadline=None)
@given(cases, st.sampled_from(SCHEDULERS), loads)
def test_bursts_move_waiting_but_not_throughput(case, scheduler, load):
    spread, burst = (aggregated(setup_of(case, scheduler=scheduler, burst_ratio=b), load) for b in (0.0, 1.0))
    assert burst.output_tokens_per_s == pytest.approx(spread.output_tokens_per_s)
    assert burst.ttft_s >= spread.ttft_s * (1 - 1e-9)
    assert burst.tpot_s <= spread.tpot_s * (1 + 1e-9)


@settings(max_examples=30, deadline=None)
@given(cases, st.sampled_from(SCHEDULERS), loads)
@example(CASES[0], "mixed", Load(concurrency=1788.0, input_tokens=90.0, output_tokens=21.0))  # steps of prompts alone
@example(CASES[2], "mixed", Load(concurrency=45.0, input_tokens=3502.0, output_tokens=8.0))  # prompts beside its own
def test_twice_the_clients_never_lower_throughput(case, scheduler, load):
    """Of any machine, layout and engine six loads in a thousand fall, mostly by less than 1 %: the more decode, the
    less of a step's token budget is left to prompts, and these take more steps. With a larger budget none of those
    does. A few fall by up to a third where a step outgrows an engine's graphs: its kernels are launched one by one."""
    setup = setup_of(case, scheduler=scheduler)
    less, more = (aggregated(setup, replace(load, concurrency=load.concurrency * k)) for k in (1.0, 2.0))
    assert more.output_tokens_per_s >= less.output_tokens_per_s * (1 - 1e-9)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_one_client_meets_no_interference(case, scheduler):
    setup = setup_of(case, scheduler=scheduler)
    load = Load(concurrency=1.0, input_tokens=1024.0, output_tokens=129.0)
    found = aggregated(setup, load)
    if setup.plan.dp == 1:  # nor in another attention group
        assert aggregated(setup, replace(load, at_random=True)).tpot_s == pytest.approx(found.tpot_s)
    assert found.tpot_s == pytest.approx(found.step_s / setup.plan.tokens_per_step)
    assert found.ttft_s - through_s(setup.stack, 1024.0) == pytest.approx(found.prefill_s, rel=1.0)


@pytest.mark.parametrize("case", CASES)
def test_who_does_not_fit_waits(case):
    setup = setup_of(case)
    load = Load(concurrency=64.0 * setup.plan.dp, input_tokens=1024.0, output_tokens=512.0)
    free, cramped = aggregated(setup, load), aggregated(setup, replace(load, room=16.0))
    assert cramped.tpot_s < free.tpot_s
    assert cramped.ttft_s > free.ttft_s
    assert cramped.output_tokens_per_s < free.output_tokens_per_s


@settings(max_examples=25, deadline=None)
@given(cases, st.integers(1, 4), loads, log_uniform(1e-4, 100))
def test_pools_conserve_requests(case, instances, load, transfer_s):
    setup = setup_of((case[0], replace(case[1], draft_tokens=0)))
    pools = Pools(
        prefill=setup, prefill_instances=instances, prefill_sequences=1.0, decode=setup, decode_instances=instances
    )
    found = disaggregated(pools, load, transfer_s)
    assert found.ttft_s >= found.prefill_s + transfer_s
    busy = found.tpot_s * max(load.output_tokens - 1.0, 1.0)
    rate = found.output_tokens_per_s / load.output_tokens
    assert rate * (found.ttft_s + busy) <= load.concurrency * 1.05 + rate * found.prefill_s
    assert found.tpot_s >= found.step_s * (1 - 1e-9)
    assert rate <= instances * setup.plan.dp / found.prefill_s * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(loads, st.floats(0.0, 1.0), st.lists(st.floats(0.0, 1.0), min_size=2, max_size=2).map(sorted))
def test_equal_answers_stay_a_burst_where_prompts_come_first(load, burst, widths):
    # of answers spread evenly within a share of their mean, the mean square is so much above the squared mean
    near, far = (replace(load, spread=Spread(output_ratio=1.0 + w * w / 3.0)) for w in widths)
    first, mixed = (setup_of(CASES[0], scheduler=s, burst_ratio=burst).stack for s in reversed(SCHEDULERS))
    steps = load.output_tokens
    assert in_step(first, replace(load, spread=Spread()), steps) == 1.0
    assert burst - 1e-12 <= in_step(first, far, steps) <= in_step(first, near, steps) <= 1.0
    assert in_step(mixed, load, steps) == in_step(first, replace(load, at_random=True), steps) == burst


@settings(max_examples=25, deadline=None)
@given(cases, st.integers(1, 4), loads, log_uniform(1e-4, 100), st.floats(0.0, 1.0))
def test_first_tokens_of_pools_wait_for_half_a_burst_and_never_for_more_than_all(case, instances, load, moved_s, burst):
    setup = setup_of((case[0], replace(case[1], draft_tokens=0)), burst_ratio=burst)
    pools = Pools(
        prefill=setup, prefill_instances=instances, prefill_sequences=1.0, decode=setup, decode_instances=instances
    )
    found = disaggregated(pools, load, moved_s)
    ahead = max(load.concurrency / (instances * setup.plan.dp) - 1.0, 0.0) * found.prefill_s
    assert found.ttft_s >= (found.prefill_s + moved_s + 0.5 * burst * ahead) * (1 - 1e-9)
    assert found.ttft_s <= (found.prefill_s + moved_s + ahead) * 1.05  # as near as it is solved


@settings(max_examples=20, deadline=None)
@given(loads.filter(lambda load: load.output_tokens > 2))
def test_prompts_of_other_attention_groups_hold_up_the_steps_that_all_take_together(load):
    setup = setup_of(CASES[2])
    load = replace(load, concurrency=float(setup.plan.dp))  # one request in each group
    even, random = (aggregated(setup, replace(load, at_random=each)) for each in (False, True))
    assert even.tpot_s == pytest.approx(even.step_s / setup.plan.tokens_per_step)
    assert random.tpot_s > even.tpot_s


@settings(max_examples=20, deadline=None)
@given(cases, st.floats(1.0, 16.0), st.sampled_from([512, 1024, 4096]))
def test_a_prompt_in_pieces_costs_no_less_than_whole_nor_more_than_its_pieces_and_their_keys(case, pieces, budget):
    one = Load(concurrency=1.0, input_tokens=pieces * budget, output_tokens=2.0)
    cut, whole = (aggregated(setup_of(case, chunk_tokens=each), one).prefill_s for each in (budget, 10**6))
    piece = aggregated(setup_of(case, chunk_tokens=10**6), replace(one, input_tokens=float(budget))).prefill_s
    assert whole * (1 - 1e-9) <= cut <= pieces * piece * 1.01 + whole  # decoding takes a token or two of each


@settings(max_examples=60, deadline=None)
@given(
    cases, st.sampled_from(SCHEDULERS), st.floats(0.0, 1.0), st.integers(1, 64), log_uniform(16, 4096),
    log_uniform(128, 4096), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([1.0, 1.5, 4.0]),
)  # fmt: skip
@example(CASES[2], "mixed", 0.3, 9, 777.0, 500.0, 0.3, 1.5)
@example(CASES[1], "prefill_first", 0.3, 1, 777.0, 500.0, 1.0, 1.5)
def test_where_every_prompt_has_a_step_of_its_own_the_turn_is_a_sum(
    case, scheduler, burst, each, prompt, answer, cached, uneven
):
    """Of the others' prompts half of those that keep in step come first, the rest while it decodes."""
    setup = setup_of(case, scheduler=scheduler, burst_ratio=burst, chunk_tokens=8192)
    load = Load(
        concurrency=float(each * setup.plan.dp), input_tokens=prompt, output_tokens=answer, cached_ratio=cached,
        spread=Spread(input_ratio=uneven),
    )  # fmt: skip
    steps = (answer - 1.0) / setup.plan.tokens_per_step
    if each - 1 > steps:
        return
    found, mixed = aggregated(setup, load), scheduler == "mixed"
    new = max(prompt * (1.0 - cached), 1.0)
    one = prefill_batch(sequences=1.0, length=new, cached=prompt - new + new * (uneven - 1.0) / 2)
    decoding = decode_batch(sequences=float(each), context=prompt + answer / 2)
    alone, decode_s = step(setup, one), float(step(setup, decoding).seconds)
    carrying = step(setup, together(decoding, one)) if mixed else alone
    device_s = carrying.seconds - carrying.launch_wait_s
    more_s = max(device_s, carrying.launches_s) - mixed * decode_s
    share = burst if mixed else 1.0  # equal answers stay a burst where prompts come first
    ahead_s = (each - 1) * min(0.5 * share * (device_s - mixed * decode_s), more_s)
    busy_s = steps * decode_s + (each - 1) * more_s - ahead_s
    own_s = max(alone.seconds, (decode_s + more_s) * (mixed and each > 1))
    first_s = own_s + ahead_s + ((0.5 + scheduled_ahead(setup)) * decode_s if each > 1 else 0.0)
    door_s = through_s(setup.stack, prompt)
    assert (found.step_s, found.prefill_s) == (pytest.approx(decode_s), pytest.approx(alone.seconds))
    assert found.tpot_s == pytest.approx(busy_s / (answer - 1.0))
    assert found.ttft_s == pytest.approx(first_s + door_s)
    assert found.output_tokens_per_s == pytest.approx(load.concurrency * answer / (first_s + busy_s + door_s))
