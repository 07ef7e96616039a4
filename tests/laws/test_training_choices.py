"""Laws of a plan's choices: placement, overlap, optimizer formats, stages; each moves time and memory the right way."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import permutations
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.costing import cost_model, sustained, training_price
from taicang.catalog.models import model
from taicang.cost.sustained import under_load
from taicang.errors import InvalidPlan, UnknownName
from taicang.hardware import Machine, Plane
from taicang.ops import GroupedGemm
from taicang.search.training import Training, changed, settle
from taicang.stacks import Stack
from taicang.train.flops import model_flop, recomputed_flop
from taicang.train.overlap import Halves, Piece, beside, paired_s, walk
from taicang.train.placement import placed
from taicang.train.remedies import _changes, remedies
from taicang.train.setup import Setup
from taicang.train.stages import shares
from taicang.train.step import TrainStep, train_step
from taicang.train.sync import BUCKETS, exposed
from taicang.train_plans import AXES, TrainPlan, recipe

SECONDS = st.floats(1e-6, 1e2)
DENSE = TrainPlan(tp=2, cp=2, pp=2, dp=4, global_batch=32, seq=8192)
ROUTED = TrainPlan(pp=4, dp=8, ep=8, global_batch=128, recompute="full", recipe=recipe("fp8"))


@cache
def _machine(name: str = "hgx-h100 x 4") -> Machine:
    return catalog.machine(name)


def _step(
    plan: TrainPlan, net: str = "llama-3-8b", machine: Machine | None = None, stack: Stack | None = None
) -> TrainStep:
    at, engine = machine or _machine(), stack or catalog.stack("nemo")
    return train_step(Setup(model=model(net), plan=plan, machine=at, stack=engine, price=training_price(at, engine)))


def _flat(machine: Machine) -> Machine:
    level = replace(machine.planes["scale_up"].levels[0], ranks=machine.ranks)
    return replace(machine, planes={"scale_up": Plane(name="scale_up", levels=(level,))})


@pytest.mark.parametrize("net", ["llama-3-8b", "qwen3-30b-a3b"])
def test_a_flat_fabric_is_indifferent_to_the_order_of_axes(net: str) -> None:
    """Equal axes may change places, whichever they are; only latencies of nested groups may differ a little."""
    plan = replace(DENSE, ep=4, etp=1) if "a3b" in net else DENSE
    flat = _flat(_machine())
    free = replace(catalog.stack("nemo"), overlap_tax_ratio=0.0)  # else what is hidden shows those latencies too
    times = []
    for order in permutations(AXES):
        try:
            times.append(_step(replace(plan, order="-".join(order)), net, flat, free).seconds)
        except InvalidPlan:  # experts and dense layers would have different stages
            continue
    assert len(times) >= 24
    assert max(times) == pytest.approx(min(times), rel=2e-3)


def test_levels_make_the_order_matter() -> None:
    """Tensor parallelism belongs inside a node."""
    plan = TrainPlan(tp=8, cp=1, pp=1, dp=4, global_batch=32, seq=8192)
    inner, outer = (_step(replace(plan, order=order)).seconds for order in ("tp-cp-ep-dp-pp", "dp-cp-ep-tp-pp"))
    assert inner < outer


def test_placement_names_the_levels_that_an_axis_crosses() -> None:
    machine = _machine("cloudmatrix384 x 4")
    rows = {one.axis: one for one in placed(TrainPlan(tp=16, pp=4, dp=48, global_batch=48), machine)}
    assert rows["tp"].together == (("package", 2.0), ("node", 16.0))
    assert rows["dp"].together == (("supernode", 48.0),)
    assert rows["pp"].together == (("scale_out", 4.0),)


@settings(max_examples=50, deadline=None)
@given(network=SECONDS, compute=SECONDS, pieces=st.integers(1, 64))
def test_the_closed_form_is_the_timeline(network: float, compute: float, pieces: int) -> None:
    """A product in chunks, each of which a piece of the collective then takes away: the last piece stands alone."""
    row: list[Piece] = []
    for i in range(pieces):
        row.append(Piece("compute", compute / pieces))
        row.append(Piece("network", network / pieces, (2 * i,)))
    walked = walk(row)[-1] - compute
    formula = beside(network, compute, pieces=pieces, tax=0.0)
    # where the network is longer its pieces follow the first chunk without a gap; the formula lets all computing hide
    assert formula <= walked + 1e-9
    assert walked == pytest.approx(max(formula, network - compute * (1.0 - 1.0 / pieces)), rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(network=SECONDS, more=st.floats(1.0, 3.0), compute=SECONDS, tax=st.floats(0.0, 1.0))
def test_overlap_is_monotone_and_never_beats_the_longer(
    network: float, more: float, compute: float, tax: float
) -> None:
    one = beside(network, compute, pieces=8, tax=tax)
    assert beside(network * more, compute, pieces=8, tax=tax) >= one - 1e-12
    assert compute + one >= max(network, compute) - 1e-9
    assert beside(network, compute, pieces=8, tax=0.0) <= one
    column = beside(np.array([network, network * more]), np.array([compute, compute]), pieces=8, tax=tax)
    assert column[0] == one


@given(SECONDS, SECONDS, st.floats(0.0, 1.0), st.integers(1, 8), st.integers(1, 64))
def test_a_chunk_s_share_hides_behind_the_next_and_the_last_behind_its_own_pass(
    network: float, window: float, tax: float, vpp: int, rounds: int
) -> None:
    """Of the last chunk's share one bucket is always seen; what hides slows what hides it."""
    found = exposed(network, window, tax, hidden=True, vpp=vpp, rounds=float(rounds))
    last, others = network / vpp * (1.0 - 1.0 / BUCKETS), network * (vpp - 1) / vpp
    room, more = window / vpp, window * (vpp - 1) / vpp * rounds
    seen = network / vpp / BUCKETS + max(last - room, 0.0) + max(others - more, 0.0)
    assert found == pytest.approx(seen + tax * (min(last, room) + min(others, more)), rel=1e-6)
    assert exposed(network, window, tax, hidden=False, vpp=vpp) == network


@settings(max_examples=50, deadline=None)
@given(parts=st.lists(SECONDS, min_size=8, max_size=8))
def test_pairs_lie_between_the_longest_engine_and_one_after_the_other(parts: list[float]) -> None:
    names = ("outside_s", "experts_s", "there_s", "back_s")
    ahead, behind = (Halves(**dict(zip(names, half, strict=True))) for half in (parts[:4], parts[4:]))
    period = paired_s(ahead, behind, tax=0.0)
    computing = sum(parts[0:2]) + sum(parts[4:6])
    network = sum(parts[2:4]) + sum(parts[6:8])
    assert period >= max(computing, network) - 1e-9
    assert period <= computing + network + 1e-9
    assert paired_s(ahead, behind, tax=0.2) >= period


def test_pairs_and_shared_experts_hide_exchanges() -> None:
    nemo = catalog.stack("nemo")
    net = "deepseek-v2-lite"
    plain = _step(ROUTED, net)
    paired = _step(ROUTED, net, stack=changed(nemo, ("+expert_exchange",)))
    shared = _step(ROUTED, net, stack=changed(nemo, ("+shared_expert",)))
    assert paired.spent["expert"] < plain.spent["expert"]
    assert shared.spent["expert"] < plain.spent["expert"]
    assert min(paired.spent.values()) >= -1e-9
    dual = _step(replace(ROUTED, schedule="dualpipe"), net)
    assert dual.spent["expert"] < plain.spent["expert"]
    assert dual.spent["bubble"] < plain.spent["bubble"]
    assert float(dual.memory.weights_bytes) > 1.5 * float(plain.memory.weights_bytes)


def test_communication_beside_it_slows_computing() -> None:
    slower = replace(_machine(), overlap_tax_ratio=0.2)
    assert _step(DENSE, machine=slower).seconds > _step(DENSE).seconds
    nothing = changed(catalog.stack("nemo"), ("none",))
    assert _step(DENSE, machine=slower, stack=nothing).seconds == pytest.approx(
        _step(DENSE, stack=nothing).seconds, rel=0.02
    )


@pytest.mark.parametrize("word", ["tensor", "gradients", "parameters", "pipeline"])
def test_no_overlap_is_never_faster(word: str) -> None:
    less = changed(catalog.stack("nemo"), (f"-{word}",))
    assert _step(DENSE, stack=less).seconds >= _step(DENSE).seconds


def test_overlap_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UnknownName, match="tensor"):
        changed(catalog.stack("nemo"), ("+tensr",))


def test_smaller_optimizer_state_is_smaller_and_faster() -> None:
    one = _step(DENSE)
    for less in ({"moments": "bf16"}, {"moments": "fp8", "master": "none"}, {"master": "remainder"}):
        other = _step(replace(DENSE, **less))  # type: ignore[arg-type]
        assert float(other.memory.optimizer_bytes) < float(one.memory.optimizer_bytes)
        assert other.spent["optimizer"] < one.spent["optimizer"]
    wide = _step(replace(DENSE, gradients="fp32"))
    assert float(wide.memory.gradients_bytes) == 2.0 * float(one.memory.gradients_bytes)
    assert wide.spent["gradient reduction"] > one.spent["gradient reduction"]
    for wrong in ({"moments": "fp9"}, {"master": "fp8"}, {"gradients": "int8"}):
        with pytest.raises(UnknownName):
            _step(replace(DENSE, **wrong))  # type: ignore[arg-type]


def test_fsdp_keeps_weights_or_gathers_them_again() -> None:
    plan = TrainPlan(dp=32, zero=3, global_batch=64, seq=2048)
    again, kept = _step(plan), _step(replace(plan, reshard=False))
    assert kept.seconds <= again.seconds
    assert float(kept.memory.total_bytes) > float(again.memory.total_bytes)


def test_stages_by_hand() -> None:
    net = model("llama-3-8b")
    plan = replace(DENSE, tp=1, cp=1, pp=4, dp=8, global_batch=512)
    even, same, lopsided, light = (
        _step(replace(plan, stages=stages)) for stages in ("", "8,8,8,8", "E14,6,6,6L", "E8,9,9,6L")
    )
    assert same.seconds == even.seconds
    assert lopsided.seconds > even.seconds > light.seconds  # the head weighs more than a layer
    assert lopsided.spent["uneven stages"] > even.spent["uneven stages"]
    alone = shares(net, replace(DENSE, pp=4, stages="E,16,16,L"))
    assert [len(share.blocks) for share in alone] == [0, 16, 16, 0]
    assert alone[0].embedding
    assert alone[-1].head
    for wrong in ("8,8,8", "8,8,8,9", "8,E8,8,8", "8,8,8,x", "8L,8,8,8"):
        with pytest.raises(InvalidPlan):
            shares(net, replace(DENSE, pp=4, stages=wrong))


def test_hfu_counts_what_runs_again() -> None:
    net, stack = model("llama-3-8b"), catalog.stack("nemo")
    whole = recomputed_flop(net, replace(DENSE, recompute="full"), stack)
    assert whole == pytest.approx(float(model_flop(net, DENSE.seq, 32.0)) / 3.0, rel=0.08)  # all but the head
    half = recomputed_flop(net, replace(DENSE, recompute="full", recompute_ratio=0.5), stack)
    core = recomputed_flop(net, replace(DENSE, recompute="selective"), stack)
    assert half == 0.5 * whole
    assert 0.0 < core < half
    assert recomputed_flop(net, DENSE, stack) == 0.0


@pytest.mark.parametrize("context", ["ring", "all_gather", "ulysses"])
def test_context_kinds_share_the_sequence(context: str) -> None:
    plan = replace(DENSE, cp=4, dp=2, context=context)  # type: ignore[arg-type]
    step = _step(plan)
    assert step.spent["context"] > 0.0
    whole = _step(replace(plan, cp=1, dp=8))
    assert float(step.memory.activations_bytes) < float(whole.memory.activations_bytes)


def test_expert_tensor_parallelism_has_its_own_data_parallel_group() -> None:
    plan = replace(ROUTED, tp=4, dp=2, pp=4, global_batch=32)
    thin, thick = (_step(replace(plan, ep=2, etp=etp), "qwen3-30b-a3b") for etp in (1, 4))
    assert float(thick.memory.weights_bytes) < float(thin.memory.weights_bytes)
    rows = {one.axis: one.ranks for one in placed(replace(plan, ep=2, etp=1), _machine())}
    assert rows["edp"] == 4


@pytest.mark.parametrize("part", ["mixer", "router", "experts"])
def test_graphs_never_slow_a_step_down(part):
    net, nemo = "qwen3-30b-a3b", catalog.stack("nemo")
    small = replace(ROUTED, micro_batch=1)
    without = _step(small, net, stack=nemo)
    graphs = _step(small, net, stack=changed(nemo, captured=(part,)))
    everything = _step(small, net, stack=changed(nemo, captured=("mixer", "router", "experts")))
    assert everything.seconds <= graphs.seconds <= without.seconds
    assert everything.spent["launch gaps"] == 0.0


def test_a_plain_dispatch_is_never_faster_than_the_best():
    net, nemo = "qwen3-30b-a3b", catalog.stack("nemo")
    plain = replace(nemo, expert_dispatch="plain")
    assert _step(ROUTED, net, stack=plain).seconds >= _step(ROUTED, net, stack=nemo).seconds * (1 - 1e-12)
    free = {"eager_kernel_s": 0.0}  # else a step may wait for the host either way
    assert (
        _step(ROUTED, net, stack=replace(plain, **free)).seconds
        > _step(ROUTED, net, stack=replace(nemo, **free)).seconds
    )


def test_products_in_pieces_cost_no_less_than_whole_ones():
    """User buffers hide collectives, and run products of fewer rows: where communication is free they are no gain."""
    nemo = catalog.stack("nemo")
    for tp in (2, 4, 8):
        plan = replace(ROUTED, tp=tp, ep=1, etp=1, dp=32 // (tp * ROUTED.pp), sp=True)
        whole, pieces = (
            _step(plan, "llama-3-8b", stack=replace(nemo, overlap=nemo.overlap ^ words))
            for words in ({"tensor"}, set[str]())
        )
        assert pieces.spent["products"] >= whole.spent["products"]
        assert pieces.spent["tensor"] <= whole.spent["tensor"]


@pytest.mark.parametrize(("name", "layers"), [("automodel", 0), ("deepspeed", 0), ("nemo", 1), ("megatron", 1)])
def test_layers_of_multi_token_prediction_are_trained_where_the_stack_has_them(name: str, layers: int) -> None:
    asked = Training(model="deepseek-v3", on="hgx-h100 x 32", plan=TrainPlan(dp=256, ep=64, zero=3, global_batch=256),
                     stack=name)  # fmt: skip
    assert settle(asked).model.mtp_layers == layers


@pytest.mark.parametrize(("word", "own"), [("mc2", "tensor"), ("tensor", "tensor")])
def test_words_of_the_trade_mean_what_stacks_call_them(word: str, own: str) -> None:
    stack = catalog.stack("mindspeed")
    assert changed(stack, overlap=(f"-{word}",)).overlap == stack.overlap - {own}
    assert changed(changed(stack, overlap=("none",)), overlap=(f"+{word}",)).overlap == {own}
    assert changed(stack, overlap=(word,)).overlap == {own}


def test_experts_run_one_by_one_where_nothing_groups_them() -> None:
    """The same work, more kernels; nothing that is kept or multiplied changes, and no other fusion."""
    stack = catalog.stack("megatron")
    apart = changed(stack, fused=("-grouped",))
    assert (apart.fused, apart.grouped_experts) == (stack.fused, False)
    assert changed(apart, fused=("+grouped",)) == stack
    plan = TrainPlan(tp=2, dp=16, ep=8, global_batch=64, seq=4096)
    one, many = (_step(plan, "qwen3-30b-a3b", stack=each) for each in (stack, apart))
    assert many.seconds >= one.seconds * (1.0 - 1e-12)  # sums round
    assert float(many.memory.activations_bytes) == pytest.approx(float(one.memory.activations_bytes), rel=0.02)
    with pytest.raises(UnknownName, match="grouped"):
        changed(stack, fused=("-groupd",))


@pytest.mark.parametrize("dtype", ["bf16", "fp8", "fp8_block", "mxfp8"])
@pytest.mark.parametrize("on", ["hgx-h100", "gb200-nvl72", "mi300x-8"])
def test_experts_of_many_rows_reach_what_their_products_reach(on: str, dtype: str) -> None:
    """One library product for each expert is always there; kernels that serve are the faster for few rows."""
    at, engine = catalog.machine(on), replace(catalog.stack("nemo"), kernel_ratio=MappingProxyType({}))
    price, alone = training_price(at, engine), cost_model(under_load(at, sustained(at.chip)), engine).price
    op = GroupedGemm(
        tokens=1024, topk=8, experts=128, experts_local=16, hidden=4096, inter=1536, dtype=dtype, gathered=False
    )
    last = 0.0
    for more in (1, 4, 16, 64, 256):
        each = replace(op, tokens=1024 * more)
        seconds = float(price(each, 1.0, 1.0).seconds)
        flop = 1024 * more * 8 / 8 * 3 * 2 * 4096 * 1536
        assert flop / at.chip.peak("bf16" if dtype == "bf16" else "fp8") <= seconds <= float(alone(each).seconds)
        assert seconds >= last
        biased = replace(each, biased=True)  # on kernels of their own
        assert float(price(biased, 1.0, 1.0).seconds) == float(alone(biased).seconds)
        last = seconds


NAMES = {"recompute_share": "recompute_ratio", "offload_activations": "activations_away_ratio"}
"""Fields that options call by another name."""


@pytest.mark.parametrize(
    ("net", "plan"),
    [
        ("llama-3-70b", TrainPlan(tp=4, dp=16, global_batch=64)),
        ("llama-3-70b", TrainPlan(tp=4, pp=2, dp=8, global_batch=64, micro_batch=4, zero=0)),
        ("mixtral-8x7b", TrainPlan(tp=2, pp=2, dp=16, ep=4, global_batch=128, micro_batch=8, recompute="none")),
    ],
)
def test_what_makes_a_plan_fit_does_so_in_the_time_that_it_says(net: str, plan: TrainPlan) -> None:
    machine, engine = _machine("hgx-h100 x 8"), catalog.stack("nemo")
    setup = Setup(model=model(net), plan=plan, machine=machine, stack=engine, price=training_price(machine, engine))
    found = remedies(setup)
    assert train_step(setup).memory.spare_bytes < 0 < len(found)
    assert [one.seconds for one in found] == sorted(one.seconds for one in found)
    for one in found:
        fields: dict[str, Any] = {key: int(v) if v.isdigit() else v for key, v in said(one.options)}
        fields |= {key: float(fields[key]) for key in NAMES.values() if key in fields}
        changed = replace(plan, **fields)
        assert all(getattr(plan, key) != value for key, value in fields.items() if key != "recompute_ratio")
        step = train_step(replace(setup, plan=replace(changed, dp=64 // (changed.tp * changed.cp * changed.pp))))
        assert (step.seconds, float(step.memory.spare_bytes)) == (one.seconds, one.spare_bytes)
        assert one.spare_bytes >= 0


@given(
    st.builds(
        TrainPlan, dp=st.just(8), pp=st.sampled_from((1, 2)), zero=st.integers(0, 3),
        micro_batch=st.sampled_from((1, 2, 8)), recompute=st.sampled_from(("none", "selective", "full")),
        offload=st.sampled_from(("none", "optimizer")),
        activations_away_ratio=st.sampled_from((0.0, 0.5)), moments=st.sampled_from(("fp32", "bf16")),
    ),
    st.booleans(),
)  # fmt: skip
def test_remedies_are_one_step_further_along_every_knob(plan: TrainPlan, host: bool) -> None:
    setup: Any = SimpleNamespace(plan=plan, machine=SimpleNamespace(planes={"host": None} if host else {}))
    whole = plan.pp == 1  # what is sharded or lies elsewhere is so for data parallelism alone
    offered = {
        "--recompute selective": plan.recompute == "none",
        "--recompute full --recompute-share 0.5": plan.recompute != "full",
        "--recompute full": plan.recompute != "full",
        "--zero 1": plan.zero == 0,
        "--zero 3": plan.zero in (0, 1, 2) and whole,
        "--offload optimizer": plan.offload == "none" and plan.zero in (1, 2, 3) and whole and host,
        "--offload-activations 0.5": plan.activations_away_ratio == 0.0 and host,
        f"--micro-batch {plan.micro_batch // 2}": plan.micro_batch in (2, 8),
        "--moments bf16": plan.moments == "fp32",
    }
    axes = {f"--{axis} {getattr(plan, axis) * wide}" for axis in ("tp", "cp", "pp", "ep") for wide in (2, 4)}
    found = dict(_changes(setup))
    assert set(found) == {text for text, is_so in offered.items() if is_so} | axes
    for text, fields in found.items():
        assert all(float(each) == fields[key] if each[0].isdigit() else each == fields[key] for key, each in said(text))


def said(text: str) -> list[tuple[str, str]]:
    """Fields and values of options."""
    pairs = [word.split() for word in text.removeprefix("--").split(" --")]
    return [(NAMES.get(key.replace("-", "_"), key.replace("-", "_")), value) for key, value in pairs]
