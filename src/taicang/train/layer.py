"""Seconds of one layer and one microbatch, by what they are spent on: kernels, and communication that nothing hides.

Overlap, axis by axis. A part of a collective that runs beside computing is hidden as far as that computing reaches, and
slows it; the rest, and one chunk at the start or end, is exposed (``overlap.beside``):

* *tensor*: with chunked products (user buffers, MC2) a collective of n ranks runs in n chunks beside the product that
  feeds it or waits for it, so one chunk in n is exposed. Without, the forward pass exposes all; in the backward pass
  libraries of "tensor_gradients" (Megatron's layers, not DTensor's) hide the data gradient's reduction and the second
  gather of the input behind weight and data gradients.
* *context*: the ring passes keys and values on while attention works on those before: one hop of n is exposed.
* *expert*: exposed, but for what a shared expert computes meanwhile ("shared_expert") and for what another microbatch
  computes where the schedule pairs two ("expert_exchange", ``saved_s``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from taicang.cost.cost import Cost
from taicang.cost.experts import load
from taicang.formats import number_format
from taicang.lower.expert_loop import LAUNCHES
from taicang.lower.training import ADAPTER, UNFUSED, Layer, Step, activated_bytes
from taicang.ops import Attend, Collective, Exchange, Gemm, GroupedGemm, Operator, Pointwise
from taicang.stacks import Stack
from taicang.train.overlap import Halves, beside, paired_s
from taicang.train_plans import TrainPlan
from taicang.units import Num

Price: TypeAlias = Callable[[Operator], Cost]
Spent: TypeAlias = Mapping[str, Num]
"""Seconds by line of the waterfall."""
PIECED = {
    "": ("projection", "feed-forward up", "feed-forward down"),
    "data": ("output projection", "feed-forward down"),
}
"""Ends of labels of the products of a pass that user buffers run in pieces: gathers and scatters of the backward pass
beside which whole products of another gradient run need none (Transformer Engine's bulk overlap)."""
ROUTING_LAUNCHES = 30.0
"""Kernels of one pass that sort, count and permute tokens by expert (assumed)."""
MODULES: Mapping[str, int] = {"qkv projection": 3, "feed-forward up": 2}
"""Linear modules that are one product here: queries, keys and values; gate and up."""
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
    rerun_s: Num
    """What full recompute of all of it would take."""
    saved_s: Num
    """What one forward and one backward pass save side by side, each hiding the other's exchanges."""
    issued_s: tuple[Num, Num, Num, Num]
    """Host time of launching: forward, backward, what recompute repeats, all that full recompute would."""


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


def layer_time(layer: Layer, plan: TrainPlan, stack: Stack, price: Price, tax: Num = 0.0) -> LayerTime:
    """Price all passes of ``layer``; ``tax`` is how much computing slows per second of communication beside it."""
    context = _Context(plan=plan, stack=stack, price=price, tax_ratio=tax)
    ahead = _pass(layer.forward, context)
    data, weight = _pass(layer.data, context, backward="data"), _pass(layer.weight, context, backward="weight")
    everything = _sum(_kept(step) for step in layer.forward)
    chosen = tuple(step for step in layer.forward if step.module in plan.recompute_modules)
    if plan.trained_ratio < 1.0:  # frozen products need no input for a weight gradient
        everything = _sum(_kept(step) for step in layer.forward if not isinstance(step.op, (Gemm, GroupedGemm)))
    boundary = 2.0 * getattr(layer.forward[0].op, "elements", 0.0)  # of 16 bits, whatever the norm keeps of it
    whole = ahead if layer.again == layer.forward else _pass(layer.again, context)
    if plan.recompute == "full":
        again = whole.scaled(plan.recompute_ratio)
        saved = boundary * plan.recompute_ratio + everything * (1.0 - plan.recompute_ratio)
    elif plan.recompute == "selective":
        again = _pass(chosen, context)
        saved = everything - _dropped(layer.forward, plan.recompute_modules)
    else:
        again, saved = _pass((), context), everything
    back = _joined(data, weight, again)
    routed = np.any(np.asarray(ahead.there_s) > 0)
    alone = total(ahead.spent) + total(data.spent) + total(weight.spent) + total(again.spent)
    return LayerTime(
        forward=ahead.spent,
        again=again.spent,
        data=data.spent,
        weight=weight.spent,
        saved_bytes=saved,
        working_bytes=everything,
        rerun_s=total(whole.spent),
        saved_s=np.maximum(alone - paired_s(ahead.halves, back, tax=tax), 0.0) if routed else 0.0,
        issued_s=(ahead.issued_s, data.issued_s + weight.issued_s, again.issued_s, whole.issued_s),
    )


def _dropped(forward: tuple[Step, ...], modules: tuple[str, ...]) -> Num:
    """Saved inputs that are made again: those of a step after a repeated one, and all of the attention core's."""
    dropped: Num = 0.0
    before = ""
    for step in forward:
        moves = isinstance(step.op, Pointwise) and step.op.kind in ("rope", "route")
        if step.axis != "compute" or (moves and not np.any(np.asarray(step.saved_bytes) > 0)):
            continue  # changes nothing that is kept
        if before in modules or (step.module == "core" and "core" in modules):
            dropped = dropped + _kept(step)
        elif "act" in modules and step.label == UNFUSED:
            dropped = dropped + step.saved_bytes
        elif "act" in modules and isinstance(step.op, GroupedGemm):
            dropped = dropped + _kept(replace(step, saved_bytes=activated_bytes(step.op) * step.repeat))
        before = step.module
    return dropped


def _kept(step: Step) -> Num:
    """What a step keeps on the rank that sets the pace: with uneven experts, as much more as its load is."""
    uneven = isinstance(step.op, GroupedGemm) and bool(np.any(np.asarray(step.op.skew) > 0))
    if not uneven or not isinstance(step.op, GroupedGemm):
        return step.saved_bytes
    return step.saved_bytes * load(step.op).lead


def _sum(values: object) -> Num:
    total_: Num = 0.0
    for value in values:  # type: ignore[attr-defined]
        total_ = total_ + value
    return total_


def _line(op: Operator) -> str:
    if isinstance(op, (Gemm, GroupedGemm)):
        return "products"
    return "attention" if isinstance(op, Attend) else "pointwise"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    """What all passes share."""

    plan: TrainPlan
    stack: Stack
    price: Price
    tax_ratio: Num


@dataclass(frozen=True, slots=True, kw_only=True)
class _Passed:
    """One pass: seconds by line, and those of them that belong to the experts and to either exchange."""

    spent: Spent
    experts_s: Num
    there_s: Num
    back_s: Num
    issued_s: Num

    @property
    def halves(self) -> Halves:
        """The pass as ``overlap.paired_s`` takes it."""
        inside = self.experts_s + self.spent["expert"]
        return Halves(
            outside_s=total(self.spent) - inside, experts_s=self.experts_s, there_s=self.there_s, back_s=self.back_s
        )

    def scaled(self, ratio: Num) -> _Passed:
        """All of it times ``ratio``."""
        return _Passed(
            spent=scaled(self.spent, ratio), experts_s=self.experts_s * ratio, there_s=self.there_s * ratio,
            back_s=self.back_s * ratio, issued_s=self.issued_s * ratio,
        )  # fmt: skip


def _joined(*parts: _Passed) -> Halves:
    halves = [part.halves for part in parts]
    return Halves(
        outside_s=_sum(half.outside_s for half in halves),
        experts_s=_sum(half.experts_s for half in halves),
        there_s=_sum(half.there_s for half in halves),
        back_s=_sum(half.back_s for half in halves),
    )


def _pass(steps: tuple[Step, ...], at: _Context, *, backward: str = "") -> _Passed:
    plan, stack, tax = at.plan, at.stack, at.tax_ratio
    spent: dict[str, Num] = dict.fromkeys(LINES, 0.0)
    moved: dict[str, Num] = {"tp": 0.0, "cp": 0.0}
    exchanges: list[Num] = []
    experts: Num = 0.0
    shared: Num = 0.0
    scattered: Num = 0.0
    launched: Num = 0.0
    pieces = plan.tp if "tensor" in stack.overlap and plan.sp else 1
    for step in steps:
        seconds = _price(step.op, at.price, stack.expert_dispatch) * step.repeat
        if pieces > 1 and isinstance(step.op, Gemm) and step.label.endswith(PIECED.get(backward, ())):
            seconds = np.maximum(seconds, _in_pieces(step.op, at.price, pieces) * step.repeat)
        if step.axis == "compute":
            line = _line(step.op)
            spent[line] = spent[line] + seconds
            launched = launched + launch_s(step, plan, stack, backward)
            if len(exchanges) == 1 or isinstance(step.op, GroupedGemm):
                experts = experts + seconds
            shared = shared + seconds if step.shared else shared
        elif step.axis == "ep":
            exchanges.append(seconds)
        else:
            moved[step.axis] = moved[step.axis] + seconds
            if step.axis == "tp" and getattr(step.op, "kind", "") == "reduce_scatter":
                scattered = scattered + seconds
    if "tensor" in stack.overlap:
        spent["tensor"] = beside(moved["tp"], spent["products"], pieces=plan.tp, tax=tax)
    elif backward and "tensor_gradients" in stack.overlap:
        # with sequence parallelism the data pass waits for its gathers alone, the weight pass for none
        hidden = scattered if plan.sp and backward == "data" else moved["tp"]
        spent["tensor"] = moved["tp"] - hidden + tax * hidden
    else:
        spent["tensor"] = moved["tp"]
    hops = plan.cp if plan.context == "ring" else 1
    spent["context"] = beside(moved["cp"], spent["attention"], pieces=hops, tax=tax)
    there, back = [*exchanges, 0.0, 0.0][:2]
    spent["expert"] = there + back
    if "shared_expert" in stack.overlap:
        spent["expert"] = beside(there + back, shared, pieces=np.inf, tax=tax)
    spent["launch gaps"] = np.maximum(launched - total(spent), 0.0)  # the host runs ahead
    return _Passed(spent=spent, experts_s=experts, there_s=there, back_s=back, issued_s=launched)


def _in_pieces(op: Gemm, price: Price, pieces: int) -> Num:
    """Seconds of a product that runs in ``pieces`` of its rows on several streams: one's latency is behind another."""
    cost = price(replace(op, m=op.m / pieces))
    return pieces * (cost.seconds - cost.latency_s) + cost.latency_s


def _price(op: Operator, price: Price, dispatch: str) -> Num:
    """Seconds of one operator; tokens reach their experts as ``dispatch`` says (``Stack.expert_dispatch``)."""
    if not isinstance(op, Exchange):
        return price(op).seconds
    payload = op.tokens * op.topk * op.token_bytes
    plain = Collective(kind="all_to_all", payload_bytes=payload, ranks=op.ranks, stride=op.stride)
    if dispatch == "plain":
        sort = Pointwise(kind="activation", elements=payload / 2.0, moved_bytes=2.0 * payload)
        return price(plain).seconds + price(sort).seconds
    return np.minimum(price(op).seconds, price(plain).seconds)


def launch_s(step: Step, plan: TrainPlan, stack: Stack, backward: str = "") -> Num:
    """Host time of launching one operator as often as it runs; on distributed tensors module by module."""
    if stack.looks_up and isinstance(step.op, GroupedGemm):
        return (ROUTING_LAUNCHES + LAUNCHES[backward] * step.repeat) * stack.eager_kernel_s
    if stack.tensor_kernel_s and plan.tp > 1 and (isinstance(step.op, Gemm) or ADAPTER in step.label):
        return MODULES.get(step.label.partition(ADAPTER)[0], 1) * step.repeat * stack.tensor_kernel_s
    return launches(step, stack) * step.repeat * stack.eager_kernel_s


def launches(step: Step, stack: Stack) -> Num:
    """Kernels that the host launches for one operator, casts to 8 bits and bookkeeping of experts included."""
    op = step.op
    if isinstance(op, GroupedGemm):
        sorting = 0.0 if "router" in stack.captured else ROUTING_LAUNCHES / step.repeat
        if "experts" in stack.captured:
            return sorting
        each = 4.0 if number_format(op.dtype).quantises else 2.0
        return sorting + (each * op.experts_local if "expert_products" not in stack.fused else 2.0)
    if step.part in stack.captured:
        return 0.0
    if isinstance(op, Gemm):
        return 3.0 if number_format(op.dtype).quantises else 1.0
    return 1.0 * op.launches if isinstance(op, Pointwise) else 1.0
