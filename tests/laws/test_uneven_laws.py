"""Unequal lengths: moments against what long runs of prompts show, and groups in lock step against the replay."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.catalog.profiles import profile
from taicang.plans import ServePlan
from taicang.search.door import formats, of_profile, prepare
from taicang.serve import build
from taicang.serve.clients import ClosedLoop, OpenLoop
from taicang.serve.record import Record
from taicang.serve.scheduler import preset
from taicang.serve.setup import step
from taicang.serve.simulate import serve
from taicang.serve.steady import Load, aggregated, fullest_of, steps_with_prompts
from taicang.serve.uneven import EVEN, slowest_ratio, spread
from taicang.traffic.generate import arriving, fixed, from_profile


@given(st.floats(0.0, 20.0), st.integers(1, 2000))
def test_the_slowest_has_the_mean_at_least_and_all_at_most(variation, groups):
    assert 0.999 <= slowest_ratio(groups, variation) <= groups * 1.001
    assert slowest_ratio(groups, variation) <= slowest_ratio(groups + 1, variation) + 1e-6
    assert slowest_ratio(groups, variation) <= slowest_ratio(groups, variation + 0.5) + 1e-3


@pytest.mark.parametrize(("groups", "variation"), [(8, 0.05), (8, 1.0), (72, 0.3), (320, 2.0)])
def test_the_slowest_is_what_drawing_gives(groups, variation):
    sigma = np.sqrt(np.log1p(variation))
    drawn = np.exp(np.random.default_rng(0).normal(-(sigma**2) / 2, sigma, (20_000, groups))).max(axis=1).mean()
    assert slowest_ratio(groups, variation) == pytest.approx(drawn, rel=0.02)


@settings(max_examples=50)
@given(st.floats(0.0, 3.0), st.integers(1, 700))
def test_the_slowest_is_the_integral_over_its_distribution(sigma, groups):
    """Between powers of two on the chord; of two it is 2 F(s / sqrt 2) in closed form."""
    z = np.linspace(-9.0, 13.0, 3001)
    below = np.array([0.5 * math.erfc(-each / 2**0.5) for each in z.tolist()])
    weights = np.exp(sigma * (z[1:] + z[:-1]) / 2 - sigma**2 / 2)
    doublings = math.floor(math.log2(groups))
    near, far = (float(weights @ np.diff(below**2.0**each)) for each in (doublings, doublings + 1))
    exact = near + (far - near) * (math.log2(groups) - doublings)
    assert slowest_ratio(groups, math.expm1(sigma**2)) == pytest.approx(exact, rel=6e-3)  # of a table's chords
    assert slowest_ratio(2, math.expm1(sigma**2)) == pytest.approx(math.erfc(-sigma / 2), rel=2e-3)


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=12))
def test_moments_are_those_of_counting_tokens_one_by_one(lengths):
    inputs, outputs = (np.array(each, dtype=float) for each in zip(*lengths, strict=True))
    found = spread(inputs, outputs)
    keys = np.concatenate([np.arange(each) + 0.5 for each in inputs])  # of every token of a prompt, in its middle
    of_each = np.array([(np.arange(each) + 0.5).sum() - keys.mean() * each for each in inputs])
    made = np.concatenate([np.arange(each) + 0.5 for each in outputs])  # by every sequence in flight
    assert found.input_ratio * inputs.mean() / 2 == pytest.approx(keys.mean())
    assert found.output_ratio * outputs.mean() / 2 == pytest.approx(made.mean())
    within = 1 / 12  # of a token, which counting does not see
    assert found.key_variation_ratio == pytest.approx((keys.var() + within) / keys.mean() ** 2, rel=1e-6, abs=1e-9)
    assert found.key_span_tokens == pytest.approx(of_each.var() / keys.mean() ** 2 / inputs.mean(), abs=1e-9)
    context = inputs.mean() + made.mean()
    more = inputs.var() + made.var() + within - outputs.mean() ** 2 / 12
    assert found.context_variation_ratio == pytest.approx(max(more, 0.0) / context**2, rel=1e-6, abs=1e-9)


@given(st.floats(1.0, 1e5), st.floats(1.0, 1e5))
def test_equal_lengths_make_no_group_slower(prompt, answer):
    found = spread(np.full(9, prompt), np.full(9, answer))
    assert found.input_ratio == pytest.approx(1.0)
    assert found.prompts_ratio(64, 1000.0) == pytest.approx(1.0, abs=1e-3)
    assert found.decode_ratio(64, 10.0) == pytest.approx(1.0, abs=1e-3)
    assert EVEN.prompts_ratio(64, 1000.0) == EVEN.decode_ratio(64, 10.0) == 1.0


@pytest.mark.parametrize("name", ["servegen-deepseek-r1", "azure-2023-conv", "mooncake-conversation"])
@pytest.mark.parametrize("budget", [2048, 16384, 131072])
def test_pairs_of_the_slowest_group_are_those_of_prompts_in_a_row(name, budget):
    """Prompts cut into budgets one after the other, eight such rows side by side."""
    lengths = from_profile(name, profile(name), 200_000, seed=1).input_tokens.astype(float)
    ends = np.cumsum(lengths)
    edges = np.arange(int(ends[-1] // budget) + 1) * float(budget)
    at = np.minimum(np.searchsorted(ends, edges, side="right"), len(ends) - 1)
    passed = np.concatenate([[0.0], np.cumsum(lengths**2 / 2)])
    pairs = np.diff(passed[at] + (edges - (ends - lengths)[at]) ** 2 / 2)
    slowest = np.random.default_rng(0).choice(pairs, (5000, 8)).max(axis=1).mean() / pairs.mean()
    assert of_profile(name)["spread"].prompts_ratio(8, budget) == pytest.approx(slowest, rel=0.12)


@pytest.mark.parametrize("name", ["servegen-deepseek-r1", "azure-2023-conv"])
def test_context_of_the_slowest_group_is_that_of_sequences_in_flight(name):
    found, rng = of_profile(name), np.random.default_rng(0)
    drawn = from_profile(name, profile(name), 400_000, seed=1)
    inputs, outputs = drawn.input_tokens.astype(float), drawn.output_tokens.astype(float)
    flying = rng.choice(len(outputs), 400_000, p=outputs / outputs.sum())
    context = rng.permutation(inputs) + outputs[flying] * rng.random(400_000)
    sums = rng.choice(context, (3000, 32, 48)).sum(axis=2)
    assert found["spread"].decode_ratio(32, 48.0) == pytest.approx(sums.max(axis=1).mean() / sums.mean(), rel=0.05)


@pytest.mark.parametrize("name", ["servegen-deepseek-r1", "azure-2023-conv"])
def test_groups_prefill_as_many_prompts_as_the_replay_does(name):
    """All prompts wait from the beginning, so that no group is ever idle."""
    lengths = of_profile(name)
    job = prepare("deepseek-v3", "hgx-h200", stack="sglang", **lengths)
    setup = job.setup(ServePlan(dp=8, ep=8, quant=formats(["auto"], job)[0][1]))
    prompts = 4.0
    limits = preset(job.stack, policy="mixed", tokens=round(prompts * job.input_tokens))
    count = 6000
    trace = from_profile(name, profile(name), count, seed=0)
    trace = replace(trace, output_tokens=np.ones(count, dtype=np.int64))
    cluster = build.cluster(build.Pool(setup=setup, instances=1, limits=limits), context=job.context_tokens)
    done = Record()
    serve(cluster, OpenLoop(arriving(trace, 1e5)).arrivals(), done)
    seen = count / float(done.columns()["e2e_s"].max())
    said, unaware = (
        prompts * 8 / float(step(setup, each.prompts(prompts, 8)).seconds) for each in (job, replace(job, spread=EVEN))
    )
    assert said == pytest.approx(seen, rel=0.2)
    assert abs(said / seen - 1) < abs(unaware / seen - 1)


@pytest.mark.parametrize(("dp", "stack"), [(8, "sglang"), (8, "vllm"), (32, "sglang")])
def test_groups_that_get_prompts_at_random_are_as_slow_as_the_replay_says(dp, stack):
    """Lengths that differ a little bring groups out of step; then most steps carry some group's prompt."""
    each, prompt, answer = 32, 1000, 400
    job = prepare("deepseek-v3", "hgx-h200 x 4", input_tokens=prompt, output_tokens=answer, stack=stack)
    setup = job.setup(ServePlan(dp=dp, ep=dp, quant=formats(["auto"], job)[0][1]))
    limits = preset(job.stack, sequences=each)
    cluster = build.cluster(build.Pool(setup=setup, instances=1, limits=limits), context=float(prompt + answer))
    clients = each * dp
    loop = ClosedLoop(fixed(clients * 12, prompt, answer, spread=0.5, seed=0), clients, seed=0)
    done = Record()
    serve(cluster, loop.arrivals(), done, after=loop.after)
    ends = np.sort(done.columns()["arrival_s"] + done.columns()["e2e_s"])
    settled = ends[clients * 6 : clients * 10]
    seen = (len(settled) - 1) * answer / (settled[-1] - settled[0])
    load = Load(concurrency=float(clients), input_tokens=prompt, output_tokens=answer)
    together, apart = (
        float(aggregated(setup, one).output_tokens_per_s) for one in (load, replace(load, at_random=True))
    )
    assert apart == pytest.approx(seen, rel=0.15)
    assert abs(apart / seen - 1) < abs(together / seen - 1)


@given(st.floats(0.0, 1e6, allow_subnormal=False), st.floats(1.0, 1e4))
def test_steps_that_carry_prompts(chunks, steps):
    assert 0.0 <= steps_with_prompts(chunks, steps) <= min(steps, chunks) * (1 + 1e-12)


@given(st.integers(1, 512), st.floats(1e-2, 1e4))
def test_the_fullest_group_has_the_mean_at_least_and_more_where_there_are_several(groups, each):
    found = fullest_of(groups, each)
    assert found == pytest.approx(each * slowest_ratio(groups, 1.0 / each)) if groups > 1 else found == each
    assert found > each or groups == 1
