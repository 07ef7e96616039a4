"""Room for the cache of models whose layers keep different things: what engines log, and laws for all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taicang.models.count import kv_cache_bytes
from taicang.plans import ServePlan
from taicang.search.choices import quantisation
from taicang.search.door import prepare
from taicang.serve.layout import blocks, kinds, logged_tokens, pool_bytes, sequence_bytes
from taicang.serve.memory import cache_room, rank_model, room_tokens

GIB = 2.0**30
MODELS = (
    "qwen3.5-27b", "qwen3.5-35b-a3b", "qwen3-next-80b-a3b", "gpt-oss-20b", "gemma-3-27b", "mimo-v2-flash",
    "llama-4-scout", "nemotron-3-nano-30b-a3b", "qwen3-8b", "deepseek-v2-lite",
)  # fmt: skip
ENGINES = ("vllm@0.21.0", "vllm@0.11.0", "vllm@0.9.0", "vllm-ascend@0.13.0", "sglang@0.5.11", "sglang@0.4.6", "mindie")
WHICH = st.tuples(st.sampled_from(MODELS), st.sampled_from(ENGINES), st.sampled_from((1, 2, 4, 8)))
FORMATS = st.sampled_from(("bf16", "fp8"))


def setup(model, stack, tp=1, kv="bf16", drafts=0):
    machine = "atlas-800i-a3" if "ascend" in stack or stack == "mindie" else "hgx-h200"
    job = prepare(model, machine, input_tokens=1000, output_tokens=100, stack=stack)
    quant = replace(quantisation("auto", job.model, job.machine.chip, job.stack), kv=kv)
    return job.setup(ServePlan(tp=tp, moe_tp=tp, quant=quant, draft_tokens=drafts))


def sides(made):
    return made.model, rank_model(made.model, made.plan), made.plan, made.stack.memory


@pytest.mark.parametrize(
    ("model", "kv", "block"),
    [
        ("qwen3.5-27b", "bf16", 784),  # LMCache/LMCache pull request 5079, of Qwen3.6-27B, whose sizes these are
        ("qwen3.5-27b", "fp8", 1568),  # noonghunna/club-3090 issue 1047
        ("qwen3-next-80b-a3b", "bf16", 544),  # vllm-project/vllm pull request 55096, of heads of these sizes
    ],
)
def test_blocks_are_as_long_as_vllm_logs(model, kv, block):
    held = sides(setup(model, "vllm@0.21.0", kv=kv))
    assert max(blocks(kinds(*held), held[-1]).tokens) == block


@pytest.mark.parametrize(("gib", "tokens"), [(5.98, 567_978), (6.01, 569_878)])
def test_room_in_these_bytes_is_what_vllm_logs(gib, tokens):
    """Of Qwen3.6-35B-A3B with a cache in 8 bits (noonghunna/club-3090 issues 612 and 652), to one block in 300."""
    held = sides(setup("qwen3.5-35b-a3b", "vllm@0.21.0", kv="fp8"))
    found = logged_tokens(*held, spare=gib * GIB, context=131072.0, chunk=8192.0)
    assert found == pytest.approx(tokens, rel=1 / 290)


def test_a_short_request_takes_a_block_of_keys_and_one_for_each_group_of_states():
    """Four of the 72 that vLLM has in 1.73 GiB on each of two ranks: 75,168 tokens, of which it says 5.6% are in use
    (it does without one of them)."""
    held = sides(setup("qwen3.5-122b-a10b", "vllm@0.17.0", tp=2, kv="fp8"))
    pool = blocks(kinds(*held), held[-1])
    taken, number = sequence_bytes(*held, 1000.0) / pool.bytes, 1.73 * GIB // pool.bytes
    assert (taken, round(taken / (number - 1), 3)) == (4, 0.056)
    assert logged_tokens(*held, spare=1.73 * GIB, context=131072.0, chunk=8192.0) == 75_168


@given(WHICH, FORMATS, st.integers(1, 200_000), st.integers(1, 200_000))
def test_a_longer_sequence_never_takes_less(which, kv, one, other):
    held = sides(setup(*which, kv))
    few, many = sorted((one, other))
    assert 0.0 < sequence_bytes(*held, float(few)) <= sequence_bytes(*held, float(many))


@given(WHICH, FORMATS, st.integers(1, 200_000))
def test_no_layout_takes_less_than_the_layers_keep(which, kv, context):
    """With states in the format that layouts are counted in."""
    model, mine, plan, head = sides(setup(*which, kv))
    taken = sequence_bytes(model, mine, plan, replace(head, state_bytes=4.0), float(context))
    layered = [kind.state_bytes for kind in kinds(model, mine, plan, head)]
    kept = kv_cache_bytes(mine, float(context), kv)
    if head.layout == "pools" and any(layered):  # states lie in a pool of a size of its own
        kept = kept - kv_cache_bytes(mine, 0.0, kv)
    assert taken >= kept * (1 - 1e-12)


@given(WHICH, FORMATS, st.floats(0.3, 0.97), st.floats(0.3, 0.97), st.integers(64, 100_000))
def test_room_rises_with_the_share_and_falls_with_the_format(which, kv, one, other, context):
    """An engine of a larger share never says less, nor one whose cache is in fewer bits."""

    def room(ratio, form):
        made = setup(*which, form)
        made = replace(made, stack=replace(made.stack, memory=replace(made.stack.memory, usable_ratio=ratio)))
        return room_tokens(made, tokens=1024.0, context=float(context))

    less, more = sorted((one, other))
    assert 0.0 <= room(less, kv) <= room(more, kv) * (1 + 1e-12)
    assert room(less, "bf16") <= room(less, "fp8") * 1.0001


@given(WHICH, FORMATS, st.integers(64, 100_000))
def test_the_logged_room_is_the_memory_to_a_block(which, kv, context):
    """Room times what it takes is what is left of the device, to rounding."""
    made = setup(*which, kv)
    held = sides(made)
    spare, _ = cache_room(made, tokens=1024.0, context=float(context))
    tokens = room_tokens(made, tokens=1024.0, context=float(context))
    if spare <= 0.0:
        assert tokens == 0.0
        return
    laid = kinds(*held)
    if held[-1].layout == "pools":
        assert tokens * pool_bytes(laid, held[-1])[0] == pytest.approx(spare)
    elif held[-1].layout == "blocks" and any(kind.window_tokens < np.inf or kind.state_bytes for kind in laid):
        pool = blocks(laid, held[-1])
        if held[-1].counts_requests:
            each = pool.of(float(context), held[-1].state_copies, made.stack.chunk_tokens)
            assert 0.0 <= spare - tokens / context * each * pool.bytes <= pool.bytes * (1 + 1e-9)
        else:
            each = min(float(tokens_) for tokens_ in pool.tokens if tokens_)
            assert 0.0 <= spare - tokens / each * sum(pool.groups) * pool.bytes <= pool.bytes * (sum(pool.groups) + 1)
    else:
        assert tokens * sequence_bytes(*held, float(context)) / context == pytest.approx(spare)


@given(st.sampled_from(MODELS), st.sampled_from(ENGINES), FORMATS, st.sampled_from((1, 2, 4)))
def test_drafts_never_leave_more_room(model, stack, kv, tp):
    plain, drafting = (setup(model, stack, tp, kv, drafts) for drafts in (0, 1))
    least = [sequence_bytes(*sides(made), 8000.0) for made in (plain, drafting)]
    assert least[0] <= least[1]


@given(WHICH, FORMATS, st.lists(st.integers(1, 100_000), min_size=1, max_size=5))
def test_arrays_take_what_each_of_them_takes(which, kv, contexts):
    held = sides(setup(*which, kv))
    sizes = np.array(contexts, dtype=float)
    assert list(np.broadcast_to(sequence_bytes(*held, sizes), sizes.shape)) == [
        sequence_bytes(*held, size) for size in sizes
    ]
