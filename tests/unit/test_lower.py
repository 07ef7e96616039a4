"""Lowered operators against the independent count of parameters and FLOPs."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taicang.catalog.models import model, model_names, not_modelled
from taicang.errors import InvalidPlan
from taicang.lower import lower
from taicang.lower.product import split_heads
from taicang.models.count import decode_flop, parameters, prefill_flop
from taicang.models.types import Experts, GatedLinear, StateSpace
from taicang.ops import Attend, Collective, Exchange, Gemm, GroupedGemm, Pointwise
from taicang.plans import Batch, ServePlan, decode_batch, prefill_batch
from taicang.stacks import Stack

STACK = Stack(name="plain", engine="plain", version="1", epoch="2026-01")
MODELS = sorted(set(model_names()) - set(not_modelled()))


def flop(op):
    if isinstance(op, Gemm):
        return 2.0 * op.batch * op.m * op.n * op.k
    if isinstance(op, GroupedGemm):
        return 2.0 * op.tokens * op.topk * op.hidden * op.inter * (3 if op.gated else 2)
    if isinstance(op, Attend):
        return 2.0 * op.pairs * op.heads * (op.qk_dim + op.v_dim)
    return 0.0


def total_flop(program):
    return sum(flop(task.op) * task.repeat for task in program)


@pytest.mark.parametrize("name", MODELS)
def test_decode_flop_equal_the_models_count(name):
    net = model(name)
    program = lower(net, ServePlan(), decode_batch(sequences=1, context=1000.0), STACK)
    linear = any(isinstance(block.attention, GatedLinear | StateSpace) for block in net.blocks)
    # norms, biases and the recurrence of linear attention are priced as bytes, not as matrix products
    assert total_flop(program) == pytest.approx(decode_flop(net, 1000.0), rel=0.05 if linear else 0.02)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-r1", "qwen3-235b-a22b", "gpt-oss-120b", "gemma-2-27b"])
def test_prefill_flop_equal_the_models_count(name):
    net = model(name)
    program = lower(net, ServePlan(), prefill_batch(sequences=1, length=3000.0), STACK)
    assert total_flop(program) == pytest.approx(prefill_flop(net, 3000.0), rel=0.02)


BYTES = {"norm": (6, 8), "rope": (4, 8), "route": (8, 8), "sample": (8, 8), "activation": (2, 6)}
"""What kernels move by element, all their inputs and outputs together."""


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "batch", [decode_batch(sequences=3.0, context=1000.0), prefill_batch(sequences=2.0, length=700.0)]
)
def test_pointwise_kernels_move_a_few_bytes_an_element(name, batch):
    net = model(name)
    states = {b.attention.k_dim for b in net.blocks if isinstance(b.attention, GatedLinear)}
    states |= {b.attention.state_dim for b in net.blocks if isinstance(b.attention, StateSpace)}
    for task in lower(net, ServePlan(), batch, STACK):
        if isinstance(task.op, Pointwise):
            each = task.op.moved_bytes / task.op.elements
            if task.label == "state update":  # every element reads and writes a row of the state in 32 bits
                assert any(each == pytest.approx(8.0 * state, rel=0.05) for state in states)
            elif task.label == "state passing":  # an element is one of a state: two kernels write it, two read it
                assert each == 16.0
            else:
                least, most = BYTES[task.op.kind]
                assert least <= each <= most


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-32b", "mixtral-8x7b", "deepseek-r1"])
def test_tensor_parallel_ranks_share_the_work(name):
    net = model(name)
    batch = decode_batch(sequences=8, context=1000.0)
    one = total_flop(lower(net, ServePlan(), batch, STACK))
    eight = total_flop(lower(net, ServePlan(tp=8, moe_tp=8), batch, STACK))
    # replicated parts (router, latent down-projections) keep the sum above the whole, never below
    assert one <= 8 * eight * (1 + 1e-9)
    assert 8 * eight < 1.6 * one


def test_weights_that_a_step_streams_are_the_weights_counted():
    net = model("llama-3.1-70b")
    program = lower(net, ServePlan(), decode_batch(sequences=1, context=10.0), STACK)
    streamed = sum(op.n * op.k * t.repeat for t in program if isinstance(op := t.op, Gemm))
    counted = parameters(net)
    assert streamed == pytest.approx(counted.total - counted.embedding - counted.norm, rel=1e-3)


def test_one_rank_communicates_with_nobody():
    for name in ("llama-3.1-8b", "deepseek-r1"):
        program = lower(model(name), ServePlan(), decode_batch(sequences=4, context=100.0), STACK)
        assert not [t for t in program if isinstance(t.op, (Collective, Exchange))]


def test_expert_parallel_attention_data_parallel_exchanges_tokens():
    net = model("deepseek-r1")
    plan = ServePlan(dp=8, ep=8, exchange="all_to_all")
    program = lower(net, plan, decode_batch(sequences=4, context=100.0), STACK)
    kinds = {t.op.kind for t in program if isinstance(t.op, Exchange)}
    assert kinds == {"dispatch", "combine"}
    (experts,) = {t.op for t in program if isinstance(t.op, GroupedGemm)}
    assert experts.tokens == 32
    assert experts.experts_local == 32


def test_drafts_lengthen_queries_and_add_draft_layers():
    net = model("deepseek-r1")
    plain = lower(net, ServePlan(), decode_batch(sequences=4, context=100.0), STACK)
    drafted = lower(net, ServePlan(draft_tokens=2), decode_batch(sequences=4, context=100.0), STACK)
    queries = {t.op.queries for t in drafted if isinstance(t.op, Attend) and t.part == "attention"}
    assert queries == {12}
    assert not [t for t in plain if t.part == "draft"]
    draft_attention = [t for t in drafted if isinstance(t.op, Attend) and t.part == "draft"]
    assert sum(t.repeat for t in draft_attention) == 2


def test_mixed_batch_has_both_attention_cores():
    batch = Batch(
        prefill_tokens=512, prefill_sequences=1, prefill_pairs=512 * 513 / 2, prefill_context=512,
        decode_sequences=16, decode_context=16000,
    )  # fmt: skip
    program = lower(model("llama-3.1-8b"), ServePlan(), batch, STACK)
    assert {t.op.phase for t in program if isinstance(t.op, Attend)} == {"prefill", "decode"}
    products = [t.op for t in program if isinstance(t.op, Gemm) and t.part == "attention"]
    assert all(op.m == 528 for op in products)


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (ServePlan(tp=7, moe_tp=7), "tp=7 does not divide 128 .* 4 and 8"),
        (ServePlan(tp=256, moe_tp=256), "tp=256"),
        (ServePlan(dp=8, ep=4), "ep x moe_tp = 4 x 1 = 4"),
        (ServePlan(dp=3, ep=3), "2 more redundant experts"),
        (ServePlan(dp=300, ep=300), "by 44"),
        (ServePlan(pp=100), "by 39"),
    ],
)
def test_impossible_plans_name_the_rule_and_by_how_much(plan, says):
    with pytest.raises(InvalidPlan, match=says):
        lower(model("deepseek-r1"), plan, decode_batch(sequences=4, context=100.0), STACK)


@given(st.integers(1, 200), st.integers(1, 256))
def test_heads_that_ranks_cannot_share_name_the_nearest_that_can(count, tp):
    legal = [n for n in range(1, count + 1) if count % n == 0]
    if tp in legal:
        assert split_heads(count, tp, "heads") * tp == count
        return
    near = sorted([max(n for n in legal if n < tp), *[n for n in legal if n > tp][:1]])
    with pytest.raises(InvalidPlan, match=f"tp={tp} does not divide {count} heads.*: {' and '.join(map(str, near))}$"):
        split_heads(count, tp, "heads")


def test_window_limits_pairs_and_context():
    net = model("gpt-oss-120b")
    program = lower(net, ServePlan(), decode_batch(sequences=2, context=4096.0), STACK)
    contexts = {t.op.context for t in program if isinstance(t.op, Attend)}
    window = next(b.attention.window for b in net.blocks if b.attention.window)
    assert contexts == {2 * 4096.0, 2.0 * window}


def test_windowed_prefill_pairs_equal_the_sum():
    net = model("gpt-oss-120b")
    window = next(b.attention.window for b in net.blocks if b.attention.window)
    length, cached = 500, 77
    batch = prefill_batch(sequences=3.0, length=float(length), cached=float(cached))
    program = lower(net, ServePlan(), batch, STACK)
    pairs = min(t.op.pairs for t in program if isinstance(t.op, Attend))
    assert pairs == pytest.approx(3 * sum(min(cached + i, window) for i in range(1, length + 1)))


def test_experts_shared_by_dedicated_ranks():
    net = model("deepseek-r1")
    plan = ServePlan(dp=320, ep=320, redundant=32, shared_ranks=32, exchange="all_to_all")
    program = lower(net, plan, decode_batch(sequences=96, context=100.0), STACK)
    (experts,) = {t.op for t in program if isinstance(t.op, GroupedGemm)}
    assert experts.topk == 9
    assert experts.experts_local == 1
    assert math.isclose(experts.tokens * experts.topk / experts.experts, 864)
    assert isinstance(net.blocks[-1].ffn, Experts)


def test_the_delta_rule_costs_six_flop_per_state_element_and_token() -> None:
    """A token reads the state (2), adds an outer product to it (2) and reads it out (2): arXiv 2412.06464, eq. 10."""
    net = model("qwen3-next-80b-a3b")
    kind = next(block.attention for block in net.blocks if isinstance(block.attention, GatedLinear))
    batch = decode_batch(sequences=7.0, context=900.0)
    program = lower(net, ServePlan(draft_tokens=1), batch, STACK)
    found = [task.op.flop for task in program if task.label == "state update"]
    assert found
    assert set(found) == {14.0 * kind.v_heads * kind.k_dim * kind.v_dim * 6.0}


@pytest.mark.parametrize("name", MODELS)
def test_ranks_that_share_heads_add_up_the_squares_of_norms_over_all_of_them(name: str) -> None:
    net, batch = model(name), decode_batch(sequences=8, context=1000.0)
    joint = sum(block.count for block in net.blocks if getattr(block.attention, "joint_norm", False))
    tp = next(n for n in (8, 4, 2, 1) if all(getattr(b.attention, "heads", 8) % n == 0 for b in net.blocks))

    def sums(plan: ServePlan) -> list[Collective]:
        try:
            program = lower(net, plan, batch, STACK)
        except InvalidPlan:
            return []
        return [task.op for task in program if task.label == "norm all-reduce" for _ in range(int(task.repeat))]

    assert not sums(ServePlan())
    shared = sums(ServePlan(tp=tp, moe_tp=tp))
    assert len(shared) == (joint if tp > 1 else 0)
    assert all(op.kind == "all_reduce" and op.payload_bytes == 8 * 2 * 4.0 and op.ranks == tp for op in shared)
