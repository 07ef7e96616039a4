"""What Ascend stacks add to a step: core partition, quantising kernels, waiting, all-reduces beside products."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.catalog.models import model
from taicang.lower import lower
from taicang.plans import Batch, Quantisation, ServePlan, decode_batch, prefill_batch
from taicang.serve.setup import Setup, step
from taicang.serve.steady import together
from taicang.stacks import Stack
from taicang.timeline import Timeline

INT8 = Quantisation(attention="int8", dense="int8", experts="int8", dispatch="int8")
WIDE = ServePlan(dp=16, ep=16, quant=INT8)


def run(stack: Stack, plan: ServePlan, batch: Batch, net: str = "deepseek-r1") -> Timeline:
    machine = catalog.machine("cloudmatrix384")
    setup = Setup(model=model(net), plan=plan, machine=machine, stack=stack, price=cost_model(machine, stack).price)
    return step(setup, batch)


def test_catalogue_holds_what_is_documented_and_what_is_calibrated() -> None:
    infer = catalog.stack("cloudmatrix-infer")
    assert infer.partition == pytest.approx((16 / 24, 32 / 48))
    assert "mla_prolog" in infer.fused
    assert infer.quantise_kernels
    assert infer.straggle_ratio > 1.0
    assert 0.0 < infer.overlap_tax_ratio < 1.0
    assert catalog.stack("xdeepserve").step_host_s == pytest.approx(2e-3)
    assert catalog.stack("vllm-ascend").kernel_ratio["gemm"] > 1.0


def test_a_stream_draws_its_share_of_the_memory_and_never_more_than_all() -> None:
    chip = catalog.chip("ascend-910c")
    whole = chip.memory.bandwidth_bytes_per_s
    third = chip.partition(cube_ratio=1 / 3, vector_ratio=1 / 3, reach_ratio=1.0)
    assert third.memory.bandwidth_bytes_per_s == pytest.approx(whole / 3)
    wide = chip.partition(cube_ratio=2 / 3, vector_ratio=2 / 3, reach_ratio=2.0)
    assert wide.memory.bandwidth_bytes_per_s == whole
    assert chip.partition(cube_ratio=0.5, vector_ratio=0.5).memory.bandwidth_bytes_per_s == whole


def test_quantising_kernels_come_before_eight_bit_products_that_nothing_fuses() -> None:
    stack = catalog.stack("vllm-ascend")
    batch = decode_batch(sequences=4.0, context=1024.0)

    def quantised(one: Stack, plan: ServePlan) -> list[str]:
        tasks = lower(model("deepseek-r1"), plan, batch, one)
        return [task.label for task in tasks if task.label.startswith("quantise")]

    apart = quantised(stack, WIDE)
    assert "quantise for latent down-projection" in apart
    assert "quantise for output projection" in apart
    fused = quantised(replace(stack, fused=frozenset({"mla_prolog"})), WIDE)
    assert "quantise for latent down-projection" not in fused
    assert "quantise for output projection" in fused
    assert quantised(stack, replace(WIDE, quant=Quantisation())) == []
    assert quantised(replace(stack, quantise_kernels=False), WIDE) == []


def test_waiting_lengthens_exchanges_in_decode_and_experts_in_prefill() -> None:
    plain = replace(catalog.stack("vllm-ascend"), eager_kernel_s=0.0)
    late = replace(plain, straggle_ratio=1.5, imbalance_ratio=1.25)
    for batch, labels in (
        (decode_batch(sequences=8.0, context=1024.0), {"dispatch": 1.5, "combine": 1.5, "experts": 1.0}),
        (prefill_batch(sequences=1.0, length=2048.0), {"dispatch": 1.25, "combine": 1.25, "experts": 1.25}),
    ):
        before, after = run(plain, WIDE, batch), run(late, WIDE, batch)
        for old, new in zip(before.slices, after.slices, strict=True):
            assert new.seconds == pytest.approx(old.seconds * labels.get(old.label, 1.0))


def test_a_reduction_beside_its_product_hides_the_shorter_of_the_two() -> None:
    stack = replace(catalog.stack("vllm-ascend"), eager_kernel_s=0.0)
    apart = replace(stack, overlap=stack.overlap - {"matmul_all_reduce"})
    plan = ServePlan(tp=4)
    batch = prefill_batch(sequences=4.0, length=2048.0)
    hidden = run(stack, plan, batch, "llama-3.1-70b").hidden_s
    assert run(apart, plan, batch, "llama-3.1-70b").hidden_s == 0.0
    reductions = [p for p in run(stack, plan, batch, "llama-3.1-70b").slices if p.label.endswith("all-reduce")]
    assert 0.0 < hidden < sum(float(p.seconds) for p in reductions)
    decoding = decode_batch(sequences=8.0, context=512.0)
    assert run(stack, plan, decoding, "llama-3.1-70b").hidden_s == 0.0


def test_expert_layers_launch_more_outside_graphs() -> None:
    stack = replace(catalog.stack("vllm-ascend"), eager_kernel_s=1e-3, expert_launches=1)
    many = replace(stack, expert_launches=21)
    batch = prefill_batch(sequences=1.0, length=16.0)
    plan = ServePlan(tp=4, moe_tp=4)
    extra = float(run(many, plan, batch, "qwen3-30b-a3b").seconds - run(stack, plan, batch, "qwen3-30b-a3b").seconds)
    assert extra == pytest.approx(20 * 48 * 1e-3)


@pytest.mark.parametrize("engine", ["vllm-ascend", "sglang", "xdeepserve"])
@pytest.mark.parametrize(("net", "plan"), [("qwen3-30b-a3b", ServePlan(tp=4, moe_tp=4)), ("deepseek-r1", WIDE)])
def test_an_engine_without_graphs_waits_for_launches_in_every_step(engine: str, net: str, plan: ServePlan) -> None:
    graphs = replace(catalog.stack(engine), eager_kernel_s=5e-5, expert_launches=20, partition=None, graph_tokens=0)
    eager = replace(graphs, graph="eager")
    sizes = np.array([1.0, 16.0, 4096.0])
    for made in (decode_batch(sequences=sizes, context=512.0), prefill_batch(sequences=1.0, length=sizes * 64)):
        captured, launched = (np.asarray(run(stack, plan, made, net).seconds) for stack in (graphs, eager))
        assert np.all(launched >= captured)
        if np.any(np.asarray(made.prefill_tokens) > 0):
            assert np.array_equal(launched, captured), "prompts are never captured"
        else:
            assert launched[0] == pytest.approx(launched[1]), "a short step is as long as its launches"
            assert launched[1] > captured[1]


@pytest.mark.parametrize("net", ["qwen3-8b", "qwen3-next-80b-a3b", "deepseek-r1"])
def test_short_prompts_in_pieces_of_graphs_wait_for_their_attention_alone(net: str) -> None:
    eager = replace(catalog.stack("vllm"), eager_kernel_s=1e-3, graph_tokens=0)
    pieces = replace(eager, graph_tokens=512)
    lengths = np.array([1.0, 64.0, 512.0, 513.0, 4096.0])
    batch = prefill_batch(sequences=1.0, length=lengths)
    plan = ServePlan(tp=8, moe_tp=8)
    before, after = (np.asarray(run(stack, plan, batch, net).seconds) for stack in (eager, pieces))
    assert np.all(after[:3] < before[:3]), "they launch less"
    assert np.array_equal(after[3:], before[3:])
    assert np.all(np.diff(after) >= -1e-12)
    for i, length in enumerate(lengths):
        assert after[i] == run(pieces, plan, prefill_batch(sequences=1.0, length=length), net).seconds


@pytest.mark.parametrize("graph", ["piecewise", "full"])
@pytest.mark.parametrize(("net", "layers"), [("qwen3-4b", 36), ("qwen3-30b-a3b", 48)])
def test_a_captured_decode_step_is_as_long_as_its_attentions_take_the_host(net: str, layers: int, graph: str) -> None:
    """The pieces of graphs around them, or the lengths that each is handed in one graph of the step."""
    pieces = replace(catalog.stack("vllm-ascend"), graph=graph)
    whole = replace(pieces, graph="full", lengths_s=0.0)
    floor = layers * (pieces.piece_s if graph == "piecewise" else pieces.lengths_s)
    sizes = np.array([1.0, 4.0, 2048.0])
    batch = decode_batch(sequences=sizes, context=8192.0)
    plan = ServePlan(tp=4, moe_tp=4)
    without, waited = (np.asarray(run(stack, plan, batch, net).seconds) for stack in (whole, pieces))
    assert waited == pytest.approx(np.maximum(without, floor), rel=1e-12)
    assert waited[0] == pytest.approx(floor)
    assert waited[2] == without[2]
    prompt = prefill_batch(sequences=1.0, length=256.0)
    assert run(pieces, plan, prompt, net).seconds == run(whole, plan, prompt, net).seconds, "prompts are not captured"


@pytest.mark.parametrize(("net", "layers"), [("qwen3-8b", 36), ("deepseek-r1", 61), ("gpt-oss-120b", 36)])
def test_prompts_and_sequences_beside_them_share_the_gap_of_a_layer(net: str, layers: int) -> None:
    stack = replace(catalog.stack("vllm-ascend"), graph="piecewise", graph_tokens=512, piece_s=0.1, eager_kernel_s=1.0)
    some, plan = np.array([0.0, 1.0, 1.0]), ServePlan(tp=8, moe_tp=8)
    batch = together(decode_batch(sequences=some, context=64.0), prefill_batch(sequences=some[::-1], length=16.0))
    assert np.asarray(run(stack, plan, batch, net).seconds) == pytest.approx(layers * 0.1)


def test_arrays_that_mix_steps_with_and_without_prefill_equal_their_elements() -> None:
    stack = replace(catalog.stack("vllm-ascend"), straggle_ratio=1.5, imbalance_ratio=1.25)
    lengths = np.array([0.0, 256.0, 4096.0])
    decoding = decode_batch(sequences=4.0, context=2048.0)
    chunks = prefill_batch(sequences=np.where(lengths > 0, 1.0, 0.0), length=lengths)
    whole = run(stack, WIDE, together(decoding, chunks)).seconds
    for i, length in enumerate(lengths):
        one = together(decoding, prefill_batch(sequences=float(length > 0), length=float(length)))
        assert float(run(stack, WIDE, one).seconds) == whole[i]  # type: ignore[index]


def test_sparse_attention_scores_in_bf16_on_chips_without_fp8() -> None:
    batch = decode_batch(sequences=4.0, context=8192.0)
    timeline = run(catalog.stack("vllm-ascend"), WIDE, batch, "deepseek-v3.2")
    assert any(piece.label == "indexer scores" for piece in timeline.slices)
    stack = catalog.stack("vllm-ascend")
    tasks = lower(model("deepseek-v3.2"), WIDE, batch, stack)
    assert {getattr(task.op, "dtype", "") for task in tasks if task.label == "indexer scores"} == {"bf16"}
    wide = replace(WIDE, quant=Quantisation(attention="fp8_block"))
    tasks = lower(model("deepseek-v3.2"), wide, batch, stack)
    assert {getattr(task.op, "dtype", "") for task in tasks if task.label == "indexer scores"} == {"fp8_block"}


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm"])
def test_constants_fitted_on_other_vendors_chips_are_left_out_on_ascend(engine):
    there, here = catalog.stack(engine, ascend=False), catalog.stack(engine, ascend=True)
    assert there == catalog.stack(engine)
    assert not here.kernel_ratio
    assert here.step_host_s == here.sequence_host_s == here.layer_gap_s == here.eager_kernel_s == 0.0
    assert (here.scheduler, here.burst_ratio, here.memory) == (there.scheduler, there.burst_ratio, there.memory)
    assert catalog.stack("vllm-ascend", ascend=True) == catalog.stack("vllm-ascend")
    assert not catalog.stack("vllm-ascend", ascend=False).kernel_ratio
