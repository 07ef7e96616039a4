"""Experts that run one after the other and look their tokens up, as Hugging Face's models before transformers 5."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.models import model
from taicang.lower import expert_loop
from taicang.lower.training import lower_layer
from taicang.ops import GroupedGemm
from taicang.predict.train import TrainPrediction, train
from taicang.train_plans import TrainPlan

LOOP, GROUPED = "deepspeed@0.15.0", "deepspeed@0.18.6"
VIEWS = ("t", "view", "detach", "expand", "squeeze", "unsqueeze", "unbind", "_local_scalar_dense")
"""Operators that launch nothing, or copy to the host."""


def _launched(experts: int) -> tuple[int, int]:
    """Operators that PyTorch dispatches for the loop, forward and backward."""
    torch = pytest.importorskip("torch", reason="torch is an extra")
    mode = pytest.importorskip("torch.utils._python_dispatch", reason="torch is an extra").TorchDispatchMode

    class Counter(mode):  # type: ignore[misc]
        count = 0

        def __torch_dispatch__(self, op: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += op.overloadpacket.__name__ not in VIEWS
            return op(*args, **(kwargs or {}))

    rows, hidden, inter = 64, 16, 8
    given_ = torch.ones(rows, hidden, requires_grad=True)
    weights = torch.ones(rows, 2, requires_grad=True)
    layers = [[torch.nn.Linear(a, b, bias=False) for a, b in ((hidden, inter), (hidden, inter), (inter, hidden))]
              for _ in range(experts)]  # fmt: skip
    mask = torch.nn.functional.one_hot(torch.arange(2 * rows).view(rows, 2) % experts, experts).permute(2, 1, 0)
    made = torch.zeros(rows, hidden)
    with Counter() as forward:
        for expert in torch.arange(experts):
            gate, up, down = layers[expert]
            place, token = torch.where(mask[expert])
            mine = given_[None, token].reshape(-1, hidden)
            out = down(torch.nn.functional.silu(gate(mine)) * up(mine)) * weights[token, place, None].to(given_.dtype)
            made.index_add_(0, token, out)
    with Counter() as backward:
        made.backward(torch.ones_like(made))
    return forward.count, backward.count


def test_its_kernels_are_those_that_pytorch_dispatches() -> None:
    """Per expert, what a loop of two more launches than a shorter one, over two."""
    few, many = _launched(4), _launched(8)
    block = model("qwen3-30b-a3b").blocks[-1]
    layer = lower_layer(model("qwen3-30b-a3b"), block, TrainPlan(seq=512), catalog.stack(LOOP))
    sides = (expert_loop.GATHER, expert_loop.RETURN)
    ahead, behind = (
        sum(step.op.launches for step in steps if step.label in sides)  # type: ignore[union-attr]
        for steps in (layer.forward, layer.data)
    )
    passes = expert_loop.LAUNCHES
    assert (many[0] - few[0]) / 4 == ahead + passes[""]
    assert (many[1] - few[1]) / 4 == behind + passes["data"] + passes["weight"]


def _seconds(stack: str, zero: int, seq: int, **changes: int) -> float:
    net = model("qwen3-30b-a3b")
    ffn = replace(net.blocks[-1].ffn, **changes)  # type: ignore[arg-type]
    net = replace(net, blocks=(replace(net.blocks[-1], count=4, ffn=ffn),))
    made = train(net, "hgx-h200", TrainPlan(dp=8, zero=zero, seq=seq, global_batch=8), stack=stack)
    assert isinstance(made, TrainPrediction)
    return made.step.seconds


@given(st.sampled_from((1, 3)), st.sampled_from((512, 4096)), st.sampled_from((16, 64)))
def test_a_loop_takes_no_less_than_one_product_and_more_with_more_experts(zero: int, seq: int, experts: int) -> None:
    """Experts of the same size; as many go to each token."""
    loop = _seconds(LOOP, zero, seq, experts=experts)
    assert loop >= _seconds(GROUPED, zero, seq, experts=experts)
    assert loop <= _seconds(LOOP, zero, seq, experts=2 * experts)


def test_other_loops_take_parts_of_sorted_tokens() -> None:
    """Megatron's experts without a grouped product permute as all do."""
    net = model("qwen3-30b-a3b")
    apart = replace(catalog.stack("megatron"), grouped_experts=False)
    steps = lower_layer(net, net.blocks[-1], TrainPlan(seq=512), apart).forward
    assert {step.label for step in steps} >= {"permute", "unpermute"}
    assert any(isinstance(step.op, GroupedGemm) and step.repeat == net.blocks[-1].ffn.experts for step in steps)  # type: ignore[union-attr]
