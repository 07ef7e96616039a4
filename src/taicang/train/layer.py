"""Seconds of one layer and one microbatch, by what they are spent on: kernels, and communication that nothing hides.

Overlap, axis by axis. A part of a collective that runs beside computing is hidden as far as that computing reaches; the
rest, and one chunk at the start or end, is exposed:

* *tensor*: with chunked products (user buffers, MC2) a collective of n ranks runs in n chunks beside the product that
  feeds it or waits for it, so one chunk in n is exposed. Without, the forward pass exposes all; in the backward pass
  the library hides the data gradient's reduction and the second gather of the input behind weight and data gradients.
* *context*: the ring passes keys and values on while attention works on those before: one hop of n is exposed.
* *expert*: exposed, unless the schedule runs another microbatch beside it ("expert_exchange").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from taicang.cost.cost import Cost
from taicang.formats import number_format
from taicang.lower.training import Layer, Step
from taicang.ops import Attend, Collective, Exchange, Gemm, GroupedGemm, Operator, Pointwise
from taicang.stacks import Stack
from taicang.train_plans import TrainPlan
from taicang.units import Num

Price: TypeAlias = Callable[[Operator], Cost]
Spent: TypeAlias = Mapping[str, Num]
"""Seconds by line of the waterfall."""
ROUTING_LAUNCHES = 30.0
"""Kernels of one pass that sort, count and permute tokens by expert (assumed)."""
LINES = ("products", "attention", "pointwise", "launch gaps", "tensor", "context", "expert")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTime:
    """Seconds of each pass of one layer."""

    forward: Spent
    again: Spent
    """What recompute repeats of the forward pass."""
    data: Spent
    weight: Spent
    saved_bytes: Num
    """Activations kept for the backward pass under the plan's recompute."""
    working_bytes: Num
    """Activations alive while the layer itself runs."""


def total(spent: Spent) -> Num:
    """Sum over the lines, in their order."""
    seconds: Num = 0.0
    for line in LINES:
        seconds = seconds + spent.get(line, 0.0)
    return seconds


def added(*parts: Spent) -> dict[str, Num]:
    """Line by line sum."""
    sums: dict[str, Num] = {}
    for part in parts:
        for line, seconds in part.items():
            sums[line] = sums.get(line, 0.0) + seconds
    return sums


def scaled(spent: Spent, ratio: Num) -> dict[str, Num]:
    """Every line times ``ratio``."""
    return {line: seconds * ratio for line, seconds in spent.items()}


def layer_time(layer: Layer, plan: TrainPlan, stack: Stack, price: Price) -> LayerTime:
    """Price all passes of ``layer``."""
    trained = plan.trained_ratio
    forward = _pass(layer.forward, plan, stack, price, backward=False)
    data = _pass(layer.data, plan, stack, price, backward=True)
    weight = scaled(_pass(layer.weight, plan, stack, price, backward=True), trained)
    everything = _sum(step.saved_bytes for step in layer.forward)
    core = tuple(step for step in layer.forward if step.core)
    if trained < 1.0:  # frozen products need no input for a weight gradient
        everything = _sum(step.saved_bytes for step in layer.forward if not isinstance(step.op, (Gemm, GroupedGemm)))
    boundary = layer.forward[0].saved_bytes
    if plan.recompute == "full":
        again = scaled(forward, plan.recompute_ratio)
        saved = boundary * plan.recompute_ratio + everything * (1.0 - plan.recompute_ratio)
    elif plan.recompute == "selective":
        again = _pass(core, plan, stack, price, backward=False)
        saved = everything - _sum(step.saved_bytes for step in core)
    else:
        again, saved = {}, everything
    return LayerTime(
        forward=forward, again=again, data=data, weight=weight, saved_bytes=saved, working_bytes=everything
    )


def _sum(values: object) -> Num:
    total_: Num = 0.0
    for value in values:  # type: ignore[attr-defined]
        total_ = total_ + value
    return total_


def _line(op: Operator) -> str:
    if isinstance(op, (Gemm, GroupedGemm)):
        return "products"
    return "attention" if isinstance(op, Attend) else "pointwise"


def _pass(steps: tuple[Step, ...], plan: TrainPlan, stack: Stack, price: Price, *, backward: bool) -> dict[str, Num]:
    spent: dict[str, Num] = dict.fromkeys(LINES, 0.0)
    moved: dict[str, Num] = {"tp": 0.0, "cp": 0.0, "ep": 0.0}
    scattered: Num = 0.0
    launches: Num = 0.0
    for step in steps:
        seconds = _price(step.op, price) * step.repeat
        if step.axis == "compute":
            line = _line(step.op)
            spent[line] = spent[line] + seconds
            launches = launches + _launches(step.op) * step.repeat
        else:
            moved[step.axis] = moved[step.axis] + seconds
            if step.axis == "tp" and getattr(step.op, "kind", "") == "reduce_scatter":
                scattered = scattered + seconds
    busy = spent["products"] + spent["attention"] + spent["pointwise"]
    spent["launch gaps"] = np.maximum(launches * stack.eager_kernel_s - busy, 0.0)
    spent["tensor"] = _tensor(moved["tp"], scattered, spent["products"], plan, stack, backward=backward)
    spent["context"] = _beside(moved["cp"], spent["attention"], plan.cp if plan.context == "ring" else 1)
    spent["expert"] = moved["ep"] if "expert_exchange" not in stack.overlap else np.maximum(moved["ep"] - busy, 0.0)
    hidden = _sum(moved.values()) - spent["tensor"] - spent["context"] - spent["expert"]
    spent["products"] = spent["products"] + stack.overlap_tax_ratio * np.maximum(hidden, 0.0)
    return spent


def _price(op: Operator, price: Price) -> Num:
    """Seconds of one operator; tokens reach their experts by the merging exchange or a plain all-to-all, if faster."""
    seconds = price(op).seconds
    if isinstance(op, Exchange):
        payload = op.tokens * op.topk * op.token_bytes
        plain = Collective(kind="all_to_all", payload_bytes=payload, ranks=op.ranks, stride=op.stride)
        return np.minimum(seconds, price(plain).seconds)
    return seconds


def _launches(op: Operator) -> Num:
    """Kernels that the host launches for one operator, casts to 8 bits and bookkeeping of experts included."""
    if isinstance(op, GroupedGemm):
        each = 4.0 if number_format(op.dtype).quantises else 2.0
        return ROUTING_LAUNCHES + each * op.experts_local
    if isinstance(op, Gemm):
        return 3.0 if number_format(op.dtype).quantises else 1.0
    return 1.0 * op.launches if isinstance(op, Pointwise) else 1.0


def _beside(network: Num, compute: Num, chunks: int) -> Num:
    """What of ``network`` stays visible beside ``compute`` when it runs in ``chunks`` of which one is outside."""
    return network / chunks + np.maximum(network * (1.0 - 1.0 / chunks) - compute, 0.0)


def _tensor(moved: Num, scattered: Num, products: Num, plan: TrainPlan, stack: Stack, *, backward: bool) -> Num:
    if "tensor" in stack.overlap:
        return _beside(moved, products, plan.tp)
    if not backward:
        return moved
    return np.maximum(moved - scattered, 0.0) if plan.sp else moved * 0.0
