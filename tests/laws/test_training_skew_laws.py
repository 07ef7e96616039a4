"""Uneven routing in training: over machines, models and sizes it never saves time or memory, and evenness is free."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.costing import training_price
from taicang.catalog.models import model
from taicang.train.setup import Setup
from taicang.train.step import TrainStep, train_step
from taicang.train_plans import TrainPlan

NETS = ("mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v2-lite")


def _step(name: str, net: str, plan: TrainPlan) -> TrainStep:
    machine, engine = catalog.machine(f"{name} x 2"), catalog.stack("megatron")
    whole = replace(plan, dp=machine.ranks // plan.tp, global_batch=2 * machine.ranks)
    price = training_price(machine, engine)
    return train_step(Setup(model=model(net), plan=whole, machine=machine, stack=engine, price=price))


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(("hgx-h100", "hgx-a100", "hgx-b200", "atlas-800-a2")), st.sampled_from(NETS),
    st.sampled_from((2, 4, 8)), st.sampled_from((1024, 4096)), st.floats(0.05, 1.2), st.floats(0.05, 1.2),
)  # fmt: skip
def test_uneven_experts_never_help(name: str, net: str, ep: int, seq: int, one: float, other: float) -> None:
    plan = TrainPlan(ep=ep, seq=seq)
    even, less, more = (_step(name, net, replace(plan, skew=skew)) for skew in (0.0, *sorted((one, other))))
    for low, high in ((even, less), (less, more)):
        assert high.seconds >= low.seconds * (1 - 1e-9)
        assert float(high.memory.total_bytes) >= float(low.memory.total_bytes) * (1 - 1e-9)


def test_dense_models_do_not_mind() -> None:
    even, uneven = (_step("hgx-h100", "llama-3-8b", TrainPlan(tp=2, skew=skew)) for skew in (0.0, 1.0))
    assert even.seconds == uneven.seconds
