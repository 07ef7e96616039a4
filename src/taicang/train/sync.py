"""Data parallelism: what reducing gradients, gathering parameters and the optimizer add to a step.

Distributed optimizer (ZeRO 1): gradients are reduced and scattered in the last microbatch's backward pass, bucket by
bucket as they are ready; parameters are gathered in the first forward pass. What those passes cannot hide is exposed,
and one bucket always is. ZeRO 2 keeps no whole gradients and so reduces them in every microbatch. ZeRO 3 gathers each
layer's weights just before they are used, in every microbatch, twice, and scatters gradients behind it; what a layer's
own computing cannot hide is exposed, and what it hides slows it by the stack's ``overlap_tax_ratio`` (the cores and the
memory bandwidth that collectives take).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from taicang.ops import Collective, CollectiveKind, Pointwise, Transfer
from taicang.stacks import Keeping, Stack
from taicang.train.layer import Price
from taicang.train.memory import Held
from taicang.train.overlap import beside, busy_ratio
from taicang.train_plans import Group, Replicas, TrainPlan, data_groups, expert_groups
from taicang.units import Count, Num

BUCKETS = 16.0
"""Buckets that gradients and parameters travel in (40 M parameters a bucket or a layer, whichever is larger)."""

HOST_BYTES_PER_S = 25e9
"""Host memory that the optimizer reaches for one rank (assumed: half of what two sockets of eight channels DDR4-3200
have, over the eight ranks of a node)."""
VECTOR_BYTES = 8192.0
"""A norm's weights or a bias, of a hidden size of 4,096."""


def collective_s(kind: CollectiveKind, held: Held, element_bytes: float, plan: TrainPlan, price: Price) -> Num:
    """Seconds of one collective over all of ``held``, dense and expert groups one after the other."""
    dense = _nested(kind, held.dense * element_bytes, data_groups(plan), price)
    if not np.any(np.asarray(held.experts) > 0):
        return dense
    return dense + _nested(kind, held.experts * element_bytes, expert_groups(plan), price)


def _nested(kind: CollectiveKind, payload: Num, replicas: Replicas, price: Price) -> Num:
    """One collective over nested groups: each sees the shards that the groups inside it leave.

    Where shard groups hold copies of each other, these then reduce their shards among them.
    """

    def one(kind: CollectiveKind, group: Group, payload: Num) -> Num:
        op = Collective(kind=kind, payload_bytes=payload, ranks=group.ranks, stride=group.stride)
        return price(op).seconds

    *inner, last = replicas.shards
    seconds: Num = 0.0
    for group in inner:
        if kind == "all_reduce":  # scattered on the way out, gathered on the way back
            seconds = seconds + one("reduce_scatter", group, payload) + one("all_gather", group, payload)
        else:
            seconds = seconds + one(kind, group, payload)
        payload = payload / group.ranks
    seconds = seconds + one(kind, last, payload)
    payload = payload / (last.ranks if kind == "reduce_scatter" else 1)
    if kind != "all_gather":
        for group in replicas.copies:
            seconds = seconds + one("all_reduce", group, payload)
    return seconds


def exposed(network: Num, window: Num, tax: Num, *, hidden: bool, vpp: Count = 1, rounds: Num = 1.0) -> Num:
    """What of ``network`` a ``window`` of computing leaves visible; all of it where the stack does not overlap.

    A rank with ``vpp`` chunks is through with each but the last ``rounds`` microbatches of a chunk before it is through
    with the next, and may hide that chunk's share behind them; the last one's has its own pass only.
    """
    if not hidden:
        return network
    others = 1.0 - 1.0 / vpp
    seen = beside(network / vpp, window / vpp, pieces=BUCKETS, tax=tax)
    return seen + beside(network * others, window * others * rounds, pieces=np.inf, tax=tax)


def broadcast_s(held: Held, plan: TrainPlan, price: Price) -> Num:
    """Seconds of bringing back all of ``held`` where every rank of a shard group owns whole tensors.

    One owner broadcasts after the other, and each message goes through all ranks: with as many owners as tensors, what
    it waits for grows with ranks while its size no longer falls.
    """

    def one(parameters: Count, replicas: Replicas, matrices: Count, vectors: Count) -> Num:
        ranks, stride = replicas.sharding, replicas.shards[0].stride
        owners = np.maximum(np.minimum(ranks, matrices), 1.0)
        small = np.minimum(ranks, matrices + vectors) - np.minimum(ranks, matrices)
        each = Collective(
            kind="broadcast", payload_bytes=parameters * plan.recipe.gather_bytes / owners, ranks=ranks, stride=stride
        )
        return owners * price(each).seconds + small * price(replace(each, payload_bytes=VECTOR_BYTES)).seconds

    dense = one(held.dense, data_groups(plan), held.matrices, held.vectors)
    if not np.any(np.asarray(held.experts) > 0):
        return dense
    return dense + one(held.experts, expert_groups(plan), held.expert_matrices, 0.0)


def step_network(held: Held, plan: TrainPlan, price: Price, keeps: Keeping) -> tuple[Num, Num]:
    """Seconds of a gradient reduction and a parameter gather of all of ``held`` (ZeRO 0: an all-reduce, no gather)."""
    trained = plan.trained_ratio
    small = Held(dense=held.dense * trained, experts=held.experts * trained)
    if plan.zero == 0:
        return collective_s("all_reduce", small, plan.gradient_bytes, plan, price), 0.0
    if keeps.sharding == "tensors":  # gradients in buckets that know no owner
        reduce = collective_s("all_reduce", small, plan.gradient_bytes, replace(plan, shard=0), price)
        return reduce, broadcast_s(held, plan, price)
    # gradients go down to the host behind their reduction; weights come up before they are gathered
    reduce = collective_s("reduce_scatter", small, plan.gradient_bytes, plan, price)
    reduce = np.maximum(reduce, host_s(small, plan.gradient_bytes, plan, price))
    return reduce, collective_s("all_gather", small, plan.recipe.gather_bytes, plan, price)


def host_s(held: Held, element_bytes: float, plan: TrainPlan, price: Price, *, stored: bool = False) -> Num:
    """Seconds that a rank's shard of ``held`` takes over the host's link, and from its drives where it is ``stored``;
    nothing where nothing is offloaded."""
    if plan.offload == "none":
        return 0.0
    size = _shard(held, plan) * element_bytes
    seconds = price(Transfer(payload_bytes=size, plane="host")).seconds
    return np.maximum(seconds, size / plan.nvme_bytes_per_s) if stored and plan.nvme_bytes_per_s else seconds


def away_s(moved: Num, price: Price, *, forward_s: Num, backward_s: Num) -> tuple[Num, Num]:
    """What a layer's passes wait for where ``moved`` bytes of its activations leave over the host's link behind the
    forward pass and come back ahead of the backward one (a copy engine moves them: no core slows)."""
    link = price(Transfer(payload_bytes=moved, plane="host")).seconds
    return (
        beside(link, forward_s, pieces=np.inf, tax=0.0),
        beside(link, backward_s, pieces=np.inf, tax=0.0),
    )


def added_s(held: Held, plan: TrainPlan, stack: Stack, price: Price) -> Num:
    """Seconds of adding one microbatch's 16-bit gradients of ``held`` to those before where a kernel of its own does
    (``Keeping.added``; the first come to be where no buffer waits). Those scattered each time are added by shards."""
    if not stack.keeps.added or "gradient_sum" in stack.fused:
        return 0.0
    later = 1.0 - (0.0 if stack.keeps.buffered else 1.0 / plan.microbatches)
    count = (held.dense + held.experts) * plan.trained_ratio * later
    op = Pointwise(kind="copy", elements=count, moved_bytes=count * (2.0 + 2.0 * plan.gradient_bytes))
    return price(op).seconds * (1.0 - 1.0 * plan.by_layer)


def _shard(held: Held, plan: TrainPlan) -> Num:
    """Parameters whose state one rank keeps."""
    dense, experts = (data_groups(plan).sharding, expert_groups(plan).sharding) if plan.zero else (1, 1)
    return held.dense / dense + held.experts / experts


def step_exposed(
    network: tuple[Num, Num], plan: TrainPlan, stack: Stack, tax: Num, *, forward_s: Num, backward_s: Num, micro: Count,
    vpp: Count,
) -> tuple[Num, Num]:  # fmt: skip
    """What of ``step_network`` a step waits for, beside one of ``micro`` microbatches' passes on this rank."""
    reduce, gather = network
    each = plan.zero == 2
    apart = "interleaved_gradients" in stack.overlap and not each
    return (
        exposed(
            reduce, backward_s, tax, hidden="gradients" in stack.overlap, vpp=vpp if apart else 1,
            rounds=np.minimum(plan.pp, micro) * 1.0,
        ) * (micro if each else 1),
        exposed(gather, forward_s, tax, hidden="parameters" in stack.overlap),
    )  # fmt: skip


def layer_network(layer: Held, plan: TrainPlan, price: Price) -> tuple[Num, Num]:
    """Seconds of ZeRO 3's collectives of one layer and microbatch, forward and backward."""
    trained = plan.trained_ratio
    gather = collective_s("all_gather", layer, plan.recipe.gather_bytes, plan, price)
    small = Held(dense=layer.dense * trained, experts=layer.experts * trained)
    scatter = collective_s("reduce_scatter", small, plan.gradient_bytes, plan, price)
    scatter = np.maximum(scatter, host_s(small, plan.gradient_bytes, plan, price))
    if plan.offload == "weights":  # fetched piece by piece ahead of the gather
        gather = np.maximum(gather, host_s(layer, plan.recipe.gather_bytes, plan, price, stored=True))
    return gather, scatter + (gather if plan.reshard else 0.0)


def layer_load(layer: Held, plan: TrainPlan, price: Price, keeps: Keeping) -> tuple[Num, Num, Num, Num, Num]:
    """``layer_network``, how busy it keeps the cores that copy for it, and seconds of FSDP2's own copies in either
    pass: weights out of the buffer that was gathered, gradients of 16 bits into the one that is scattered."""
    ahead, behind = layer_network(layer, plan, price)
    whole, gather = layer.dense + layer.experts, plan.recipe.gather_bytes
    gradients = plan.gradient_bytes * plan.trained_ratio
    busy = busy_ratio(whole * (gather * (1 + plan.reshard) + gradients), ahead + behind, price)
    if keeps.sharding != "pytorch":
        return ahead, behind, busy, 0.0, 0.0

    def copied(moved: Num) -> Num:
        return price(Pointwise(kind="copy", elements=whole, moved_bytes=moved)).seconds

    back = whole * (2.0 * gather * plan.reshard + 2.0 * plan.trained_ratio + gradients)
    return ahead, behind, busy, copied(whole * 2.0 * gather), copied(back)


def layer_exposed(
    load: tuple[Num, Num, Num, Num, Num], stack: Stack, tax: Num, *, forward_s: Num, backward_s: Num
) -> tuple[Num, Num]:
    """What of ``layer_load`` a layer waits for, forward and backward; the layer before hides the first piece."""
    ahead, behind, busy, there, back = load
    if "parameters" not in stack.overlap:
        return ahead + there, behind + back
    return (
        there + beside(ahead, forward_s + there, pieces=np.inf, tax=tax * busy),
        back + beside(behind, backward_s + back, pieces=np.inf, tax=tax * busy),
    )


def layer_waits(
    load: tuple[Num, Num, Num, Num, Num], layer: Held, stack: Stack, tax: Num, *, forward_s: Num, backward_s: Num,
    again_ratio: Num, issued_s: tuple[Num, Num],
) -> tuple[Num, Num]:  # fmt: skip
    """What a layer waits for, forward and backward: its collectives (``layer_load``), or the host, which launches
    (``issued_s``) and, where each module's hooks gather its weights, runs these in every pass, that ``again_ratio`` of
    layers recompute too; else it runs ahead. Experts in one product are one module."""
    ahead, behind = layer_exposed(load, stack, tax, forward_s=forward_s, backward_s=backward_s)
    modules = np.minimum(layer.expert_matrices, 1.0) if stack.grouped_experts else layer.expert_matrices
    host = (layer.matrices + modules) * stack.module_hook_s
    return (
        np.maximum(ahead, host + issued_s[0] - forward_s),
        np.maximum(behind, host * (1.0 + again_ratio) + issued_s[1] - backward_s),
    )


def edges_exposed(
    layer: Held, edges: tuple[Num, Num], plan: TrainPlan, stack: Stack, tax: Num, price: Price, *, forward_s: Num,
    backward_s: Num,
) -> tuple[Num, Num]:  # fmt: skip
    """What a step waits for at its ends, forward and backward: nothing hides the embedding's weights and the first
    layer's on the way in and their gradients on the way out; the last layer's passes (``forward_s``, ``backward_s``)
    are beside the head's. Neither edge is gathered again."""
    once = replace(plan, reshard=False)
    embedding, head = (layer_load(Held(dense=each), once, price, stack.keeps) for each in edges)
    first = layer_network(layer, once, price)
    late = layer_exposed(head, stack, tax, forward_s=forward_s, backward_s=backward_s)
    return embedding[0] + embedding[3] + first[0] + late[0], embedding[1] + embedding[4] + first[1] + late[1]


def optimizer_s(held: Held, plan: TrainPlan, price: Price) -> Num:
    """Adam on this rank's shard, after the norm of all gradients (read once) is known.

    Its state is read and written, the 16-bit weight written (and read, where no 32-bit copy stands in for it). On the
    host it does so at the rate of host memory, streaming the state from NVMe and back where it lies there; new weights
    then go up to the device.
    """
    count = _shard(held, plan) * plan.trained_ratio
    each = 2.0 * plan.optimizer_bytes + 2.0 + 2.0 * (plan.master != "fp32") + 2.0 * plan.gradient_bytes
    if plan.offload != "none":
        update = count * (each + 4.0) / HOST_BYTES_PER_S
        if plan.nvme_bytes_per_s:
            update = np.maximum(update, count * 2.0 * plan.optimizer_bytes / plan.nvme_bytes_per_s)
        small = Held(dense=held.dense * plan.trained_ratio, experts=held.experts * plan.trained_ratio)
        return update + (0.0 if plan.offload == "weights" else host_s(small, plan.recipe.gather_bytes, plan, price))
    return price(
        Pointwise(kind="copy", elements=count, moved_bytes=count * each, flop=count * 12.0, launches=4)
    ).seconds
