"""Data parallelism: what reducing gradients, gathering parameters and the optimizer add to a step.

Distributed optimizer (ZeRO 1): gradients are reduced and scattered in the last microbatch's backward pass, bucket by
bucket as they are ready; parameters are gathered in the first forward pass. What those passes cannot hide is exposed,
and one bucket always is. ZeRO 2 keeps no whole gradients and so reduces them in every microbatch. ZeRO 3 gathers each
layer's weights just before they are used, in every microbatch, twice, and scatters gradients behind it; what a layer's
own computing cannot hide is exposed, and what it hides slows it by the stack's ``overlap_tax_ratio`` (the cores and the
memory bandwidth that collectives take).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from taicang.ops import Collective, CollectiveKind, Pointwise
from taicang.stacks import Stack
from taicang.train.layer import Price
from taicang.train.memory import Held
from taicang.train_plans import TrainPlan
from taicang.units import Count, Num

BUCKETS = 16.0
"""Buckets that gradients and parameters travel in (40 M parameters a bucket or a layer, whichever is larger)."""
ADAM_BYTES = 26.0
"""Reads and writes of fp32 master weight and two moments (24), and the 16-bit weight; the gradient comes on top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Data-parallel groups of dense and of expert parameters."""

    dense: Count
    dense_stride: int
    experts: Count
    experts_stride: int


def groups(plan: TrainPlan) -> Groups:
    """Who holds copies of what: dense weights dp * cp ranks (tp apart), experts what ep and etp leave."""
    wide = plan.ep * plan.etp
    return Groups(
        dense=plan.shard or plan.dp * plan.cp,
        dense_stride=plan.tp,
        experts=np.maximum(plan.tp * plan.cp * plan.dp // wide, 1),
        experts_stride=wide,
    )


def collective_s(kind: CollectiveKind, held: Held, element_bytes: float, plan: TrainPlan, price: Price) -> Num:
    """Seconds of one collective over all of ``held``, dense and expert groups one after the other.

    Where shard groups hold copies of each other, they then reduce each rank's shard of the gradients among them.
    """
    made = groups(plan)
    dense = Collective(kind=kind, payload_bytes=held.dense * element_bytes, ranks=made.dense, stride=made.dense_stride)
    seconds = price(dense).seconds
    if plan.shard and kind != "all_gather":
        own = held.dense * element_bytes / (plan.shard if kind == "reduce_scatter" else 1)
        copies, apart = plan.dp * plan.cp // plan.shard, plan.tp * plan.shard
        seconds = seconds + price(Collective(kind="all_reduce", payload_bytes=own, ranks=copies, stride=apart)).seconds
    if np.any(np.asarray(held.experts) > 0):
        routed = Collective(
            kind=kind, payload_bytes=held.experts * element_bytes, ranks=made.experts, stride=made.experts_stride
        )
        seconds = seconds + price(routed).seconds
    return seconds


def exposed(network: Num, window: Num, hidden: bool) -> Num:
    """What of ``network`` a ``window`` of computing leaves visible; all of it where the stack does not overlap."""
    if not hidden:
        return network
    return network / BUCKETS + np.maximum(network * (1.0 - 1.0 / BUCKETS) - window, 0.0)


def step_network(held: Held, plan: TrainPlan, price: Price) -> tuple[Num, Num]:
    """Seconds of a gradient reduction and a parameter gather of all of ``held`` (ZeRO 0: an all-reduce, no gather)."""
    recipe, trained = plan.recipe, plan.trained_ratio
    small = Held(dense=held.dense * trained, experts=held.experts * trained)
    if plan.zero == 0:
        return collective_s("all_reduce", small, recipe.gradient_bytes, plan, price), 0.0
    return (
        collective_s("reduce_scatter", small, recipe.gradient_bytes, plan, price),
        collective_s("all_gather", small, recipe.gather_bytes, plan, price),
    )


def step_exposed(
    network: tuple[Num, Num], zero: int, stack: Stack, *, forward_s: Num, backward_s: Num, micro: Count
) -> tuple[Num, Num]:
    """What of ``step_network`` a step waits for, beside one of ``micro`` microbatches' passes on this rank."""
    reduce, gather = network
    return (
        exposed(reduce, backward_s, "gradients" in stack.overlap) * (micro if zero == 2 else 1),
        exposed(gather, forward_s, "parameters" in stack.overlap),
    )


def layer_network(layer: Held, plan: TrainPlan, price: Price) -> tuple[Num, Num]:
    """Seconds of ZeRO 3's collectives of one layer and microbatch, forward and backward."""
    trained = plan.trained_ratio
    gather = collective_s("all_gather", layer, plan.recipe.gather_bytes, plan, price)
    small = Held(dense=layer.dense * trained, experts=layer.experts * trained)
    scatter = collective_s("reduce_scatter", small, plan.recipe.gradient_bytes, plan, price)
    return gather, scatter + (gather if plan.reshard else 0.0)


def layer_exposed(network: tuple[Num, Num], stack: Stack, *, forward_s: Num, backward_s: Num) -> tuple[Num, Num]:
    """What of ``layer_network`` a layer waits for, forward and backward."""
    if "parameters" not in stack.overlap:
        return network
    tax = stack.overlap_tax_ratio
    ahead, behind = network
    return (
        np.maximum(ahead - forward_s, 0.0) + tax * np.minimum(ahead, forward_s),
        np.maximum(behind - backward_s, 0.0) + tax * np.minimum(behind, backward_s),
    )


def optimizer_s(held: Held, plan: TrainPlan, price: Price) -> Num:
    """Adam on this rank's shard, after the norm of all gradients (read once) is known."""
    made = groups(plan)
    shared = plan.zero >= 1
    count = held.dense / (made.dense if shared else 1) + held.experts / (made.experts if shared else 1)
    count = count * plan.trained_ratio
    moved = count * (ADAM_BYTES + 2.0 * plan.recipe.gradient_bytes)
    return price(Pointwise(kind="copy", elements=count, moved_bytes=moved, flop=count * 12.0, launches=4)).seconds
