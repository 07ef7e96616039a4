"""Laws of a whole priced step: arrays, monotony, roofline."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog import calibration
from taicang.catalog.costing import cost_model, serving_clock
from taicang.catalog.models import model
from taicang.plans import Batch, Quantisation, ServePlan, chance_of, decode_batch, prefill_batch
from taicang.predict.replay import replay
from taicang.predict.system import System
from taicang.search.door import settle
from taicang.serve.setup import Setup, step
from taicang.serve.steady import Load, aggregated
from taicang.timeline import at_peak_s
from taicang.traffic.generate import fixed

MACHINES = ("hgx-h100", "cloudmatrix384", "gb200-nvl72", "atlas-800-a2")
CASES = (
    ("llama-3.1-8b", ServePlan()),
    ("llama-3.1-70b", ServePlan(tp=8, moe_tp=8)),
    ("qwen3-235b-a22b", ServePlan(tp=4, ep=4)),
    ("deepseek-r1", ServePlan(dp=8, ep=8, draft_tokens=1)),
    ("deepseek-r1", ServePlan(dp=8, ep=8, exchange="all_to_all")),
)


def log_uniform(low, high):
    return st.floats(np.log(low), np.log(high)).map(lambda x: float(np.round(np.exp(x))))


def setup_of(machine, case, skew=1.01, engine="vllm", clock=1.0):
    name, plan = case
    stack = catalog.stack(engine)
    return Setup(
        model=model(name), plan=plan, machine=machine, stack=stack, price=cost_model(machine, stack).price, skew=skew,
        clock_ratio=clock,
    )  # fmt: skip


cases = st.tuples(st.sampled_from(MACHINES), st.sampled_from(CASES))


@settings(max_examples=40, deadline=None)
@given(cases, st.lists(st.tuples(log_uniform(1, 2048), log_uniform(1, 131072)), min_size=2, max_size=5))
def test_arrays_price_like_floats_bit_for_bit(case, shapes):
    setup = setup_of(catalog.machine(case[0]), case[1])
    sequences, context = (np.array(column) for column in zip(*shapes, strict=True))
    many = step(setup, decode_batch(sequences=sequences, context=context)).seconds
    alone = [float(step(setup, decode_batch(sequences=s, context=c)).seconds) for s, c in shapes]
    assert [float(x) for x in many] == alone


@settings(max_examples=25, deadline=None)
@given(cases, st.lists(st.tuples(log_uniform(1, 64), log_uniform(1, 16384)), min_size=2, max_size=4))
def test_prefill_arrays_price_like_floats(case, shapes):
    setup = setup_of(catalog.machine(case[0]), case[1])
    sequences, length = (np.array(column) for column in zip(*shapes, strict=True))
    many = step(setup, prefill_batch(sequences=sequences, length=length)).seconds
    alone = [float(step(setup, prefill_batch(sequences=s, length=n)).seconds) for s, n in shapes]
    assert [float(x) for x in many] == alone


@settings(max_examples=40, deadline=None)
@given(cases, log_uniform(1, 1024), log_uniform(1, 65536), st.floats(1.01, 4.0))
def test_more_work_is_never_faster(case, sequences, context, factor):
    setup = setup_of(catalog.machine(case[0]), case[1], skew=0.0)
    base = float(step(setup, decode_batch(sequences=sequences, context=context)).seconds)
    wider = float(step(setup, decode_batch(sequences=np.ceil(sequences * factor), context=context)).seconds)
    longer = float(step(setup, decode_batch(sequences=sequences, context=np.ceil(context * factor))).seconds)
    assert wider >= base * (1 - 1e-9)
    assert longer >= base * (1 - 1e-9)


def improved(machine, what, factor):
    chip = machine.chip
    if what == "bandwidth":
        memory = replace(chip.memory, bandwidth_bytes_per_s=chip.memory.bandwidth_bytes_per_s * factor)
        return replace(machine, chip=replace(chip, memory=memory))
    if what == "peak":
        peaks = {k: v * factor for k, v in chip.peak_flop_per_s.items()}
        return replace(machine, chip=replace(chip, peak_flop_per_s=peaks))
    plane = machine.planes["scale_up"]
    levels = tuple(replace(lv, bandwidth_bytes_per_s=lv.bandwidth_bytes_per_s * factor) for lv in plane.levels)
    return replace(machine, planes={**machine.planes, "scale_up": replace(plane, levels=levels)})


@pytest.mark.parametrize("what", ["bandwidth", "peak", "links"])
@settings(max_examples=25, deadline=None)
@given(case=cases, sequences=log_uniform(1, 1024), context=log_uniform(1, 65536), factor=st.floats(1.01, 10))
def test_a_better_machine_is_never_slower(what, case, sequences, context, factor):
    machine = catalog.machine(case[0])
    batch = decode_batch(sequences=sequences, context=context)
    before = float(step(setup_of(machine, case[1]), batch).seconds)
    after = float(step(setup_of(improved(machine, what, factor), case[1]), batch).seconds)
    assert after <= before * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(
    cases,
    log_uniform(1, 4096),
    log_uniform(1, 65536),
    st.sampled_from(["vllm", "sglang", "tensorrt-llm", "vllm-ascend"]),
)
def test_a_step_never_beats_the_roofline(case, sequences, context, engine):
    machine = catalog.machine(case[0])
    setup = setup_of(machine, case[1], engine=engine)
    timeline = step(setup, decode_batch(sequences=sequences, context=context))
    moved = sum(float(s.cost.moved_bytes * s.repeat) for s in timeline.slices)
    flop = sum(float(s.cost.flop * s.repeat) for s in timeline.slices)
    assert float(timeline.seconds) >= moved / machine.chip.memory.bandwidth_bytes_per_s * (1 - 1e-9)
    assert float(timeline.seconds) >= flop / max(machine.chip.peak_flop_per_s.values()) * (1 - 1e-9)
    for piece in timeline.slices:  # and no operator does
        moved_s = piece.cost.moved_bytes / machine.chip.memory.bandwidth_bytes_per_s
        assert float(piece.cost.seconds) >= float(moved_s) * (1 - 1e-9), piece.label


@settings(max_examples=30, deadline=None)
@given(log_uniform(1, 512), log_uniform(16, 8192), log_uniform(2, 2048))
def test_a_lone_client_has_no_interference(concurrency, isl, osl):
    setup = setup_of(catalog.machine("hgx-h100"), CASES[0])
    lone = aggregated(setup, Load(concurrency=1.0, input_tokens=isl, output_tokens=osl))
    crowd = aggregated(setup, Load(concurrency=concurrency, input_tokens=isl, output_tokens=osl))
    assert float(lone.tpot_s) == pytest.approx(float(lone.step_s), rel=1e-9)
    assert float(crowd.tpot_s) >= float(lone.tpot_s) * (1 - 1e-9)


def test_no_number_format_appears_from_nowhere():
    chip = catalog.machine("cloudmatrix384").chip
    assert "fp8" not in chip.peak_flop_per_s
    from taicang.errors import NotModelled  # noqa: PLC0415

    setup = setup_of(catalog.machine("cloudmatrix384"), ("llama-3.1-8b", ServePlan(quant=Quantisation(dense="fp8"))))
    with pytest.raises(NotModelled, match="fp8"):
        step(setup, Batch(decode_sequences=1, decode_context=10))


@settings(max_examples=40, deadline=None)
@given(cases, log_uniform(1, 256), log_uniform(1, 8192), st.sampled_from(["vllm", "sglang"]), st.booleans())
def test_the_waterfall_sums_to_the_busy_time_and_hides_no_less_than_nothing(case, sequences, length, engine, two):
    name, plan = case[1]
    batch = prefill_batch(sequences=sequences, length=length)
    if two:
        batch = decode_batch(sequences=sequences, context=length)
    run = step(setup_of(catalog.machine(case[0]), (name, replace(plan, microbatches=1 + two)), engine=engine), batch)
    assert sum(float(piece.seconds) for piece in run.slices) == pytest.approx(float(run.busy_s), rel=1e-12)
    assert float(run.hidden_s) >= -1e-12 * float(run.busy_s)
    assert float(run.seconds) > 0.0


def test_two_microbatches_launch_twice_the_kernels():
    """A short prefill is bound by the host's launches, whatever its schedule."""
    machine = catalog.machine("hgx-h200")
    one, two = (
        step(
            setup_of(machine, ("deepseek-r1", ServePlan(dp=8, ep=8, microbatches=count)), engine="vllm"),
            prefill_batch(sequences=1.0, length=16.0),
        )
        for count in (1, 2)
    )
    assert float(two.seconds) >= float(one.seconds)


@given(st.sampled_from([2, 4, 8]), log_uniform(1, 16))
@settings(max_examples=20, deadline=None)
def test_pipeline_stages_cut_no_sequence_in_parts(stages, sequences):
    machine = catalog.machine("hgx-h100")
    one, many = (
        step(setup_of(machine, ("llama-3.1-8b", ServePlan(pp=pp))), decode_batch(sequences=n, context=n * 1000.0))
        for pp, n in ((1, 1.0), (stages, sequences))
    )
    assert float(many.seconds) >= float(one.seconds)


@given(st.floats(0.0, 1.0), st.integers(1, 8))
def test_of_all_drafts_the_share_that_engines_report_is_accepted(share, drafts):
    """Later drafts less than the first ones; the same share of more drafts asks for a likelier first one."""
    chance = chance_of(share, drafts)
    made = ServePlan(draft_tokens=drafts, acceptance_ratio=chance)
    np.testing.assert_allclose(made.tokens_per_step, 1.0 + share * drafts, rtol=1e-9)
    assert share - 1e-12 <= chance <= chance_of(share, drafts + 1) + 1e-12 <= 1.0 + 2e-12


def test_accepted_drafts_run_from_none_to_all():
    drafted = ServePlan(draft_tokens=2)
    assert replace(drafted, acceptance_ratio=0.0).tokens_per_step == 1.0
    assert replace(drafted, acceptance_ratio=1.0).tokens_per_step == 3.0
    machine = catalog.machine("hgx-h100")
    plain, drafting = (
        step(setup_of(machine, ("deepseek-r1", plan)), decode_batch(sequences=8.0, context=8000.0))
        for plan in (ServePlan(dp=8, ep=8), ServePlan(dp=8, ep=8, draft_tokens=2))
    )
    assert float(drafting.seconds) > float(plain.seconds)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(MACHINES), log_uniform(1, 32), st.floats(0.0, 1.5), st.floats(0.01, 0.5))
def test_more_skew_is_never_faster_once_every_expert_is_busy(machine, sequences, skew, more):
    """Few tokens are another matter: skew gathers them in fewer experts, whose weights alone are read."""
    case = ("deepseek-r1", ServePlan(dp=8, ep=8, exchange="all_to_all"))
    batch = prefill_batch(sequences=sequences, length=4096.0)
    even, hot = (step(setup_of(catalog.machine(machine), case, skew=s), batch).seconds for s in (skew, skew + more))
    assert float(hot) >= float(even) * (1.0 - 1e-9)


def test_sequence_shards_score_their_own_tokens_alone():
    """Sparse attention pays off at long contexts in the sequence-parallel prefill of CloudMatrix-Infer too."""
    machine = catalog.machine("cloudmatrix384")
    plan = ServePlan(tp=32, ep=32, sp=True, quant=Quantisation(attention="int8", dense="int8", experts="int8"))
    dense, sparse = (
        step(
            setup_of(machine, (name, plan), engine="cloudmatrix-infer"), prefill_batch(sequences=2.0, length=131072.0)
        ).seconds
        for name in ("deepseek-v3", "deepseek-v3.2")
    )
    assert float(sparse) < float(dense)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(("deepseek-v3.2", "glm-5", "glm-5.2")), st.sampled_from(("hgx-h100", "gb200-nvl72")),
    log_uniform(64, 8192),
    st.lists(log_uniform(4096, 131072), min_size=2, max_size=2).map(sorted),
)  # fmt: skip
def test_prompts_that_choose_keys_pay_for_the_choice_and_not_for_the_context(name, machine, tokens, cached):
    setup = setup_of(catalog.machine(machine), (name, ServePlan(tp=8, moe_tp=8)))

    def core(held):
        timeline = step(setup, prefill_batch(sequences=1.0, length=tokens, cached=held))
        return next(each for each in timeline.slices if each.label == "attention core (prefill)")

    near, far = (core(held) for held in cached)
    assert near.seconds == far.seconds
    assert near.op.pairs == tokens * 2048.0  # as many as these models choose
    assert near.op.kv_heads == 1


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(CASES), st.integers(0, 4), log_uniform(1, 2048), st.floats(0, 1e-2), st.floats(0, 1e-3))
def test_a_scheduler_that_waits_for_drafts_costs_its_host_once_and_by_sequence(case, drafts, sequences, once, each):
    name, plan = case
    setup = setup_of(catalog.machine("gb200-nvl72"), (name, replace(plan, draft_tokens=drafts)))
    serial = replace(setup.stack, draft_host_s=once, draft_sequence_host_s=each)
    waiting = replace(setup, stack=serial, price=cost_model(setup.machine, serial).price)
    batch = decode_batch(sequences=sequences, context=4096.0)
    more = float(step(waiting, batch).seconds) - float(step(setup, batch).seconds)
    assert more == pytest.approx((once + each * sequences) if drafts else 0.0, abs=1e-9)
    prompts = prefill_batch(sequences=1.0, length=1024.0)
    assert step(waiting, prompts).seconds == step(setup, prompts).seconds


@settings(max_examples=40, deadline=None)
@given(cases, log_uniform(1, 64), log_uniform(1, 16384), st.floats(0.5, 1.0), st.floats(1.0, 4.0), st.booleans())
def test_a_lower_clock_slows_what_it_drives_and_no_step_by_more(case, sequences, length, clock, factor, prompts):
    """Never faster, never by more than the clock is lower, all in the waterfall; more work is never faster. A step that
    asks for less than the cube of the clock, of what its chip can do, keeps within the limit as it is."""
    made = prefill_batch(sequences=sequences, length=length)
    batch = made if prompts else decode_batch(sequences=sequences, context=length)
    machine = catalog.machine(case[0])
    cool, hot = (step(setup_of(machine, case[1], clock=each), batch) for each in (1.0, clock))
    assert cool.seconds * (1 - 1e-9) <= hot.seconds <= cool.seconds / clock * (1 + 1e-9)
    assert sum(piece.seconds for piece in hot.slices) == pytest.approx(hot.busy_s, rel=1e-9)
    light = at_peak_s(cool, machine.chip) <= clock**3 * cool.seconds
    assert hot.seconds == pytest.approx(cool.seconds, rel=1e-12) if light else hot.seconds > cool.seconds
    longer = step(setup_of(machine, case[1], clock=clock), prefill_batch(sequences=sequences * factor, length=length))
    assert not prompts or longer.seconds >= hot.seconds * (1 - 1e-9)


@pytest.mark.parametrize("chip", ["a100-80g", "h100", "h20", "mi300x", "rtx-4090", "ascend-910c"])
def test_the_clock_of_bursts_is_that_of_training_where_it_was_measured_and_no_price_has_it(chip):
    part = catalog.chip(chip)
    known = calibration.read("sustained")["profiles"]
    if part.measured and chip in known:
        assert serving_clock(part) == known[chip]["clock"]["clock_ratio"] < 1.0
    else:
        assert serving_clock(part) == 1.0


def test_a_burst_runs_at_the_clock_that_prompts_leave_and_a_loop_does_not():
    """A hundred prompts at once, and a hundred of four clients: the former lose what the limit takes."""
    system = System(stack="vllm@0.11.0", plan=ServePlan(), instances=1)
    trace = fixed(100, 2000, 20)
    seen = {clients: {cut: _ttft(trace, system, clients, cut) for cut in (False, True)} for clients in (100, 4)}
    assert seen[4][True] == seen[4][False]
    assert 1.1 < seen[100][True] / seen[100][False] < 1.0 / serving_clock(catalog.chip("h100"))


def _ttft(trace, system, clients, cut):
    found = (lambda chip: 1.0) if not cut else serving_clock
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taicang.predict.standing.serving_clock", found)
        return float(replay("qwen3-14b", "hgx-h100", trace, system, clients=clients).table["ttft_s"].mean())


@pytest.mark.parametrize(
    ("chip", "lender", "gain"),
    [("mi300x", "h100", 0.81 / 0.90), ("rtx-4090", "l40s", 16 / 15), ("l4", "l40s", 1.0), ("h20", "h100", 1.0),
     ("mi355x", "b200", 1.0)],
)  # fmt: skip
def test_borrowed_shares_of_bandwidth_are_of_what_memory_yields(chip, lender, gain):
    """Streams of data on a chip that borrows constants, over those at the lender's share of its own bandwidth."""
    stack, part = catalog.stack("vllm"), catalog.chip(chip)
    assert part.profile == lender
    seen = cost_model(catalog.machine(f"1x {chip}"), stack).machine.chip.memory.bandwidth_bytes_per_s
    assert seen == pytest.approx(part.memory.bandwidth_bytes_per_s * gain)
    measured = catalog.machine("hgx-h100")
    assert cost_model(measured, stack).machine.chip.memory == measured.chip.memory


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from((("qwen3-235b-a22b", ServePlan(tp=8, moe_tp=8)), ("llama-3.1-8b", ServePlan()))),
    log_uniform(1, 256), log_uniform(64, 32768), log_uniform(1, 2048), st.floats(1.01, 4.0),
)  # fmt: skip
def test_a_lone_token_beside_prompts_has_a_tile_of_its_own_in_a_kernel_for_both(case, sequences, context, tokens, more):
    """FlashAttention-2 off Hopper; elsewhere a kernel of their own packs the heads of a group."""
    setup = setup_of(catalog.machine("hgx-a100"), case)
    joint = replace(setup, stack=replace(setup.stack, joint_attention=True))

    def seconds(of, sequences=sequences, context=context, tokens=tokens):
        prompt = prefill_batch(sequences=1.0, length=tokens)
        return float(step(of, replace(prompt, decode_sequences=sequences, decode_context=sequences * context)).seconds)

    assert seconds(joint, sequences=0.0) == seconds(setup, sequences=0.0)
    alone = decode_batch(sequences=sequences, context=context)
    assert step(joint, alone).seconds == step(setup, alone).seconds
    for longer in ({"sequences": sequences * more}, {"context": context * more}, {"tokens": tokens * more}):
        assert seconds(joint, **longer) >= seconds(joint) * (1 - 1e-9)
    # 64 rows of a tile for one, of each query head: what its share of the peak makes of it, at least
    extra = 64 * sequences * context * 4 * 128 * 32 * 32 / 312e12
    if case[0] == "llama-3.1-8b":
        assert seconds(joint) > extra
    if sequences * context > 2**19:
        assert seconds(joint) > seconds(setup)


def test_which_engines_have_one_attention_kernel_for_both():
    for on, stack, joint in (
        ("hgx-a100", "vllm@0.11.0", True), ("l40s-pcie", "vllm@0.11.0", True), ("hgx-h100", "vllm@0.11.0", False),
        ("hgx-b200", "vllm@0.11.0", False), ("hgx-a100", "sglang@0.5.9", False), ("hgx-a100", "vllm@0.6.5", False),
    ):  # fmt: skip
        assert settle(System(stack=stack), "qwen3-8b", on)[2].joint_attention is joint
