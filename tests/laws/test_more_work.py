"""More work is never faster: any model, machine, stack and layout, one step, the closed form and the replay."""

from dataclasses import replace

import numpy as np
import pytest
from anything import any_case, cases, whole
from hypothesis import assume, given, settings

from taicang.errors import InvalidInput, InvalidPlan, NotModelled
from taicang.plans import Batch, ServePlan, decode_batch, prefill_batch
from taicang.predict.replay import replay
from taicang.predict.system import System
from taicang.search.door import formats, prepare
from taicang.serve.request import SECOND
from taicang.serve.setup import step
from taicang.serve.steady import Load, aggregated, together
from taicang.serve.steptable import StepTable
from taicang.traffic.trace import Trace

LENGTHS = np.unique(np.round(np.geomspace(1, 2e5, 120)))
COUNTS = np.unique(np.round(np.geomspace(1, 2e3, 60)))
ROUNDING, TICK_S = 1e-9, 1e-9
HEADS = 2e-4
"""Share of a step that the last tokens of a few prompts take: where the fullest group is cut at the step's budget, it
holds fewer prompts the longer they are, and what the others wait for the next step is not in the closed form."""


def starts_s(alone):
    """What decode's attention kernels take in ``alone``, a step without prompts, to start, split contexts and combine
    their pieces: spared where prompts take the tokens of others along in their own kernel (``joint_attention``)."""
    return sum(np.max(each.repeat * each.cost.latency_s) for each in alone.slices if each.label == "attention core")


def grows(seconds, what, rounding=ROUNDING, tick_s=TICK_S):
    seconds = np.asarray(seconds)
    assert (seconds > 0).all(), what
    more = np.diff(seconds)
    assert (more >= -np.maximum(rounding * seconds[:-1], tick_s)).all(), (what, int(np.argmin(more)), seconds)


def both(prompts: Batch, sequences: Batch) -> Batch:
    return together(prompts, sequences)


@settings(max_examples=60, deadline=None)
@given(cases(), whole(0, 5), whole(0, 3))
def test_a_step_with_more_in_it_is_never_faster(case, context, count):
    job, plan = case
    setup, prompt, decoding = job.setup(plan), np.ones_like(LENGTHS), np.ones_like(COUNTS)
    steps = {
        "a longer prompt": prefill_batch(sequences=prompt, length=LENGTHS),
        "a longer prompt behind a cache": prefill_batch(sequences=prompt, length=LENGTHS, cached=float(context)),
        "more prompts": prefill_batch(sequences=COUNTS, length=float(context)),
    }
    if not plan.sp:
        held = decode_batch(sequences=float(count) * prompt, context=float(context))
        few, some = held.decode_sequences[:2], np.array([0.0, float(count)])
        steps |= {
            "more sequences": decode_batch(sequences=COUNTS, context=float(context)),
            "longer contexts": decode_batch(sequences=float(count) * prompt, context=LENGTHS),
            "a longer prompt beside others": both(steps["a longer prompt"], held),
            "more sequences beside a prompt": both(
                prefill_batch(sequences=decoding, length=float(context)),
                decode_batch(sequences=COUNTS, context=float(context)),
            ),
            "a prompt, or none": both(
                prefill_batch(sequences=np.array([0.0, 1.0]), length=float(context)),
                decode_batch(sequences=few, context=float(context)),
            ),
            "sequences beside a prompt, or none": both(
                prefill_batch(sequences=np.ones(2), length=float(context)),
                decode_batch(sequences=some, context=float(context)),
            ),
        }
    try:
        for what, batch in steps.items():
            joins = setup.stack.joint_attention and what == "a prompt, or none"
            spared = (
                starts_s(step(setup, decode_batch(sequences=float(count), context=float(context)))) if joins else 0.0
            )
            grows(step(setup, batch).seconds, what, tick_s=spared + TICK_S)
    except (NotModelled, InvalidPlan):
        assume(False)


@settings(max_examples=60, deadline=None)
@given(cases(), whole(0, 3.5), whole(0, 3))
def test_a_longer_prompt_never_has_its_first_token_sooner(case, output, count):
    """Alone, in an instance full of others, and in one whose attention groups get prompts at random."""
    job, plan = case
    longer = replace(job, input_tokens=LENGTHS)
    setup = longer.setup(plan)
    budget = job.stack.chunk_tokens * (plan.tp if plan.sp else 1)
    steps = longer.chunks(1.0, budget)
    try:
        grows(steps * step(setup, longer.prompts(1.0, plan.dp, steps)).seconds, "alone")
        for random in () if plan.sp else (False, True):
            for others in (1.0, float(count)):
                load = Load(
                    concurrency=others * plan.dp,
                    input_tokens=LENGTHS,
                    output_tokens=float(output),
                    at_random=random,
                )
                steady = aggregated(setup, load)
                whole_s, allowed = steady.ttft_s + steady.tpot_s * max(output - 1, 1), HEADS if random else ROUNDING
                grows(steady.ttft_s, ("first token", others, random), allowed)
                grows(whole_s, ("whole answer", others, random), allowed)
    except (NotModelled, InvalidPlan):
        assume(False)


def test_a_joint_kernel_spares_what_starting_decode_attention_takes():
    case = any_case("mpt-350m", "a10-pcie", "vllm@0.21.0", "TP1")
    test_a_step_with_more_in_it_is_never_faster.hypothesis.inner_test(case, 1, 46)


@settings(max_examples=25, deadline=None)
@given(cases(decodes=True), whole(0, 4.5))
def test_a_longer_prompt_never_replays_to_an_earlier_first_token(case, shortest):
    """Requests so far apart that each is alone."""
    job, plan = case
    lengths = np.unique(np.round(shortest * np.array([1.0, 1.1, 1.5, 2.0, 3.0, 5.0])))
    apart = Trace(
        name="apart",
        kind="",
        arrival_s=1e4 * np.arange(len(lengths)),
        input_tokens=lengths.astype(int),
        output_tokens=np.full(len(lengths), 3),
    )
    system = System(plan=replace(plan, draft_tokens=0), instances=1, stack=job.stack.name)
    try:
        table = replay(job.model.name, job.machine.name, apart, system).table
    except (NotModelled, InvalidPlan, InvalidInput):  # what does not fit
        assume(False)
    order = np.argsort(table["input_tokens"])
    grows(np.asarray(table["ttft_s"])[order], "replayed alone")


@pytest.mark.parametrize(("sequences", "decodes"), [(24, "captured"), (25, "kernel by kernel")])
def test_a_prompt_beside_sequences_that_no_graph_decodes_spares_no_launches(sequences, decodes):
    """SGLang captures 24 sequences on a card of 24 GB, and prompts in pieces: beside more, all is launched."""
    job = prepare("moonlight-16b-a3b", "a10-pcie", input_tokens=1, output_tokens=1, stack="sglang@0.5.11")
    setup = job.setup(ServePlan(tp=2, moe_tp=2, quant=formats(["auto"], job)[0][1]))
    alone = decode_batch(sequences=float(sequences), context=16.0)
    beside = together(alone, prefill_batch(sequences=1.0, length=1.0))
    both, mine = step(setup, beside), step(setup, alone)
    assert (mine.launches_s > 0) == (decodes == "kernel by kernel")
    assert both.seconds >= mine.seconds * (1 - 1e-9)
    table = StepTable(setup, sequences=64, tokens=2048)
    assert table.mixed(1, 1, 1.0, 1, sequences, sequences) >= both.launches_s * SECOND * (1 - 1e-6)
