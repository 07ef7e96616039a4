"""Bytes that each stack keeps of a parameter, over its recipes, ZeRO stages and models."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.costing import training_price
from taicang.catalog.models import model, model_names, not_modelled
from taicang.errors import InvalidPlan
from taicang.hardware import Machine
from taicang.lower.training_edges import lower_edges
from taicang.models.count import parameters
from taicang.models.types import Experts
from taicang.search.training import changed
from taicang.train.memory import Held, bucket_bytes, layer_parameters, state_bytes, working_bytes
from taicang.train.setup import Setup
from taicang.train.step import stage_memory, train_step
from taicang.train_plans import RECIPES, TrainPlan, recipe

UNFUSED = ("megatron-classic", "megatron-deepspeed")
DEEPSPEED = ("deepspeed", *UNFUSED)
ACCUMULATE_FP32 = ("megatron", *UNFUSED, "mindspeed", "hai-llm", "mindformers", "torchtitan", "automodel")
STACKS = (*ACCUMULATE_FP32, "nemo", "nemo-mlperf", "primus", "torchtune", "fsdp", "deepspeed", "internevo")
MODELS = ("llama-2-7b", "llama-3-8b", "qwen2.5-7b", "gpt3-175b", "mixtral-8x7b")


@cache
def _machine(name: str) -> Machine:
    return catalog.machine(name)


def _setup(stack: str, net: str, plan: TrainPlan, on: str = "hgx-h100 x 4") -> Setup:
    engine, machine = catalog.stack(stack), _machine(on)
    return Setup(model=model(net), plan=plan, machine=machine, stack=engine, price=training_price(machine, engine))


@given(
    st.sampled_from(STACKS), st.sampled_from(sorted(RECIPES)), st.sampled_from((0, 1, 2, 3)), st.sampled_from(MODELS)
)
def test_gradients_are_those_of_stack_and_recipe(stack: str, form: str, zero: int, net: str) -> None:
    frozen = recipe(form).frozen
    plan = TrainPlan(dp=32, global_batch=32, zero=zero, recipe=recipe(form), trained_ratio=1.0 - frozen)
    plan = _setup(stack, net, plan).plan
    wide = form != "fp16" and stack in ACCUMULATE_FP32
    assert plan.gradient_bytes == (4.0 if wide else 2.0)
    said = replace(plan, gradients="bf16" if wide else "fp32")
    assert _setup(stack, net, said).plan.gradients == said.gradients


@given(
    st.sampled_from(STACKS), st.sampled_from(("bf16", "fp16")), st.sampled_from((0, 1, 2, 3)),
    st.sampled_from((1, 2, 8, 64)), st.floats(1e6, 1e11),
)  # fmt: skip
def test_bytes_a_parameter(stack: str, form: str, zero: int, dp: int, count: float) -> None:
    """On one rank: 16 to 18 bytes, and what DeepSpeed copies; over many no stage keeps more than the one below it."""
    keeps = catalog.stack(stack).keeps
    plan = TrainPlan(dp=dp, zero=zero, recipe=recipe(form), gradients="fp16" if form == "fp16" else keeps.gradients)
    held = Held(dense=count, experts=0.0)
    weights, gradients, optimizer = (float(one) / count for one in state_bytes(held, plan, keeps))
    copies = keeps.sharding == "deepspeed" and zero > 0
    copy = 0.0 if keeps.sharding == "pytorch" and zero == 3 else 2.0  # FSDP2's shard is the 32-bit one
    assert weights + optimizer == pytest.approx(copy / (dp if zero == 3 else 1) + 12.0 / (dp if zero else 1))
    assert gradients >= plan.gradient_bytes / (dp if zero > 1 else 1) * (1 - 1e-12)
    assert (gradients > plan.gradient_bytes / (dp if zero > 1 else 1) * (1 + 1e-12)) == copies
    live = min(count, 1e9) * 2.0 if zero == 3 else 0.0
    assert float(bucket_bytes(held, plan, keeps)) == copies * (min(count, 5e8) * plan.gradient_bytes + live)
    if zero > 1:
        below = replace(plan, zero=zero - 1)
        assert (
            sum(map(float, state_bytes(held, plan, keeps))) <= sum(map(float, state_bytes(held, below, keeps))) * 1.001
        )


@given(
    st.sampled_from(STACKS), st.sampled_from(MODELS[:3]), st.integers(7, 13), st.sampled_from((1, 2, 4)),
    st.sampled_from((0, 1, 2, 3)), st.sampled_from(("none", "full")),
)  # fmt: skip
def test_gradients_come_while_activations_go(
    stack: str, net: str, seq: int, micro: int, zero: int, recompute: str
) -> None:
    """The peak is before or after a lone backward pass; after an earlier microbatch, or in buffers, all is there."""
    plan = TrainPlan(dp=32, micro_batch=1, global_batch=32 * micro, seq=2**seq, zero=zero, recompute=recompute)  # type: ignore[arg-type]
    use = train_step(_setup(stack, net, plan)).memory
    keeps = catalog.stack(stack).keeps
    alone = micro == 1 and not keeps.buffered and (zero == 3 or keeps.sharding != "pytorch")
    assert (float(use.apart_bytes) > 0.0) == alone
    assert float(use.apart_bytes) <= float(use.gradients_bytes)
    state = float(use.weights_bytes + use.optimizer_bytes + use.runtime_bytes)
    late = state + float(use.gradients_bytes)
    assert float(use.total_bytes) >= late
    more = train_step(_setup(stack, net, replace(plan, global_batch=64))).memory
    assert float(use.total_bytes) <= float(more.total_bytes) * (1 + 1e-12)


@given(st.sampled_from((2, 4)), st.sampled_from((1, 2, 4)), st.sampled_from(("none", "full")))
def test_gradients_of_a_sharded_pipeline_come_after_its_warm_up(pp: int, rounds: int, recompute: str) -> None:
    """Where all microbatches are in flight before the first backward pass, no gradient is there yet."""
    plan = TrainPlan(dp=32 // pp, pp=pp, global_batch=32 * rounds, seq=4096, zero=3, recompute=recompute)  # type: ignore[arg-type]
    uses = stage_memory(_setup("torchtitan", "llama-2-7b", plan))
    assert [float(use.apart_bytes) > 0.0 for use in uses] == [rank == 0 and rounds == 1 for rank in range(pp)]


@given(st.sampled_from((2, 4, 8)), st.integers(10, 13))
def test_experts_that_ranks_divide_take_turns_with_their_layer(ep: int, seq: int) -> None:
    """One unit's weights are gathered ahead of the other's, so that a layer's experts are there once, not twice."""
    plan = TrainPlan(dp=32, ep=ep, global_batch=32, seq=2**seq, zero=3, recompute="full", gradients="fp32")
    net, keeps = model("mixtral-8x7b"), catalog.stack("torchtitan").keeps
    held = layer_parameters(net, net.blocks[0], plan)
    whole = replace(held, dense=held.dense + held.experts, experts=0.0)
    apart, joined = (float(working_bytes(0.0, 0.0, each, (0.0, 0.0), plan, keeps)[0]) for each in (held, whole))
    # once less gathered, and no 16-bit gradients beside the buffer that waits for them
    assert joined - apart == pytest.approx(4.0 * held.experts + 6.0 * held.dense)


@pytest.mark.parametrize("stack", STACKS)
def test_recompute_left_open_is_the_stacks(stack: str) -> None:
    plan = TrainPlan(dp=32, global_batch=32, recompute="")
    own = catalog.stack(stack).keeps.recompute
    assert _setup(stack, "llama-2-7b", plan).plan.recompute == own
    assert (own == "full") == (stack in ("deepspeed", "mindformers"))
    assert _setup(stack, "llama-2-7b", replace(plan, recompute="none")).plan.recompute == "none"


@given(st.sampled_from(STACKS), st.sampled_from((1, 2, 4, 8)))
def test_stages_keep_what_they_sent(stack: str, pp: int) -> None:
    """Full recompute keeps a boundary a layer and microbatch in flight; some stacks what the stage sent as well."""
    plan = TrainPlan(pp=pp, dp=32 // pp, global_batch=64 * 32 // pp, seq=2048, recompute="full", zero=1)
    setup = _setup(stack, "gpt3-175b", plan)
    use = stage_memory(setup)[0]
    boundary = 2048 * setup.model.hidden * 2.0
    layers = -(-setup.model.layers // pp) + (setup.stack.keeps.outputs and pp > 1)
    assert float(use.activations_bytes) == pytest.approx(layers * boundary * pp, rel=0.02)


@given(
    st.sampled_from(STACKS), st.sampled_from(MODELS[:3]), st.sampled_from((1, 2, 4, 8)), st.sampled_from((1, 2)),
    st.sampled_from((1, 4, 8)), st.sampled_from(("1f1b", "gpipe", "zb_v")),
)  # fmt: skip
def test_a_last_stage_keeps_logits_to_merge(stack: str, net: str, pp: int, tp: int, micro: int, schedule: str) -> None:
    """Two bytes for each of all microbatches but the one at work, where a stack hands them out as one."""
    schedule = schedule if pp > 1 else "1f1b"
    dp = 32 // pp // tp
    plan = TrainPlan(pp=pp, tp=tp, dp=dp, global_batch=micro * dp, seq=2048, zero=1, recompute="full",
                     schedule=schedule, vpp=2 if schedule == "zb_v" else 1)  # type: ignore[arg-type] # fmt: skip
    setup = _setup(stack, net, plan)
    merged, plain = (
        [float(use.activations_bytes) for use in stage_memory(replace(setup, stack=replace(setup.stack, keeps=keeps)))]
        for keeps in (replace(setup.stack.keeps, merged=flag) for flag in (True, False))
    )
    more = [one - other for one, other in zip(merged, plain, strict=True)]
    logits = 2048 * setup.model.vocab / tp * 2.0
    assert more.pop(0 if schedule == "zb_v" else -1) == pytest.approx((micro - 1) * logits * (pp > 1))
    assert not any(more)
    assert setup.stack.keeps.merged == (stack == "torchtitan")


@given(st.sampled_from([name for name in STACKS if name not in UNFUSED]), st.sampled_from((1, 2, 4)))
def test_logits_fill_the_last_stage(stack: str, micro: int) -> None:
    """Without a loss by pieces each stack's own number of copies; with one fewer, with head and loss fused fewest."""
    plan = TrainPlan(dp=32, global_batch=32 * micro, micro_batch=micro, seq=8192, recompute="full", zero=3)
    setup = _setup(stack, "qwen2.5-7b", plan)
    logits = micro * 8192 * setup.model.vocab * setup.stack.keeps.logit_bytes
    plain = ("-chunked_loss", "-loss_kernel")
    whole, kernel, pieces, fused = (
        float(train_step(replace(setup, stack=changed(setup.stack, fused=words))).memory.working_bytes)
        for words in (plain, (plain[0], "+loss_kernel"), ("+chunked_loss",), ("+fused_loss",))
    )
    assert whole >= logits
    assert whole >= kernel >= fused  # gradients of the head may take more than any of them
    assert whole > pieces >= fused


@given(
    st.sampled_from(STACKS), st.sampled_from(("bf16", "fp8", "fp8_block", "nf4")), st.sampled_from(MODELS),
    st.sampled_from((0, 1, 3)), st.sampled_from((1, 2)),
)  # fmt: skip
def test_frozen_weights_lie_as_they_are_gathered(stack: str, form: str, net: str, zero: int, pp: int) -> None:
    """No copy for gradients or an optimizer; in 4 bits embedding and head stay in 16."""
    if stack in DEEPSPEED and pp > 1:
        return
    plan = TrainPlan(dp=32 // pp, pp=pp, global_batch=64, zero=zero if pp == 1 else 1, recipe=recipe(form),
                     trained_ratio=0.0, recompute="full")  # fmt: skip
    setup = _setup(stack, net, plan)
    count = parameters(setup.model)
    ends = count.embedding + count.head
    each = plan.recipe.gather_bytes
    held = sum(float(use.weights_bytes) for use in stage_memory(setup)) * (plan.dp if plan.zero == 3 else 1)
    tied = count.embedding * (setup.model.tied_embeddings and pp > 1)
    whole = (count.total + tied) * each + (ends + tied) * (2.0 - each) * plan.recipe.frozen
    assert held == pytest.approx(whole, rel=1e-3)
    assert {float(use.gradients_bytes) + float(use.optimizer_bytes) for use in stage_memory(setup)} == {0.0}


@given(st.sampled_from(MODELS[:4]), st.sampled_from((1, 2, 4)), st.sampled_from(("none", "full")))
def test_few_bits_cost_what_makes_them_many(net: str, micro: int, mode: str) -> None:
    """Adapters beside 4-bit weights: less memory than beside 16-bit ones, and time for every pass over the weights."""
    plan = TrainPlan(dp=1, global_batch=micro, micro_batch=1, recompute=mode, trained_ratio=0.0)  # type: ignore[arg-type]
    setups = [_setup("deepspeed", net, replace(plan, recipe=recipe(form))) for form in ("bf16", "nf4")]
    wide, few = (train_step(setup) for setup in setups)
    assert float(few.memory.total_bytes) < float(wide.memory.total_bytes)
    passes = micro * (3 if mode == "full" else 2)
    weights = parameters(setups[0].model).total - setups[0].model.vocab * setups[0].model.hidden * 2
    least = passes * weights * 2.5 / setups[0].machine.chip.memory.bandwidth_bytes_per_s
    assert few.seconds > wide.seconds + least
    with pytest.raises(InvalidPlan, match="--lora"):
        _setup("deepspeed", net, replace(setups[1].plan, trained_ratio=1.0))


@given(
    st.sampled_from([name for name in STACKS if name not in DEEPSPEED]),
    st.sampled_from(MODELS[:3]), st.sampled_from((2, 4, 8)), st.sampled_from((1, 2, 4)), st.booleans(),
)  # fmt: skip
def test_sharded_weights_in_a_pipeline(stack: str, net: str, pp: int, micro: int, reshard: bool) -> None:
    """Gathered once a step and kept, whole gradients too: the time of ZeRO 1, and its state and a shard of weights (of
    FSDP2 that is the 32-bit one of the optimizer's state)."""
    plan = TrainPlan(pp=pp, dp=32 // pp, micro_batch=micro, global_batch=16 * micro * 32 // pp, reshard=reshard)
    one, three = (train_step(_setup(stack, net, replace(plan, zero=zero))) for zero in (1, 3))
    assert three.seconds == pytest.approx(one.seconds)
    assert three.memory.optimizer_bytes == pytest.approx(one.memory.optimizer_bytes)
    shard = float(one.memory.weights_bytes) / plan.dp * (catalog.stack(stack).keeps.sharding != "pytorch")
    assert float(three.memory.weights_bytes) == pytest.approx(float(one.memory.weights_bytes) + shard)
    assert float(three.memory.gradients_bytes) == pytest.approx(float(one.memory.gradients_bytes))


@pytest.mark.parametrize("stack", DEEPSPEED)
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_deepspeed_s_pipelines_shard_the_optimizer_only(stack: str, zero: int) -> None:
    plan = TrainPlan(pp=4, dp=8, global_batch=64, zero=zero)
    if zero > 1:
        with pytest.raises(InvalidPlan, match=f"zero {zero}"):
            _setup(stack, "llama-2-7b", plan)
    else:
        assert _setup(stack, "llama-2-7b", plan).plan.zero == zero


@given(st.integers(6, 13), st.integers(0, 4), st.sampled_from((1, 2, 4)))
def test_recompute_of_the_core_drops_its_scores(seq: int, micro: int, tp: int) -> None:
    """Without flash attention a core that is repeated keeps what flash attention keeps, not scores of every pair."""
    plan = TrainPlan(tp=tp, dp=32 // tp, micro_batch=2**micro, global_batch=2**micro * 32 // tp, seq=2**seq)
    classic = _setup("megatron-classic", "llama-2-7b", replace(plan, recompute="selective"))
    flash = replace(classic, stack=replace(classic.stack, fused=classic.stack.fused | {"flash_attention"}))
    kept, fewer = (float(train_step(one).memory.activations_bytes) for one in (classic, flash))
    assert fewer <= kept <= fewer * 1.25


@given(
    st.sampled_from(STACKS), st.sampled_from(("", "@0.6.0", "@0.8.0")), st.sampled_from((1, 2, 4)),
    st.sampled_from((1, 2, 8)), st.sampled_from((0, 1, 2)), st.sampled_from(("mixtral-8x7b", "llama-2-7b")),
)  # fmt: skip
def test_sharding_of_experts_left_open_is_the_stacks(
    stack: str, version: str, tp: int, ep: int, etp: int, net: str
) -> None:
    """Old Megatron shards them like everything else; whatever the plan says counts before."""
    name = "megatron" + version if version else stack
    routed, plan = net == "mixtral-8x7b", TrainPlan(tp=tp, dp=32 // tp, ep=ep, etp=etp, global_batch=32)
    found = _setup(name, net, plan).plan.etp
    assert found == (etp or (tp if version and routed else 1))


@given(st.sampled_from(STACKS), st.sampled_from(MODELS), st.sampled_from((1, 2, 4)), st.sampled_from(("none", "full")))
def test_operators_one_by_one_take_and_keep_more(stack: str, net: str, tp: int, recompute: str) -> None:
    """Pointwise time alone grows; layers that are made again keep their 16-bit boundary."""
    plan = TrainPlan(tp=tp, dp=32 // tp, global_batch=64, recompute=recompute)  # type: ignore[arg-type]
    setup = _setup(stack, net, plan)
    fused, eager = (
        train_step(
            replace(setup, stack=replace(setup.stack, keeps=replace(setup.stack.keeps, eager=word, added=False)))
        )
        for word in (frozenset[str](), frozenset({"norm", "rope", "activation"}))
    )
    assert eager.spent["pointwise"] > 1.1 * fused.spent["pointwise"]
    assert eager.spent["products"] == pytest.approx(fused.spent["products"])
    grown = float(eager.memory.activations_bytes) / float(fused.memory.activations_bytes)
    assert grown == pytest.approx(1.0) if recompute == "full" else 1.0 < grown < 1.8


@given(
    st.sampled_from(MODELS), st.sampled_from((1, 2, 8)), st.sampled_from((1, 2, 4)), st.sampled_from((2048, 8192)),
    st.sampled_from(STACKS),
)  # fmt: skip
def test_a_fused_loss_holds_as_many_logits_as_hidden_states(net: str, tp: int, micro: int, seq: int, name: str) -> None:
    """Pieces of hidden / vocabulary of the sequence, of the vocabulary that a tensor rank has."""
    made, plan, stack = model(net), TrainPlan(tp=tp, micro_batch=micro, seq=seq), catalog.stack(name)
    kept = {}
    for words in ((), ("fused_loss",)):
        head = lower_edges(made, plan, replace(stack, fused=frozenset(words)))[1]
        kept[words] = sum(float(step.saved_bytes) for step in head.forward if step.label == "cross-entropy")
    smaller = max(made.vocab / tp / made.hidden, 1.0)
    assert kept["fused_loss",] == pytest.approx(kept[()] / smaller)


@given(st.sampled_from(("megatron", "nemo", "torchtitan")), st.sampled_from((1, 2, 4)), st.sampled_from((2048, 8192)))
def test_activations_that_are_made_again_are_not_kept(stack: str, micro: int, seq: int) -> None:
    """Those of experts with biases and without, fused and one operator after the other."""
    for net in ("gpt-oss-20b", "mixtral-8x7b"):
        plan = TrainPlan(dp=8, ep=8, micro_batch=micro, global_batch=8 * micro, seq=seq)
        kept = [
            float(
                train_step(
                    _setup(stack, net, replace(plan, recompute=how, recompute_modules=("act",)))
                ).memory.activations_bytes
            )
            for how in ("none", "selective")
        ]
        assert kept[1] < kept[0]


@pytest.mark.parametrize("name", sorted(set(model_names()) - set(not_modelled())))
def test_matrices_of_a_layer_are_a_mixer_s_two_a_router_s_and_those_of_what_every_token_passes(name: str) -> None:
    net = model(name)
    for block in net.blocks:
        held, each = layer_parameters(net, block, TrainPlan(dp=4, ep=4)), 3 if block.ffn.gated else 2
        routed = isinstance(block.ffn, Experts)
        passed = bool(block.ffn.shared_inter) if routed else True
        assert held.matrices == 2 + routed + each * passed
        assert held.expert_matrices == (each * block.ffn.experts / 4 if routed else 0.0)
