"""Mamba-2 layers: counted, lowered and priced."""

from __future__ import annotations

from dataclasses import replace

import pytest

from taicang import catalog
from taicang.catalog.costing import training_price
from taicang.catalog.models import model, of_config
from taicang.errors import InvalidPlan, NotModelled
from taicang.lower.decoder import lower
from taicang.lower.state_space import state_space
from taicang.lower.training import lower_layer, setting_of
from taicang.models.count import kv_bytes_per_token, kv_cache_bytes, prefill_flop
from taicang.models.types import StateSpace
from taicang.ops import Gemm
from taicang.plans import Batch, ServePlan
from taicang.train.step import Setup, train_step
from taicang.train_plans import TrainPlan

NANO = model("nemotron-3-nano-30b-a3b")
MIXER = NANO.blocks[0]
STACK = catalog.stack("nemo@26.04")


def test_the_state_does_not_grow_with_the_context() -> None:
    attention = 6 * 2 * 2 * 128 * 2.0  # six attention layers, two key-value heads of 128, keys and values
    assert kv_bytes_per_token(NANO) == attention
    grown = kv_cache_bytes(NANO, 2000.0) - kv_cache_bytes(NANO, 1000.0)
    assert grown == pytest.approx(1000 * attention)
    states = 23 * (64 * 64 * 128 * 4.0 + (64 * 64 + 2 * 8 * 128) * 3 * 2.0)
    assert kv_cache_bytes(NANO, 0.0) == pytest.approx(states)


def test_prefill_products_are_the_counted_flop() -> None:
    batch = Batch(
        prefill_tokens=4096,
        prefill_sequences=1,
        prefill_pairs=4096 * 4097 / 2,
        prefill_context=4096,
        decode_sequences=0,
    )
    program = lower(NANO, ServePlan(), batch, STACK)
    mixers = [task for task in program if task.block in (0, 1) and task.part == "attention"]
    done = sum(2.0 * t.op.batch * t.op.m * t.op.n * t.op.k * t.repeat for t in mixers if isinstance(t.op, Gemm))
    without = prefill_flop(NANO, 4096.0)
    assert 0.05 * without < done < without


def test_recompute_and_backward_of_the_scan() -> None:
    layer = lower_layer(NANO, MIXER, TrainPlan(ep=8, dp=8, global_batch=8), STACK)
    scans = [step for step in layer.forward if step.rerun]
    assert {step.label for step in scans} == {"short convolution", "chunked scan", "chunk scores", "state passing"}
    for step in scans[1:]:
        assert step.saved_bytes == 0.0
        # forward again, then both gradients of products and one of pointwise kernels
        behind = [one for one in layer.data + layer.weight if one.label == step.label]
        assert len(behind) == (3 if isinstance(step.op, Gemm) else 2)


@pytest.mark.parametrize(("tokens", "rate"), [(4096, 12.1e6), (16384, 12.9e6), (65536, 11.1e6)])
def test_the_forward_kernels_of_the_scan_on_h100(tokens: int, rate: float) -> None:
    """Tokens per second of the five kernels, 128 heads of 64, state of 128, one group, chunks of 256 (vllm-project/vllm
    pull request 27299)."""
    kind = replace(MIXER.attention, heads=128, groups=1, chunk=256)
    plan = TrainPlan(seq=tokens)
    price = training_price(catalog.machine("hgx-h100"), STACK)
    items = {label: op for label, op, _ in state_space(kind, setting_of(NANO, plan, STACK))}
    seconds = sum(price(items[label], 1.0, 1.0).seconds for label in ("chunked scan", "chunk scores", "state passing"))
    assert tokens / seconds == pytest.approx(rate, rel=0.12)


def test_tensor_parallel_ranks_share_heads_and_groups() -> None:
    with pytest.raises(InvalidPlan, match="groups"):
        lower_layer(NANO, MIXER, TrainPlan(tp=16, global_batch=1), STACK)
    one = lower_layer(NANO, MIXER, TrainPlan(tp=1, global_batch=1), STACK).forward
    two = lower_layer(NANO, MIXER, TrainPlan(tp=2, global_batch=1), STACK).forward
    entry = {len(steps): next(s.op for s in steps if s.label == "state-space projection") for steps in (one, two)}
    widths = sorted(op.n for op in entry.values() if isinstance(op, Gemm))
    assert widths == [pytest.approx(widths[1] / 2), widths[1]]


def test_a_hybrid_trains() -> None:
    machine = catalog.machine("hgx-b200")
    plan = TrainPlan(ep=8, dp=8, global_batch=64, seq=8192)
    step = train_step(Setup(model=NANO, plan=plan, machine=machine, stack=STACK, price=training_price(machine, STACK)))
    assert 0.0 < step.mfu_ratio(2250e12) < 1.0


def test_patterns_that_cannot_be_said_are_refused() -> None:
    config = {
        "model_type": "nemotron_h", "hidden_size": 512, "vocab_size": 1000, "hybrid_override_pattern": "M-*-M",
        "num_hidden_layers": 5, "intermediate_size": 1024, "mamba_num_heads": 16, "mamba_head_dim": 64,
        "ssm_state_size": 64, "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 4096,
    }  # fmt: skip
    made = of_config(config, "test")
    assert [block.count for block in made.blocks] == [1, 1, 1]
    assert isinstance(made.blocks[0].attention, StateSpace)
    with pytest.raises(NotModelled, match="without a mixer"):
        of_config(config | {"hybrid_override_pattern": "M--*-"}, "test")
    with pytest.raises(NotModelled, match="'X'"):
        of_config(config | {"hybrid_override_pattern": "M-*-X"}, "test")
