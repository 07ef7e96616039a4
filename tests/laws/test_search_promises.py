"""What a search may promise, over all built-in machines, models and stacks: no negative time, nothing above the
roofline, nothing faster for more work, and what a replay delivers."""

from dataclasses import replace
from functools import cache
from math import inf

import numpy as np
from anything import native
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_more_work import starts_s

from taicang import catalog
from taicang.catalog.models import model_names, not_modelled
from taicang.catalog.resolve import names
from taicang.errors import MissingFigure, TaicangError
from taicang.formats import number_format
from taicang.models.count import kv_bytes_per_token, parameters
from taicang.models.types import GroupedQuery, routed
from taicang.plans import decode_batch, prefill_batch
from taicang.predict.choose import LEVEL_RATIO, choose
from taicang.predict.confirm import DELIVERS, confirm
from taicang.search.door import formats, prepare
from taicang.search.explain import RESOURCES
from taicang.search.points import prefill_points, serving_points
from taicang.search.run import Ask, every, search
from taicang.search.space import default
from taicang.serve.setup import step
from taicang.serve.steady import together

LAW = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MODELS = sorted(set(model_names()) - set(not_modelled()))


@cache
def machines():
    """Those whose figures are public."""
    found = []
    for name in names("machine"):
        try:
            catalog.machine(name)
        except MissingFigure:
            continue
        found.append(name)
    return found


def log_uniform(low, high):
    return st.floats(np.log2(low), np.log2(high)).map(lambda x: float(round(2.0**x)))


@st.composite
def jobs(draw, stacks=True, limits=False, most=(16384, 8192)):
    on, model = draw(st.sampled_from(machines())), draw(st.sampled_from(MODELS))
    stack = draw(st.sampled_from((None, *native(on)))) if stacks else None
    lengths = {"input_tokens": draw(log_uniform(1, most[0])), "output_tokens": draw(log_uniform(1, most[1]))}
    asked = {}
    if limits:
        asked["tpot_s"] = draw(st.one_of(st.none(), st.floats(-6, -1).map(lambda x: 2.0**x)))
        asked["ttft_s"] = draw(st.one_of(st.none(), st.floats(-2, 4).map(lambda x: 2.0**x)))
    try:
        job = prepare(model, on, **lengths, **asked, stack=stack)
        return job, formats(["auto"], job)
    except TaicangError:
        assume(False)


@settings(LAW, max_examples=250)
@given(jobs(), st.data())
def test_more_work_is_never_a_shorter_step(found, data):
    job, quants = found
    plans = every(job, quants[0][1], default(job.model))["both"]
    assume(plans)
    setup = job.setup(data.draw(st.sampled_from(plans)))
    decoding = decode_batch(sequences=data.draw(log_uniform(1, 2048)), context=data.draw(log_uniform(1, 32768)))
    prompts = prefill_batch(
        sequences=data.draw(st.sampled_from((1.0, 3.0))),
        length=data.draw(log_uniform(1, 16384)),
        cached=data.draw(st.sampled_from((0.0, 5000.0))),
    )
    try:
        alone, chunk, both = (step(setup, each) for each in (decoding, prompts, together(decoding, prompts)))
    except TaicangError:
        assume(False)
    spared = starts_s(alone) if setup.stack.joint_attention else 0.0
    assert both.seconds >= alone.seconds * (1 - 1e-9) - spared
    assert both.seconds >= chunk.seconds * (1 - 1e-9)


def roofline(job, quant, points):
    """Requests per second of an instance that no arithmetic unit and no memory can beat: two operations per active
    weight and token; a decode step reads its sequences' caches, and of dense models the weights."""
    model, chip = job.model, job.machine.chip
    ranks = np.array([plan.ranks for plan in points.plans])[points.layout]
    names = {getattr(quant, name) for name in ("attention", "dense", "experts", "head", "attend")}
    peak = max(chip.peak(number_format(name).peak) for name in names)
    groups = np.array([plan.dp for plan in points.plans])[points.layout]
    counted = parameters(model)
    flop = 2.0 * (counted.active - counted.embedding - counted.norm - counted.head)
    arithmetic = ranks * peak / (flop * (job.input_tokens + job.output_tokens - 1.0))
    steps = (job.output_tokens - 1.0) / (1.0 + points.drafts)
    moved = 0.0
    if all(isinstance(block.attention, GroupedQuery) and not block.attention.window for block in model.blocks):
        moved = kv_bytes_per_token(model, quant.kv) * job.input_tokens
    if routed(model) is None:
        weight = min(number_format(name).weight_bytes for name in (quant.attention, quant.dense))
        moved = moved + flop / 2.0 * weight / (points.sequences * groups)
    memory = ranks * chip.memory.bandwidth_bytes_per_s / np.maximum(moved * steps, 1e-9)
    return np.minimum(arithmetic, memory)


@settings(LAW, max_examples=60)
@given(jobs(), st.data())
def test_no_row_of_a_search_is_negative_or_above_the_roofline(found, data):
    job, quants = found
    quant, space = quants[0][1], replace(default(job.model), batches=(1, 2, 5, 12, 40, 130, 500, 1700, 4096))
    plans = every(job, quant, space)
    assume(plans["both"])
    few = data.draw(st.lists(st.sampled_from(plans["both"]), min_size=1, max_size=12, unique=True))
    try:
        tables = serving_points(few, job, space)
        first = prefill_points(plans["prefill"][:12], job, space)
    except TaicangError:
        assume(False)
    both, decode = tables["both"], tables["decode"]
    for table in (both, decode, first):
        assert np.isfinite(table.requests_per_s).all()
        assert (table.requests_per_s > 0).all()
        assert (table.ttft_s >= 0).all()
        assert (table.tpot_s >= 0).all()
    assert (both.ttft_s > 0).all()
    assert (both.requests_per_s <= roofline(job, quant, both) * (1 + 1e-9)).all()
    counted = parameters(job.model)
    peak = max(job.machine.chip.peak_flop_per_s.values())
    ranks = np.array([plan.ranks for plan in first.plans])[first.layout]
    flop = 2.0 * (counted.active - counted.embedding - counted.norm - counted.head) * job.input_tokens
    assert (first.requests_per_s * flop <= ranks * peak).all()


def best(job, quants, **ask):
    found = search(job, quants, default(job.model), Ask(top=1, **ask)).best
    return found[0].output_tokens_per_s_per_chip if found else 0.0


@settings(LAW, max_examples=12)
@given(jobs(stacks=False, limits=True), st.sampled_from(sorted(RESOURCES)), st.floats(1.1, 4.0))
def test_more_of_a_resource_is_never_worse(found, resource, ratio):
    job, quants = found
    more = prepare_on(job, RESOURCES[resource](job.machine, ratio))
    assert best(more, quants) >= best(job, quants) * (1 - 1e-9)


@settings(LAW, max_examples=10)
@given(jobs(stacks=False, limits=True), st.sampled_from((2, 3, 4)))
def test_more_nodes_are_never_worse_per_chip(found, nodes):
    job, quants = found
    assume(job.machine.ranks <= 1024)
    more = prepare_on(job, catalog.machine(f"{job.machine.name} x {nodes}"))
    assert best(more, quants) >= best(job, quants) * (1 - 1e-9)


@settings(LAW, max_examples=10)
@given(jobs(stacks=False, limits=True), st.floats(1.0, 3.0), st.floats(1.0, 3.0))
def test_looser_limits_are_never_worse(found, ttft, tpot):
    job, quants = found
    looser = replace(job, ttft_s=job.ttft_s * ttft, tpot_s=job.tpot_s * tpot)
    assert best(looser, quants) >= best(job, quants)


def prepare_on(job, machine):
    return replace(
        prepare(job.model, machine, input_tokens=job.input_tokens, output_tokens=job.output_tokens),
        ttft_s=job.ttft_s,
        tpot_s=job.tpot_s,
    )


@settings(LAW, max_examples=10)
@given(jobs(stacks=False, limits=True, most=(8192, 1024)), st.booleans())
def test_a_replay_delivers_what_an_aggregated_winner_promises(found, stages):
    """Whole pipelines too, which are looked at for themselves; without the limits, at which a replay is broken off."""
    job, quants = found
    ranked = search(job, quants, default(job.model), Ask(top=30, modes=("aggregated",))).best
    picked = [choice for choice in ranked if choice.pools[0].plan.pp > 1] if stages else list(ranked)
    assume(picked)
    ran = confirm(replace(job, ttft_s=inf, tpot_s=inf), picked[0])
    assume(not ran.refused)
    assert ran.delivered_ratio >= DELIVERS - 0.05  # chance moves a rate by so much: taicang.predict.confirm.LEAST
    assert ran.keeps <= (ran.delivered_ratio >= DELIVERS)


def test_answers_of_one_token_are_measured_over_many_steps():
    """All of a prompt's step come out at once: two steps more or less are no loss."""
    job = prepare("qwen3-14b", "hgx-h100", input_tokens=1, output_tokens=1)
    best = search(job, formats(["auto"], job), default(job.model), Ask(top=1, modes=("aggregated",))).best[0]
    assert confirm(job, best).delivered_ratio >= DELIVERS


@settings(LAW, max_examples=6)
@given(jobs(stacks=False, limits=True, most=(4096, 256)))
def test_the_chosen_plan_delivers_or_says_that_none_does(found):
    """In both modes, under the limits."""
    job, quants = found
    ranked = search(job, quants, default(job.model), Ask(top=30)).best
    assume(ranked)
    chosen = choose(job, ranked, most=3)
    ran = {each.rank: each.ran for each in chosen.replayed}
    if not chosen.keeps:
        assert chosen.warning
        assert not any(each.keeps for each in ran.values())
        return
    mine = ran[chosen.rank]
    assert mine.keeps
    assert mine.delivered_ratio >= DELIVERS
    assert chosen.load_ratio == mine.load_ratio
    for rank, each in ran.items():
        promised = ranked[rank - 1].output_tokens_per_s_per_chip * each.load_ratio
        good = promised * min(each.delivered_ratio, 1.0) * each.keeps
        assert good <= chosen.goodput_tokens_per_s_per_chip / (1.0 - LEVEL_RATIO) * (1 + 1e-9)
