"""The simulator against queueing theory, the analytic step sum and the steady state."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.catalog.models import model
from taicang.plans import Batch, ServePlan, decode_batch, prefill_batch
from taicang.serve.build import Pool, cluster
from taicang.serve.clients import ClosedLoop
from taicang.serve.request import SECOND, Request
from taicang.serve.saturated import saturated
from taicang.serve.scheduler import Limits
from taicang.serve.setup import Setup, step
from taicang.serve.simulate import simulate
from taicang.serve.steady import Load, aggregated
from taicang.serve.steptable import GRAIN, StepTable
from taicang.traffic.generate import fixed


@cache
def setup(name: str = "llama-3.1-8b", tp: int = 1, dp: int = 1) -> Setup:
    machine = catalog.machine("hgx-h100")
    stack = replace(catalog.stack("vllm"), door_s=0.0, door_token_s=0.0)
    plan = ServePlan(tp=tp, dp=dp, ep=dp, moe_tp=tp)
    price = cost_model(machine, stack).price
    return Setup(model=model(name), plan=plan, machine=machine, stack=stack, price=price)


def served(requests, limits, *, context=1000.0):
    made = cluster(Pool(setup=setup(), instances=1, limits=limits), context=context)
    simulate(made, iter(requests))
    return made


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-30b-a3b"])
def test_tabulated_step_times_are_the_priced_ones(name):
    it, rng = setup(name), random.Random(1)
    table = StepTable(it, sequences=256, tokens=8192)
    for _ in range(60):
        n, length = rng.randint(1, 256), float(rng.randint(20, 20000))
        direct = step(it, decode_batch(sequences=float(n), context=length)).seconds
        assert table.row(n).at(round(n * length * GRAIN)) / SECOND == pytest.approx(float(direct), rel=2e-3)
        tokens, cached = rng.randint(1, 8192), rng.choice([0, 3000])
        n = rng.choice([0, n])
        pairs = tokens * cached + tokens * (tokens + 1) / 2
        batch = Batch(
            prefill_tokens=float(tokens), prefill_sequences=1.0, prefill_pairs=pairs,
            prefill_context=float(tokens + cached), decode_sequences=float(n), decode_context=n * length,
        )  # fmt: skip
        mixed = table.mixed(tokens, 1, pairs, tokens + cached, n, round(n * length * GRAIN)) / SECOND
        assert mixed == pytest.approx(float(step(it, batch).seconds), rel=0.03)


def test_a_lone_request_takes_the_sum_of_its_steps():
    request = Request(0, 0, 3000, 400)
    served([request], Limits(tokens=8192))
    first = float(step(setup(), prefill_batch(sequences=1.0, length=3000.0)).seconds)
    contexts = np.arange(3000.0, 3399.0)
    rest = np.asarray(step(setup(), decode_batch(sequences=np.ones(399), context=contexts)).seconds).sum()
    assert request.first / SECOND == pytest.approx(first, rel=2e-3)
    assert (request.end - request.first) / SECOND == pytest.approx(rest, rel=1e-3)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_waiting_is_that_of_the_queue_m_d_1(load):
    one = Request(0, 0, 2000, 1)
    served([one], Limits(tokens=2000))
    service = one.end
    rng = random.Random(5)
    now, requests = 0.0, []
    for i in range(150_000):
        now += rng.expovariate(load) * service
        requests.append(Request(i, int(now), 2000, 1))
    served(requests, Limits(tokens=2000, sequences=1))
    waited = np.mean([r.started - r.arrival for r in requests[1000:]]) / service
    assert waited == pytest.approx(load / (2 * (1 - load)), rel=0.02)


def test_waiting_is_that_of_the_queue_m_g_1():
    load, rng = 0.7, np.random.default_rng(11)
    lengths = np.clip(np.round(rng.lognormal(7.0, 0.8, 200_000)), 16, 8192).astype(int).tolist()
    table = StepTable(setup(), sequences=1, tokens=8192)
    once = {n: table.mixed(n, 1, n * (n + 1) / 2, n, 0, 0) for n in set(lengths)}
    service = np.asarray([once[n] for n in lengths], dtype=float)
    arrival = np.cumsum(rng.exponential(service.mean() / load, len(lengths)))
    requests = [Request(i, int(at), n, 1) for i, (at, n) in enumerate(zip(arrival.tolist(), lengths, strict=True))]
    served(requests, Limits(tokens=8192, sequences=1))
    waited = np.mean([r.started - r.arrival for r in requests[1000:]])
    rate = len(lengths) / arrival[-1]  # Pollaczek and Khinchine
    assert waited == pytest.approx(rate * (service**2).mean() / (2 * (1 - rate * service.mean())), rel=0.02)


def test_saturation_is_the_steady_state():
    limits = Limits(tokens=8192, sequences=64)
    made = cluster(Pool(setup=setup(), instances=1, limits=limits), context=1000.0)
    loop = ClosedLoop(fixed(64 * 40, 800, 300, spread=0.2), 64)
    done = simulate(made, loop.arrivals(), after=loop.after)
    middle = [r for r in done if r.end > done[64 * 5].end and r.end <= done[64 * 35].end]
    rate = sum(r.output for r in middle) / ((done[64 * 35].end - done[64 * 5].end) / SECOND)
    alone = replace(setup(), stack=replace(setup().stack, chunk_tokens=800))  # prompts mostly come one by one
    steady = saturated(alone, 64.0, input_tokens=800.0, output_tokens=300.0).output_tokens_per_s
    assert rate == pytest.approx(float(steady), rel=0.03)


def test_a_larger_budget_slows_groups_in_lock_step_and_the_closed_form_knows_it():
    """Prompts that come at random: every group waits for the longest step of any, and whole prompts make long ones."""
    found = []
    for budget in (2048, 65536):
        stack = replace(catalog.stack("vllm@0.12.0"), chunk_tokens=budget)
        priced = replace(
            setup("qwen3-30b-a3b", dp=8), stack=stack, price=cost_model(catalog.machine("hgx-h100"), stack).price
        )
        load = Load(concurrency=64.0, input_tokens=8000.0, output_tokens=100.0, at_random=True)
        made = cluster(Pool(setup=priced, instances=1, limits=Limits(tokens=budget, sequences=256)), context=8000.0)
        loop = ClosedLoop(fixed(64 * 6, 8000, 100, spread=0.5), 64)
        done = simulate(made, loop.arrivals(), after=loop.after)
        rate = sum(each.output for each in done) / (max(each.end for each in done) / SECOND)
        found.append((float(aggregated(priced, load).output_tokens_per_s), rate))
    (formula, ran), (formula_whole, ran_whole) = found
    assert ran_whole < 0.9 * ran
    assert formula_whole < 0.9 * formula
    assert formula_whole / formula == pytest.approx(ran_whole / ran, rel=0.15)
