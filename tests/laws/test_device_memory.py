"""Device memory as engines count it: what their logs say, and laws that hold for every model, machine and engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from anything import native
from hypothesis import given
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.rules import divided
from taicang.plans import ServePlan
from taicang.predict import Prediction, infer
from taicang.search.choices import quantisation
from taicang.search.door import prepare
from taicang.serve.layout import kinds
from taicang.serve.memory import (
    SEGMENT_BYTES,
    _rounded,
    cache_room,
    engine_share,
    memory_use,
    rank_model,
    room_tokens,
)
from taicang.serve.peak import activation_peak

LOGGED = [
    # vllm-project/vllm issue 21348: both engines on four H100
    ("qwen3-235b-a22b", "fp8", "hgx-h100", "vllm@0.9.0", 4, None, 178_880),
    ("qwen3-235b-a22b", "fp8", "hgx-h100", "sglang@0.5.1", 4, 0.93, 367_404),
    # ai-dynamo/aisimulate pull request 263
    ("deepseek-r1", "auto", "hgx-h200", "sglang@0.5.9", 8, 0.82, 509_000),
    # vllm-project/vllm pull request 10511: 53.29 GiB at 128 KiB a token
    ("llama-3-8b", "bf16", "hgx-h100", "vllm@0.6.5", 1, 0.90, 53.29 * 2**30 / 2**17),
    # vllm-project/vllm issue 13061, pull request 2031
    ("qwen2.5-14b", "bf16", "rtx-4090-pcie", "vllm@0.6.5", 2, 0.98, 81_536),
    ("llama-2-7b", "bf16", "hgx-a100", "vllm-2023", 1, None, 117_616),
]


@pytest.mark.parametrize(("model", "quant", "machine", "stack", "tp", "ratio", "tokens"), LOGGED)
def test_room_is_what_engines_log(model, quant, machine, stack, tp, ratio, tokens):
    found = infer(
        model,
        machine,
        input_tokens=1024,
        output_tokens=128,
        stack=stack,
        memory_ratio=ratio,
        quant=quant,
        plan=ServePlan(tp=tp, moe_tp=tp),
        batch=1,
        drafts=0,
    )
    assert isinstance(found, Prediction)
    assert found.decode.cache_room_tokens == pytest.approx(tokens, rel=0.05)
    assert found.decode.instance_cache_room_tokens == found.decode.cache_room_tokens


ENGINES = ("vllm", "vllm@0.9.0", "vllm@0.6.5", "sglang", "tensorrt-llm", "vllm-ascend", "mindie")
MACHINES = ("hgx-h100", "hgx-a100", "hgx-h200", "gb200-nvl72", "atlas-800i-a2", "cloudmatrix384")
MODELS = ("llama-3.1-8b", "qwen3-32b", "qwen3-30b-a3b", "deepseek-v2-lite")
SIZED = ("rtx-4090-pcie", "l40s-pcie", "hgx-a100-40g", "hgx-h100", "hgx-h200", "hgx-b200", "mi300x-8")
RELEASES = ("sglang@0.4.6", "sglang@0.5.1", "sglang@0.5.9", "vllm@0.9.0", "vllm@0.21.0")
NATIVE = st.sampled_from([(on, engine) for on in MACHINES for engine in native(on, ENGINES)])
WHICH = st.tuples(st.sampled_from(MODELS), NATIVE).map(lambda drawn: (drawn[0], *drawn[1]))


def setup(model, machine, stack, ratio=None, tp=1):
    job = prepare(model, machine, input_tokens=1000, output_tokens=100, stack=stack, memory_ratio=ratio)
    quant = quantisation("auto", job.model, job.machine.chip, job.stack)
    return job.setup(ServePlan(tp=tp, moe_tp=tp, quant=quant))


@given(WHICH, st.floats(0.3, 1.0), st.floats(0.3, 1.0), st.floats(0, 5))
def test_a_larger_share_never_holds_less_and_never_more_than_the_device(which, one, other, exponent):
    tokens = float(10**exponent)
    less, more = (cache_room(setup(*which, ratio), tokens=tokens, context=1050.0)[0] for ratio in sorted((one, other)))
    assert less <= more + 1.0
    assert more < catalog.machine(which[1]).chip.memory.capacity_bytes


@given(WHICH, st.floats(0, 5), st.floats(0, 5))
def test_a_larger_step_never_leaves_more_room(which, one, other):
    few, many = (cache_room(setup(*which), tokens=10**exponent, context=1050.0)[0] for exponent in sorted((one, other)))
    assert many <= few + 1.0


@given(WHICH, st.sampled_from((1, 2, 4, 8)))
def test_whole_segments_cost_less_than_one_for_each_matrix(which, tp):
    """An engine that asks the device what is free sees all that segments lose, one that counts tensors a part of it."""
    made = setup(*which, tp=tp)
    mine, layers = rank_model(made.model, made.plan), sum(block.count for block in made.model.blocks)
    seen, counted = (sum(_rounded(mine, made.plan, apart=apart).values()) for apart in (False, True))
    assert 0.0 <= counted <= seen < layers * 6 * SEGMENT_BYTES[0]


def test_matrices_of_whole_segments_lose_nothing():
    """Qwen3-8B on one rank: 48, 32, 192 and 96 MiB a layer; Qwen3-14B on four: 17.5, 12.5, 85 and 42.5."""
    lost = {}
    for model, tp in (("qwen3-8b", 1), ("qwen3-14b", 4)):
        made = setup(model, "hgx-h100", "sglang", tp=tp)
        for apart in (False, True):
            found = _rounded(rank_model(made.model, made.plan), made.plan, apart=apart)
            lost[model, apart] = float(sum(found.values())) / 2**20
    assert lost == {
        ("qwen3-8b", False): 0.0,
        ("qwen3-8b", True): 0.0,
        ("qwen3-14b", False): 40 * 4.5,
        ("qwen3-14b", True): 40 * 1.5,
    }


@given(st.sampled_from(SIZED), st.sampled_from(RELEASES), st.sampled_from((2, 4, 8)), st.floats(1.0, 1e5))
def test_data_parallel_attention_and_drafts_never_give_an_engine_more(machine, stack, dp, tokens):
    made = setup("deepseek-v2-lite", machine, stack)
    head, whole = made.stack.memory, made.machine.chip.memory.capacity_bytes

    def share(**plan):
        return float(engine_share(head, replace(made.plan, ep=8, moe_tp=1, **plan), whole, tokens))

    assert share(tp=8 // dp, dp=dp) <= share(tp=8)
    assert share(tp=8, draft_tokens=1) <= share(tp=8) <= 1.0
    assert stack not in ("sglang@0.5.1", "sglang@0.5.9") or share(tp=8, draft_tokens=1) < share(tp=8)


def kept(stack, model="kimi-k2", **plan):
    """GiB that SGLang keeps from weights and cache of eight H200."""
    made = setup(model, "hgx-h200", stack)
    whole = made.machine.chip.memory.capacity_bytes
    share = engine_share(made.stack.memory, replace(made.plan, **plan), whole, 1.0)
    return (1.0 - float(share)) * whole / 2**30


def test_groups_of_data_parallel_attention_keep_memory_for_each_sequence_that_graphs_hold():
    """4.5 MiB for each of 512 sequences and eight groups, 3 MiB where fewer than four ranks capture 256."""
    for release in ("0.5.3", "0.5.9", "0.5.11"):
        assert kept(f"sglang@{release}", dp=8) - kept(f"sglang@{release}", tp=8) == pytest.approx(18.0)
        assert kept(f"sglang@{release}", dp=2) - kept(f"sglang@{release}", tp=2) == pytest.approx(1.5)
    assert kept("sglang@0.5.1", dp=8) - kept("sglang@0.5.1", tp=8) == pytest.approx(4.0)


def test_memory_is_divided_as_in_the_release_that_was_asked_for():
    """What SGLang keeps for drafts, by release, whichever answers for the rest; graphs of prompts since 0.5.10."""
    for release, gib in (("0.4.9", 2), ("0.5.7", 2), ("0.5.12", 4), ("0.5.14", 0), ("0.5.23", 0)):
        name = f"sglang@{release}"
        assert kept(name, tp=8, draft_tokens=1) - kept(name, tp=8) == pytest.approx(gib)
    assert kept("sglang@0.5.12", tp=8) - kept("sglang@0.5.9", tp=8) == pytest.approx(1.5)
    assert kept("sglang@0.5.12", "qwen3-32b", tp=8) - kept("sglang@0.5.9", "qwen3-32b", tp=8) == pytest.approx(0.461)


@pytest.mark.parametrize("stack", ENGINES)
def test_arrays_hold_what_each_of_them_holds(stack):
    on = next(name for name in MACHINES if stack in native(name, ENGINES))
    made, sizes = setup("qwen3-32b", on, stack, 0.8, tp=2), np.array([1.0, 8.0, 64.0, 4096.0])

    def spare(size):
        return memory_use(
            made.model, made.plan, made.machine.chip, made.stack.memory, sequences=size, context=1e3, tokens=size
        ).spare_bytes

    assert [spare(size) for size in sizes] == list(np.broadcast_to(spare(sizes), sizes.shape))


def test_cards_on_pcie_need_smaller_buffers_than_those_with_links_of_their_own():
    def group(machine, stack):
        return prepare("qwen3-8b", machine, input_tokens=100, output_tokens=10, stack=stack).stack.memory.group_bytes

    for stack in RELEASES:
        assert {group(name, stack) for name in SIZED[:2]} == {0.15 * 2**30}
        assert all(group(name, stack) > 0.4 * 2**30 for name in SIZED[2:])
    # NCCL connects what is used, where vLLM lets it: 24 channels of two communicators, each with buffers of three kinds
    rings = 2 * 24 * (8 * 512 * 8 * 16 + 120 * 640 * 8 * 8 + 2**22)
    assert group("hgx-h100", "vllm@0.11.0") == pytest.approx(rings, rel=0.01)
    assert group("hgx-h100", "vllm@0.10.2") == group("mi300x-8", "vllm@0.11.0") == 2.01 * 2**30


@given(WHICH, st.sampled_from((1, 2, 4)))
def test_more_ranks_never_hold_more_weights_each_and_hear_from_more(which, tp):
    few, many = (held(setup(*which, tp=each), 1.0) for each in (tp, 2 * tp))
    assert many.weights_bytes <= few.weights_bytes
    assert many.runtime_bytes >= few.runtime_bytes


def held(made, tokens):
    chip, head = made.machine.chip, made.stack.memory
    return memory_use(made.model, made.plan, chip, head, sequences=0.0, context=1.0, tokens=tokens)


KINDS = (*MODELS, "qwen3.5-27b", "gemma-4-26b-a4b", "glm-5.2", "gpt-oss-20b", "nemotron-3-nano-30b-a3b", "kimi-k2.5")


@given(
    st.sampled_from(KINDS),
    NATIVE,
    st.sampled_from((1, 8)),
    st.integers(0, 5),
)
def test_logged_tokens_weights_activations_and_graphs_fit_the_device(model, native_pair, tp, exponent):
    """Counting the layers alone that keep all tokens."""
    made, tokens = setup(model, *native_pair, tp=tp), 10.0**exponent
    use, mine = held(made, tokens), rank_model(made.model, made.plan)
    kept = kinds(made.model, mine, made.plan, made.stack.memory)
    each = sum(float(kind.layers * kind.token_bytes) for kind in kept if kind.window_tokens == np.inf)
    room = room_tokens(made, tokens=tokens, context=4096.0) if use.spare_bytes > 0 else 0.0
    assert room * each <= max(use.spare_bytes, 0.0) * (1 + 1e-9)
    assert use.spare_bytes + use.weights_bytes + use.rest_bytes + use.withheld_bytes == pytest.approx(
        use.capacity_bytes
    )


def peak(model, stack, tokens, tp=1, **changed):
    """Where nothing is sampled."""
    made = setup(model, "hgx-h200", stack, tp=tp)
    net, head = replace(made.model, **changed), replace(made.stack.memory, sampled=0)
    return float(activation_peak(net, rank_model(net, made.plan), made.plan, head, tokens))


def test_peaks_are_of_what_vllm_runs_before_it_sizes_the_cache():
    """The largest image of Qwen3.5, 16,384 tokens of 4 patches, whose feed-forward is 4304 wide; keys and values of
    65,536 cached tokens and 16 heads; two workspaces of a token's experts, one of them of both of their halves."""
    seen = 16384 * 4 * 2 * (1152 + 4304) * 2.0
    assert peak("qwen3.5-27b", "vllm@0.19.0", 512.0) == seen
    assert peak("qwen3.5-27b", "vllm@0.19.0", 512.0, tower_tokens=0) < 0.8 * seen
    assert peak("qwen3.5-27b", "vllm@0.19.0", 512.0, tp=2) < seen
    assert peak("deepseek-r1", "vllm@0.11.0", 0.0, tp=8) == 2**29
    narrow, wide = (peak("qwen3-30b-a3b", f"vllm@{each}", 65536.0) for each in ("0.13.0", "0.14.0"))
    assert wide - narrow == 65536.0 * 8 * 2048 * 2


def test_experts_in_blocks_of_8_bits_have_room_for_whole_tiles():
    """DeepSeek-R1's 256 experts, each of which may leave 127 of 128 rows empty, and 8 of them for each token, in two
    workspaces; vLLM 0.12 leaves these kernels to instances of fewer than 8 ranks."""
    rows, width = 8192 * 8 + 256 * 127, 7168 * 2.0
    plain = peak("deepseek-r1", "vllm@0.12.0", 8192.0, tp=8)
    assert peak("deepseek-r1", "vllm@0.11.2", 8192.0, tp=8) - plain == (2 * rows - 8192 * 8) * width
    assert peak("deepseek-r1", "vllm@0.12.0", 8192.0, tp=4) == peak("deepseek-r1", "vllm@0.11.2", 8192.0, tp=4)
    assert peak("qwen3-30b-a3b", "vllm@0.11.2", 8192.0) == peak("qwen3-30b-a3b", "vllm@0.11.0", 8192.0)


@pytest.mark.parametrize(("machine", "bytes_each"), [("hgx-h200", 512 + 16 + 128 + 132), ("mi355x-8", 512 + 64 + 132)])
def test_sparse_latent_attention_in_8_bits_takes_rows_of_its_own_in_every_layer(machine, bytes_each):
    made = setup("glm-5.2", machine, "sglang@0.5.14", tp=8)
    plan = replace(made.plan, quant=replace(made.plan.quant, kv="fp8"))
    kept = kinds(made.model, rank_model(made.model, plan), plan, made.stack.memory)
    assert sum(float(kind.layers * kind.token_bytes) for kind in kept) == 78 * bytes_each


@given(st.sampled_from(SIZED), st.sampled_from(RELEASES), st.sampled_from((1, 2, 4, 8)))
def test_what_an_engine_keeps_is_a_modest_part_of_any_device(machine, stack, tp):
    made = setup("qwen3-8b", machine, stack, tp=tp)
    head, chip = made.stack.memory, made.machine.chip
    use = memory_use(made.model, made.plan, chip, head, sequences=1.0, context=1e3, tokens=1.0)
    kept = float(use.withheld_bytes + use.rest_bytes) / use.capacity_bytes
    assert 0.05 < kept < 0.31


@given(st.sampled_from(("sglang", "vllm")), st.floats(0.0, 4.0), st.floats(0.0, 4.0))
def test_a_larger_encoder_of_images_never_leaves_more_room(engine, one, other):
    made = setup("qwen3-8b", "hgx-h200", engine)

    def spare(tower):
        net = replace(
            made.model, tower_ratio=tower, tower_tokens=round(1e4 * tower), tower_live=9216, tower_shared=9216
        )
        stack = divided(catalog.stack(engine), made.machine, net)
        use = memory_use(net, made.plan, made.machine.chip, stack.memory, sequences=1.0, context=1e3, tokens=1.0)
        return float(use.spare_bytes)

    small, large = sorted((one, other))
    assert spare(large) <= spare(small) + 1.0
