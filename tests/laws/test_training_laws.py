"""Laws of a training step, whatever the constants are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.costing import training_price
from taicang.catalog.models import model
from taicang.errors import InvalidPlan
from taicang.hardware import Machine, Plane
from taicang.lower.training import lower_layer
from taicang.models.types import Dense
from taicang.ops import Collective, Exchange, Gemm, Operator
from taicang.search.training import changed
from taicang.train.flops import model_flop
from taicang.train.layer import _price, layer_time, total
from taicang.train.step import Setup, TrainStep, train_step
from taicang.train_plans import TrainPlan, recipe

NET = model("llama-3-8b")
BASE = TrainPlan(tp=2, cp=2, pp=2, dp=4, vpp=2, global_batch=32, seq=8192)


def _machine(count: int = 4) -> Machine:
    return catalog.machine(f"hgx-h100 x {count}")


def _step(plan: TrainPlan, machine: Machine | None = None, name: str = "nemo") -> TrainStep:
    at = machine or _machine()
    stack = catalog.stack(name)
    return train_step(Setup(model=NET, plan=plan, machine=at, stack=stack, price=training_price(at, stack)))


PLANS = st.builds(
    lambda tp, cp, pp, micro, rounds, zero: TrainPlan(
        tp=tp,
        cp=cp,
        pp=pp,
        dp=32 // (tp * cp * pp),
        micro_batch=micro,
        seq=8192,
        zero=zero,
        global_batch=32 // (tp * cp * pp) * micro * pp * rounds,
    ),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2]),
    st.integers(1, 6),
    st.sampled_from([0, 1, 2]),
)


@settings(max_examples=25, deadline=None)
@given(plan=PLANS)
def test_the_waterfall_sums_to_the_step(plan: TrainPlan) -> None:
    step = _step(plan)
    assert sum(step.spent.values()) == pytest.approx(step.seconds)
    assert all(seconds >= -1e-9 for seconds in step.spent.values())
    assert step.mfu_ratio(_machine().chip.peak("bf16")) < 1.0


@settings(max_examples=25, deadline=None)
@given(plan=PLANS)
def test_recompute_trades_memory_for_time(plan: TrainPlan) -> None:
    kept, core, full = (_step(replace(plan, recompute=mode)) for mode in ("none", "selective", "full"))  # type: ignore[arg-type]
    assert kept.seconds <= core.seconds <= full.seconds
    held = [float(step.memory.activations_bytes) for step in (kept, core, full)]
    assert held == sorted(held, reverse=True)


@settings(max_examples=25, deadline=None)
@given(plan=PLANS)
def test_zero_stages_never_raise_memory(plan: TrainPlan) -> None:
    stages = (0, 1, 2, 3) if plan.pp == 1 else (0, 1, 2)
    sizes = [float(_step(replace(plan, zero=stage)).memory.total_bytes) for stage in stages]
    assert sizes == sorted(sizes, reverse=True)


@settings(max_examples=25, deadline=None)
@given(plan=PLANS, more=st.integers(1, 4))
def test_more_microbatches_never_raise_the_bubble(plan: TrainPlan, more: int) -> None:
    grown = replace(plan, global_batch=plan.global_batch * (1 + more))
    assert _step(grown).bubble_ratio <= _step(plan).bubble_ratio + 1e-9


ENGINES = ("nemo", "nemo-mlperf", "megatron", "primus", "torchtune", "deepspeed", "fsdp", "torchtitan")


@settings(max_examples=25, deadline=None)
@given(plan=PLANS, name=st.sampled_from(ENGINES))
def test_hidden_collectives_slow_what_hides_them(plan: TrainPlan, name: str) -> None:
    """By the same share in every engine that runs them as kernels, and by no more than they last."""
    plan = replace(plan, zero=min(plan.zero, 1), vpp=1)
    stack = catalog.stack(name)
    assert stack.overlap_tax_ratio == catalog.stack("fsdp").overlap_tax_ratio > 0
    at = _machine()
    free, taxed = (
        train_step(Setup(model=NET, plan=plan, machine=at, stack=one, price=training_price(at, one)))
        for one in (replace(stack, overlap_tax_ratio=0.0), stack)
    )
    bare = replace(stack, overlap=stack.overlap - {"gradients", "parameters"})
    alone = train_step(Setup(model=NET, plan=plan, machine=at, stack=bare, price=training_price(at, bare)))
    whole = alone.spent["gradient reduction"] + alone.spent["parameter gather"]
    assert free.seconds <= taxed.seconds <= free.seconds + stack.overlap_tax_ratio * whole * (1 + 1e-9)


@settings(max_examples=15, deadline=None)
@given(tp=st.sampled_from([2, 4, 8]), micro=st.sampled_from([1, 2]), sp=st.booleans())
def test_tensor_collectives_hide_behind_other_products_or_not(tp: int, micro: int, sp: bool) -> None:
    """DTensor's wait where they stand; Megatron's layers hide theirs in the backward pass; pieces hide most."""
    plan = TrainPlan(tp=tp, dp=32 // tp, micro_batch=micro, global_batch=64, sp=sp)
    at, stack = _machine(), catalog.stack("nemo")
    bare = stack.overlap - {"tensor", "tensor_gradients"}
    pieces, hidden, alone = (
        train_step(Setup(model=NET, plan=plan, machine=at, stack=one, price=training_price(at, one))).spent["tensor"]
        for one in (replace(stack, overlap=bare | more) for more in ({"tensor"}, {"tensor_gradients"}, set[str]()))
    )
    assert max(pieces, hidden) < alone
    assert "tensor_gradients" not in catalog.stack("torchtitan").overlap


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("zero", [1, 3])
def test_registered_buffers_take_no_cores(name: str, zero: int) -> None:
    plan = TrainPlan(dp=32, global_batch=64, zero=zero)
    at, stack = _machine(), catalog.stack(name)
    own, registered, free = (
        train_step(Setup(model=NET, plan=plan, machine=at, stack=one, price=training_price(at, one))).seconds
        for one in (stack, changed(stack, overlap=("+registered",)), replace(stack, overlap_tax_ratio=0.0))
    )
    assert own > registered == free


def test_one_rank_has_no_communication() -> None:
    step = _step(TrainPlan(global_batch=4, seq=2048), catalog.machine("hgx-h100"))
    network = ("tensor", "context", "expert", "gradient reduction", "parameter gather", "bubble")
    assert all(step.spent[line] == 0.0 for line in network)


def test_a_flat_fabric_does_not_care_which_equal_axis_is_inner() -> None:
    at = _machine()
    plane = at.planes["scale_up"]
    flat = Plane(name="scale_up", levels=(replace(plane.levels[0], ranks=32),))
    machine = replace(at, planes={"scale_up": flat})
    price = training_price(machine, catalog.stack("nemo"))
    for kind in ("all_gather", "reduce_scatter", "all_to_all"):
        inner, outer = (
            price(Collective(kind=kind, payload_bytes=1e8, ranks=4, stride=stride), 1.0, 1.0) for stride in (1, 4)
        )
        assert inner.seconds == pytest.approx(outer.seconds)


@settings(max_examples=20, deadline=None)
@given(seq=st.sampled_from([512, 4096, 32768]), many=st.integers(1, 64))
def test_flops_are_proportional_to_sequences(seq: int, many: int) -> None:
    assert model_flop(NET, seq, 2.0 * many) == 2.0 * model_flop(NET, seq, 1.0 * many)


def test_backward_products_cost_the_forward_s_flops_twice() -> None:
    """Every FLOP of the linear layers is priced three times: forward, data gradient, weight gradient."""
    at, stack = _machine(1), catalog.stack("nemo")
    counted: list[float] = []
    prices = training_price(at, stack)

    def price(op: Operator, cube: float, vector: float) -> object:
        if isinstance(op, Gemm):
            counted.append(2.0 * op.batch * op.m * op.n * op.k)
        return prices(op, cube, vector)

    small = replace(NET, blocks=(replace(NET.blocks[0], count=1),))
    assert isinstance(small.blocks[0].ffn, Dense)
    train_step(Setup(model=small, plan=TrainPlan(seq=1, global_batch=1), machine=at, stack=stack, price=price))  # type: ignore[arg-type]
    assert sum(counted) == pytest.approx(model_flop(small, 1, 1.0), rel=0.001)


def test_a_faster_recipe_is_faster_and_a_faster_network_too() -> None:
    assert _step(replace(BASE, recipe=recipe("fp8"))).seconds < _step(BASE).seconds
    quick = catalog.machine("hgx-h100 x 4", ("planes.scale_up.scale_out.bandwidth=100 GB/s",))
    assert _step(BASE, quick).seconds <= _step(BASE).seconds


@pytest.mark.parametrize(
    "wrong",
    [
        {"global_batch": 33},
        {"vpp": 40},
        {"ep": 5},
        {"cp": 3, "dp": 1, "global_batch": 32},
        {"dp": 64, "global_batch": 512},
        {"vpp": 2, "global_batch": 12},
        {"tp": 64, "cp": 1, "pp": 1, "vpp": 1, "dp": 1},
    ],
)
def test_illegal_plans_are_refused_by_name(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidPlan):
        _step(replace(BASE, **wrong), _machine(16) if wrong.get("tp") == 64 else None)


def test_experts_exchange_only_beyond_one_rank() -> None:
    routed = model("qwen3-30b-a3b")
    at, stack = _machine(1), catalog.stack("nemo")
    seen: list[Operator] = []
    prices = training_price(at, stack)

    def price(op: Operator, cube: float, vector: float) -> object:
        seen.append(op)
        return prices(op, cube, vector)

    for ep in (1, 8):
        seen.clear()
        plan = TrainPlan(dp=8, ep=ep, global_batch=8)
        train_step(Setup(model=routed, plan=plan, machine=at, stack=stack, price=price))  # type: ignore[arg-type]
        assert any(isinstance(op, Exchange) for op in seen) == (ep > 1)


def test_shard_groups_cost_memory() -> None:
    """HSDP: shards inside a node need more memory than shards over all ranks; one group is no change."""
    plan = TrainPlan(dp=32, global_batch=32, seq=2048, zero=3, recipe=recipe("fp8"))
    whole, inside = _step(plan), _step(replace(plan, shard=8))
    assert float(inside.memory.total_bytes) > float(whole.memory.total_bytes)
    assert _step(replace(plan, shard=32)).seconds == pytest.approx(whole.seconds)


NETS = ("llama-3-8b", "qwen2.5-7b", "gpt3-175b", "mixtral-8x7b", "deepseek-v2-lite", "gemma-2-9b", "nemotron-h-56b")


def _changed(net: str, plan: TrainPlan, name: str, **what: object) -> tuple[TrainStep, TrainStep]:
    """A step without and with ``what`` of its stack's keeping."""
    at, stack = _machine(), catalog.stack(name)
    price = training_price(at, stack)
    one, other = (
        train_step(Setup(model=model(net), plan=plan, machine=at, stack=replace(stack, keeps=keeps), price=price))
        for keeps in (replace(stack.keeps, **dict.fromkeys(what, False)), replace(stack.keeps, **what))  # type: ignore[arg-type]
    )
    return one, other


@settings(max_examples=20, deadline=None)
@given(
    net=st.sampled_from(NETS), name=st.sampled_from(["nemo", "automodel", "deepspeed", "torchtune"]),
    tp=st.sampled_from([1, 2]), mode=st.sampled_from(["none", "full"]),
)  # fmt: skip
def test_more_adapters_cost_time_and_activations(net: str, name: str, tp: int, mode: str) -> None:
    """Beside every linear layer against the attention's alone (routed experts are none); without adapters neither."""
    plan = TrainPlan(tp=tp, dp=32 // tp, global_batch=64, recompute=mode, trained_ratio=0.0)  # type: ignore[arg-type]
    few, many = _changed(net, plan, name, adapters=True)
    assert many.seconds > few.seconds or (net == "mixtral-8x7b" and many.seconds == few.seconds)
    assert float(many.memory.activations_bytes) >= float(few.memory.activations_bytes)
    full, same = _changed(net, replace(plan, trained_ratio=1.0), name, adapters=True)
    assert full.seconds == same.seconds


@settings(max_examples=20, deadline=None)
@given(
    net=st.sampled_from(NETS), name=st.sampled_from(["megatron", "torchtitan", "mindspeed"]),
    pp=st.sampled_from([1, 2]), rounds=st.integers(1, 8), zero=st.sampled_from([0, 1, 3]),
)  # fmt: skip
def test_adding_gradients_up_costs_what_it_moves(net: str, name: str, pp: int, rounds: int, zero: int) -> None:
    """In every microbatch, but for a first one without a buffer, and for gradients that are scattered each time."""
    plan = TrainPlan(pp=pp, dp=32 // pp, global_batch=32 // pp * rounds, zero=zero)
    fused, apart = _changed(net, plan, name, added=True)
    often = rounds - (not catalog.stack(name).keeps.buffered)
    if plan.by_layer or not often:
        assert apart.seconds == fused.seconds
    else:
        least = often * float(fused.parameters) / pp * 6.0 / _machine().chip.memory.bandwidth_bytes_per_s
        assert apart.seconds - fused.seconds > (1.0 if pp == 1 else 0.5) * least


@given(layers=st.integers(1, 6), rounds=st.integers(1, 8), gap=st.floats(1e-6, 1e-1))
def test_a_layer_waits_for_the_host_in_every_microbatch(layers: int, rounds: int, gap: float) -> None:
    at, stack = _machine(), catalog.stack("megatron-deepspeed")
    net = replace(NET, blocks=(replace(NET.blocks[0], count=layers),))
    plan = TrainPlan(dp=32, global_batch=32 * rounds, zero=0)
    none, some = (
        train_step(
            Setup(model=net, plan=plan, machine=at, stack=replace(stack, layer_gap_s=each),
                  price=training_price(at, stack))
        ).spent["launch gaps"]
        for each in (0.0, gap)
    )  # fmt: skip
    assert some - none == pytest.approx(layers * rounds * gap)


@settings(max_examples=10, deadline=None)
@given(
    net=st.sampled_from(["gpt-oss-20b", "gpt-oss-120b", "mixtral-8x7b", "qwen3-30b-a3b"]), ratio=st.floats(1.05, 3.0)
)
def test_experts_with_biases_run_on_kernels_of_their_own(net: str, ratio: float) -> None:
    """A stack's constant for them slows no other experts, and does not add to that of the others."""
    at, plan = _machine(), TrainPlan(ep=8, dp=32, global_batch=64)
    others, own, both = (
        train_step(
            Setup(model=model(net), plan=plan, machine=at, stack=engine, price=training_price(at, engine))
        ).spent["products"]
        for ratios in ({"experts": ratio}, {"experts/biased": ratio}, {"experts": ratio, "experts/biased": 1.0})
        for engine in [replace(catalog.stack("nemo"), kernel_ratio=ratios)]
    )  # fmt: skip
    if net.startswith("gpt-oss"):
        assert own == pytest.approx(others)
        assert both < own
    else:
        assert both == pytest.approx(others)
        assert own < others


@pytest.mark.parametrize(
    ("name", "engine", "plan", "left"),
    [
        ("llama-3-8b", "torchtitan", TrainPlan(dp=8, zero=3), ("feed-forward down",)),
        ("llama-3-8b", "torchtitan", TrainPlan(tp=4, dp=2), ("feed-forward down", "feed-forward all-reduce: scatter")),
        ("llama-3-8b", "automodel", TrainPlan(tp=4, dp=2, sp=False), ("feed-forward all-reduce",)),
        ("qwen3-30b-a3b", "automodel", TrainPlan(ep=8, dp=8), ("unpermute", "combine")),
        ("moonlight-16b-a3b", "automodel", TrainPlan(ep=8, dp=8), ("unpermute", "combine")),
        ("qwen3-30b-a3b", "megatron", TrainPlan(ep=8, dp=8), ()),
    ],
)
def test_recompute_stops_where_the_backward_pass_has_all_it_needs(
    name: str, engine: str, plan: TrainPlan, left: tuple[str, ...]
) -> None:
    machine, stack = _machine(1), replace(catalog.stack(engine), eager_kernel_s=0.0, tensor_kernel_s=0.0)
    layer = lower_layer(model(name), model(name).blocks[-1], plan, stack)
    gone = [step for step in layer.forward if step not in layer.again]
    assert sorted(step.label for step in gone) == sorted(left)
    if stack.keeps.recompute_stops == "moves":
        assert not any(step.saved_bytes for step in gone)
    price = training_price(machine, stack)
    time = layer_time(layer, replace(plan, recompute="full"), stack, lambda op: price(op, 1.0, 1.0))
    exchange = stack.expert_dispatch
    less = sum(float(_price(step.op, lambda op: price(op, 1.0, 1.0), exchange)) for step in gone)
    assert total(time.again) == pytest.approx(total(time.forward) - less, rel=1e-9)
    assert time.rerun_s == total(time.again)


@pytest.mark.parametrize(("tp", "seq"), [(1, 1024), (2, 1024), (2, 32768)])
def test_distributed_tensors_keep_the_host_busy(tp: int, seq: int) -> None:
    """Operators on DTensors take the host longer than small products take the device; large ones hide it again."""
    plan = TrainPlan(tp=tp, dp=8 // tp, sp=False, global_batch=8, seq=seq, trained_ratio=0.0)
    engine, at = catalog.stack("automodel"), _machine(1)
    waits, without = (
        train_step(Setup(model=model("llama-3-8b"), plan=plan, machine=at, stack=one, price=training_price(at, one)))
        for one in (engine, replace(engine, tensor_kernel_s=0.0))
    )
    if tp == 1:
        assert waits.seconds == without.seconds
    elif seq == 1024:
        assert waits.seconds > 1.5 * without.seconds
    else:
        assert waits.seconds < 1.2 * without.seconds


@pytest.mark.parametrize(
    ("name", "stack", "most"),
    [
        ("qwen2.5-7b", "deepspeed", 1.01),
        ("qwen3-30b-a3b", "deepspeed", 1.3),
        ("qwen3-30b-a3b", "deepspeed@0.15.0", 0.0),
    ],
)
def test_zero_3_pays_the_host_for_each_module(name: str, stack: str, most: float) -> None:
    """A layer of few large modules hides its hooks; one of hundreds of experts of three modules each waits for them."""
    plan = TrainPlan(dp=8, zero=3, global_batch=8, seq=8192, recompute="full")
    engine, at = catalog.stack(stack), _machine(1)
    step, without = (
        train_step(Setup(model=model(name), plan=plan, machine=at, stack=one, price=training_price(at, one))).seconds
        for one in (engine, replace(engine, module_hook_s=0.0))
    )
    if most:
        assert step <= most * without
        return
    modules = 48 * (3 * 128 + 3)
    assert 2.5 * modules * engine.module_hook_s < step < without + 3.0 * modules * engine.module_hook_s
