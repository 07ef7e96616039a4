"""Laws of sequences that are packed of documents, or hold one and padding."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.grounds import trained
from taicang.catalog.trust import band, novelty, table
from taicang.errors import InvalidPlan
from taicang.lower.training import lower_layer
from taicang.models.types import GroupedQuery
from taicang.ops import Attend
from taicang.search.training import Training, settle
from taicang.train.step import TrainStep, train_step
from taicang.train_plans import TrainPlan

MODELS = ("llama-3-8b", "qwen3-30b-a3b", "deepseek-v2-lite", "gpt-oss-20b")
LENGTHS = st.floats(256.0, 8192.0)
"""From two tiles of queries on: shorter documents leave tiles empty, so that many may take longer than few."""
SPREADS = st.floats(0.0, 3.0)


def step(plan: TrainPlan, name: str = "llama-3-8b", stack: str = "nemo") -> TrainStep:
    return train_step(settle(Training(model=name, on="hgx-h100", plan=plan, stack=stack)))


def packed(length: float, spread: float = 0.0, **more: int) -> TrainPlan:
    return TrainPlan(dp=8 // more.get("cp", 1), global_batch=16, seq=8192, document_tokens=length,
                     document_spread_ratio=spread, **more)  # type: ignore[arg-type]  # fmt: skip


def pairs(plan: TrainPlan, stack: str = "nemo") -> float:
    """Query-key pairs of one layer of one microbatch on all context-parallel ranks."""
    made = settle(Training(model="llama-3-8b", on="hgx-h100", plan=plan, stack=stack))
    layer = lower_layer(made.model, made.model.blocks[0], made.plan, made.stack)
    return float(sum(each.op.pairs for each in layer.forward if isinstance(each.op, Attend))) * plan.cp


@given(st.lists(st.integers(16, 4000), min_size=1, max_size=40), st.sampled_from((1, 2)))
def test_pairs_are_the_sum_over_the_documents(lengths: list[int], cp: int) -> None:
    """Mean and spread are enough: any lengths have the pairs that they have one by one."""
    mean = sum(lengths) / len(lengths)
    square = sum(each**2 for each in lengths) / len(lengths)
    plan = packed(mean, max(square / mean**2 - 1.0, 0.0) ** 0.5, cp=cp)
    assume(square / mean < plan.seq)
    one_by_one = sum(each * (each + 1) / 2 for each in lengths) * plan.seq / sum(lengths)
    assert pairs(plan) == pytest.approx(one_by_one, rel=1e-9)


@given(st.sampled_from(MODELS), LENGTHS, LENGTHS, SPREADS)
def test_longer_documents_take_longer(name: str, one: float, other: float, spread: float) -> None:
    """From nothing but the projections up to the whole sequence, which is the plan that says nothing of documents."""
    short, long = sorted((one, other))
    found = [step(packed(length, spread), name) for length in (short, long)]
    whole = step(replace(packed(1.0), document_tokens=0.0), name)
    assert found[0].seconds <= found[1].seconds * (1 + 1e-9)
    assert found[1].seconds <= whole.seconds * (1 + 1e-9)
    assert found[0].flop <= found[1].flop * (1 + 1e-9) <= whole.flop * (1 + 2e-9)
    assert found[0].tokens_per_s * found[0].seconds == pytest.approx(16 * 8192)
    for line in ("products", "pointwise", "optimizer"):
        assert found[0].spent[line] == pytest.approx(whole.spent[line])


@given(st.sampled_from(MODELS), LENGTHS, SPREADS, SPREADS)
def test_spread_lengths_take_longer_than_equal_ones(name: str, length: float, one: float, other: float) -> None:
    less, more = (step(packed(length, spread), name) for spread in sorted((one, other)))
    assert less.seconds <= more.seconds * (1 + 1e-9)


@given(st.sampled_from(MODELS), LENGTHS)
def test_padding_is_computed_and_thrown_away(name: str, length: float) -> None:
    """As long as whole sequences, for as many tokens as the documents have: never faster than packing them."""
    plan = packed(length)
    pad, pack, whole = (
        step(each, name) for each in (replace(plan, padded=True), plan, replace(plan, document_tokens=0.0))
    )
    assert pad.seconds == whole.seconds
    assert pad.tokens_per_s == pytest.approx(whole.tokens_per_s * length / plan.seq)
    assert pad.tokens_per_s <= pack.tokens_per_s * (1 + 1e-9)
    assert pad.mfu_ratio(1.0) <= pack.mfu_ratio(1.0) * (1 + 1e-9)


def test_scores_that_pass_through_memory_are_all_made() -> None:
    plan = packed(500.0)
    found, whole = (step(each, stack="megatron-classic") for each in (plan, replace(plan, document_tokens=0.0)))
    assert found.seconds == whole.seconds


@given(st.sampled_from((64, 1024, 8192)), LENGTHS)
def test_a_window_bounds_what_documents_see(window: int, length: float) -> None:
    net = settle(Training(model="llama-3-8b", on="hgx-h100", plan=packed(length), stack="nemo"))
    block = net.model.blocks[0]
    assert isinstance(block.attention, GroupedQuery)
    narrow = replace(block, attention=replace(block.attention, window=window))
    seen = [
        float(sum(each.op.pairs for each in lower_layer(net.model, one, net.plan, net.stack).forward
                  if isinstance(each.op, Attend)))
        for one in (narrow, block)
    ]  # fmt: skip
    assert seen[0] <= seen[1] * (1 + 1e-9)
    assert seen[0] == pytest.approx(seen[1]) or window < length


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"document_tokens": 9000.0}, "at most"),
        ({"document_tokens": -5.0}, "at least 1"),
        ({"document_tokens": float("nan")}, "at least 1"),
        ({"padded": True}, "--documents"),
        ({"document_spread_ratio": 1.0}, "mean"),
        ({"document_tokens": 99.0, "document_spread_ratio": -1.0}, "vary"),
        ({"document_tokens": 99.0, "document_spread_ratio": float("inf")}, "vary"),
    ],
)
def test_what_cannot_be_is_refused(more: dict[str, float], said: str) -> None:
    with pytest.raises(InvalidPlan, match=said):
        step(replace(packed(0.0), **more))  # type: ignore[arg-type]


def test_an_engine_that_nobody_measured_is_of_no_known_publisher() -> None:
    """Its band holds what leaving out a publisher cost, beside an engine: more than that of one that many measured."""
    net = settle(Training(model="llama-3-8b", on="hgx-h100", plan=packed(0.0), stack="nanotron"))
    run = trained(net.model, net.machine, net.stack, net.plan)
    pool = table()["step_time"][run.pool]
    assert run.engine not in pool["engines"]
    assert {"engine", "source"} <= set(novelty(run, pool)[0])
    known = replace(run, engine="nemo", version=pool["engines"]["nemo"]["version"][0])
    assert band("step_time", run).wide_ratio > band("step_time", known).wide_ratio > 0.0
    assert catalog.stack("nanotron").keeps.eager == {"activation"}
