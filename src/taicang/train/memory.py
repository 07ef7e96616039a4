"""Device memory of the fullest rank over a training step, by what fills it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import numpy as np

from taicang.models.count import parameters
from taicang.models.types import Block, Experts, Model
from taicang.stacks import Keeping
from taicang.train.schedule import Shape, warm_up
from taicang.train_plans import TrainPlan, data_groups, expert_groups
from taicang.units import Count, Num

RUNTIME_RATIO = 0.06
"""Assumed share of device memory for the driver, communication buffers and fragmentation."""
BUCKET = 5e8
"""Gradients in one of DeepSpeed's buckets (``reduce_bucket_size`` of its documentation)."""
LIVE = 1e9
"""Weights that DeepSpeed's ZeRO 3 leaves gathered (``stage3_max_live_parameters``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Bytes of one rank, by what fills them."""

    weights_bytes: Num
    gradients_bytes: Num
    optimizer_bytes: Num
    activations_bytes: Num
    """Kept by all microbatches in flight."""
    working_bytes: Num
    """Of the layer or the logits at work."""
    runtime_bytes: Num
    capacity_bytes: float
    apart_bytes: Num = 0.0
    """Of these, never there at once: gradients come to be while activations go (``gradual``)."""
    host_bytes: Num = 0.0
    """In host memory or NVMe, beside these."""

    @property
    def total_bytes(self) -> Num:
        """Everything."""
        held = self.weights_bytes + self.gradients_bytes + self.optimizer_bytes
        return held + self.activations_bytes + self.working_bytes + self.runtime_bytes - self.apart_bytes

    @property
    def spare_bytes(self) -> Num:
        """Capacity left (negative: by how much it does not fit)."""
        return self.capacity_bytes - self.total_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Parameters of one rank: ``dense`` ones are replicated over dp and cp, ``experts`` over what ep and etp leave.

    ``matrices`` and ``vectors`` count the tensors of the dense ones, ``expert_matrices`` of the others; ``largest`` is
    the size of an embedding or head among them, ``plain`` of all of these.
    """

    dense: Count
    experts: Count = 0.0
    matrices: Count = 0.0
    vectors: Count = 0.0
    expert_matrices: Count = 0.0
    largest: Count = 0.0
    plain: Count = 0.0


def together(parts: Iterable[tuple[Held, Num]]) -> Held:
    """Several times some parameters, summed."""
    sums: dict[str, Num] = {field.name: 0.0 for field in fields(Held)}
    largest: Num = 0.0
    for held, count in parts:
        for name, before in sums.items():
            sums[name] = before + getattr(held, name) * count
        largest = np.maximum(largest, held.largest)
    return Held(**(sums | {"largest": largest}))


def layer_parameters(model: Model, block: Block, plan: TrainPlan) -> Held:
    """One layer's parameters on one rank; its mixer is two matrices, of which the first makes queries, keys, values."""
    one = parameters(replace(model, blocks=(replace(block, count=1),), mtp_layers=0))
    sharded = one.attention + one.dense + one.shared
    norms = one.norm - model.hidden
    each = 3 if block.ffn.gated else 2
    sparse = isinstance(block.ffn, Experts)
    biases = getattr(block.attention, "bias", 0) + getattr(block.attention, "out_bias", 0) + each * block.ffn.bias
    return Held(
        dense=sharded / plan.tp + one.router + norms,
        experts=one.experts / (plan.ep * plan.etp),
        matrices=2 + (1 + each * (one.shared > 0) if sparse else each),
        vectors=block.norms + biases,
        expert_matrices=each * block.ffn.experts / plan.ep if isinstance(block.ffn, Experts) else 0.0,
    )


def edge_parameters(model: Model, plan: TrainPlan) -> tuple[float, float]:
    """Embedding and head of one rank (a tied head on another stage is a copy)."""
    counted = parameters(model)
    head = counted.head or (counted.embedding if plan.pp > 1 else 0)
    return counted.embedding / plan.tp, head / plan.tp


def state_bytes(held: Held, plan: TrainPlan, keeps: Keeping) -> tuple[Num, Num, Num]:
    """Weights, gradients and optimizer state of ``held`` parameters under the plan's ZeRO stage.

    DeepSpeed's optimizers hold more gradients: with 32-bit ones the 16-bit ones of a microbatch's backward pass beside
    them, with 16-bit ones the shard's again, flat and in 32 bits, for the update.
    """
    dense, experts = data_groups(plan).sharding, expert_groups(plan).sharding

    whole, shard = held.dense + held.experts, held.dense / dense + held.experts / experts

    def spread(stage: int) -> Num:
        return whole if plan.zero < stage else shard

    trained = plan.trained_ratio
    copies = kept_bytes(plan)
    if keeps.sharding == "pytorch" and plan.zero == 3 and plan.master == "fp32":  # shards are the 32-bit weights
        copies = (plan.recipe.still_bytes or plan.recipe.gather_bytes) * (1.0 - trained)
    plain = held.plain * (2.0 - copies) * plan.recipe.frozen / (dense if plan.zero == 3 else 1)
    piped = (plan.zero == 3) * (np.asarray(plan.pp) > 1)  # all microbatches share what is gathered once a step
    gathered = plan.recipe.gather_bytes * np.where(piped, True, plan.zero == 3 and not plan.reshard)
    if plan.offload != "none":  # gradients leave as they are reduced; the host keeps the copies
        device = (spread(2) if plan.zero < 2 else 0.0) * plan.gradient_bytes * trained
        stays = 0.0 if plan.offload == "weights" else spread(3) * copies + plain
        return stays + whole * gathered, device, 0.0 * whole
    reduced = keeps.sharding == "graph" and plan.zero > 0  # of one microbatch, gradients are scattered as they are made
    kept = np.where(np.asarray(plan.microbatches) == 1, shard, spread(2)) if reduced else spread(2)
    gradients: Num = np.where(piped, whole, kept) * plan.gradient_bytes  # whole ones until they are scattered
    if plan.zero and keeps.sharding == "deepspeed":
        gradients = gradients + (
            spread(1) * (6.0 if plan.zero == 1 else 4.0) if plan.gradient_bytes == 2.0 else spread(2) * 2.0
        )
    return (
        spread(3) * copies + plain + whole * gathered,
        gradients * trained,
        spread(1) * plan.optimizer_bytes * trained,
    )


def kept_bytes(plan: TrainPlan) -> float:
    """Bytes per weight between steps: frozen ones lie in the form that is gathered, which a pass transposes as it goes
    (TransformerEngine's 8-bit parameters; those of 4 bits lie in both orders, 9/16 of a byte each)."""
    copies, frozen = plan.recipe.weight_copies_bytes, plan.recipe.still_bytes or plan.recipe.gather_bytes
    return frozen + (copies - frozen) * plan.trained_ratio


def host_bytes(held: Held, plan: TrainPlan) -> Num:
    """Of host memory (or NVMe) for one rank: what is offloaded, and 32-bit gradients beside the optimizer's state."""
    shard = held.dense / data_groups(plan).sharding + held.experts / expert_groups(plan).sharding
    if plan.offload == "none":
        return 0.0 * shard
    weights = kept_bytes(plan) if plan.offload == "weights" else 0.0
    return shard * (weights + (plan.optimizer_bytes + 4.0) * plan.trained_ratio)


def bucket_bytes(held: Held, plan: TrainPlan, keeps: Keeping) -> Num:
    """DeepSpeed's buffers: gradients are copied together to be reduced (others reduce them where they lie), and ZeRO 3
    gives back the weights that it gathered only beyond a number of them. Gradients that accumulate in 32 bits are
    copied whole tensors at a time, the largest too."""
    if not plan.zero or keeps.sharding != "deepspeed":
        return 0.0
    whole = held.dense + held.experts
    live = np.minimum(whole, LIVE) * plan.recipe.gather_bytes if plan.zero == 3 else 0.0
    bucket = np.maximum(BUCKET, held.largest if plan.gradient_bytes > 2.0 else 0.0)
    return np.minimum(whole, bucket) * plan.gradient_bytes * plan.trained_ratio + live


def working_bytes(
    layer_bytes: Num, logits_bytes: Num, layer: Held, edges: tuple[Num, Num], plan: TrainPlan, keeps: Keeping
) -> tuple[Num, Num]:  # fmt: skip
    """Of the layer at work and of the head with its loss: activations and, where ZeRO 3 gathers layer by layer, whole
    weights of it and of the layer fetched ahead, and whole gradients. ``edges`` are parameters of embedding and head.

    FSDP2 leaves both gathered, and the last layer. Whole gradients are 16 bits as they come to be, while activations
    go, are copied into a buffer of the reduction's format, and that stays until the next layer's is made. Experts that
    ranks divide among them are a unit of their own, which takes turns with the rest of its layer.
    """
    whole, (embedding, head) = layer.dense + layer.experts, edges
    reduced, gather = plan.gradient_bytes * plan.trained_ratio, plan.recipe.gather_bytes
    if plan.zero != 3:
        return layer_bytes, logits_bytes
    if keeps.sharding != "pytorch":
        gather = 0.0 if keeps.sharding == "deepspeed" else gather
        largest = np.maximum(embedding, head)
        return (
            layer_bytes + whole * (2.0 * gather + reduced),
            logits_bytes + (largest + whole) * gather + largest * reduced,
        )
    gather = gather if plan.reshard else 0.0
    made = 2.0 * plan.trained_ratio
    stays = embedding * gather
    own = layer.experts * (np.asarray(plan.ep) > 1)
    there = np.where(own > 0, 1.0, 2.0) * whole * gather + stays
    busy = np.maximum(layer_bytes, (whole - own) * made) + there
    ends = (
        logits_bytes + (head + whole) * gather + stays,
        head * (made + reduced) + there,
        busy + head * reduced,
    )
    scattered = np.maximum(
        busy + np.where(own > 0, own, whole) * reduced, own * (made + reduced) + there - own * gather
    )
    return scattered, np.maximum(np.maximum(ends[0], ends[1]), ends[2])


def at_once(plan: TrainPlan, keeps: Keeping, flying: Num, micro: Count) -> Num:
    """1 where gradients come to be while the activations of a step's only, or first of ``micro``, backward pass go.

    An engine's buffers have their place before, and PyTorch's buckets of replicas. Its pipelines add up what autograd
    makes, so that nothing is there before the first backward pass: where all microbatches (``flying``) are by then.
    """
    copies = (keeps.sharding == "pytorch") & (plan.zero < 3) & (np.asarray(plan.dp * plan.cp) > 1)
    first = (np.asarray(micro) == 1) | ((keeps.sharding == "pytorch") & (flying >= micro * plan.vpp))
    return np.where(first & np.logical_not(copies | keeps.buffered), 1.0, 0.0)


def gradual(gradients: Num, activations: Num, layer: Num, edge: Num, once: Num) -> Num:
    """Bytes that are never there at once where a backward pass makes the gradients (``once``, see ``at_once``).

    Logits and all activations are there before it; gradients, its last layer and the other microbatches' activations at
    its end; in between they change layer by layer, so one of these ends is the peak. ``activations`` are its own.
    """
    early = activations + np.maximum(layer, edge)
    return once * np.minimum(gradients, early - layer)


def boundary_bytes(model: Model, plan: TrainPlan) -> float:
    """What one layer hands to the next of a microbatch, on one rank."""
    return plan.micro_batch * plan.seq / plan.cp * model.hidden * 2.0 / (plan.tp if plan.sp else 1)


def merged_bytes(model: Model, plan: TrainPlan, microbatches: Count) -> Num:
    """Logits of 16 bits of all microbatches but the one at work, on one rank (``Keeping.merged``)."""
    return (microbatches - 1) * plan.micro_batch * plan.seq / plan.cp * model.vocab / plan.tp * 2.0


def in_flight(shape: Shape, rank: int) -> float:
    """Chunks' worth of activations (of pp * vpp in the model) that a rank holds at most.

    Zero bubble keeps inputs until its late weight gradients, and so holds on every rank what 1F1B holds on the first,
    in a V too; ZB-2P twice that; DualPipe one more (arXiv 2412.19437, table 2), which DualPipeV counts in half stages.
    """
    most = shape.micro * shape.vpp
    deep = {"zero_bubble": shape.pp, "zb_2p": 2 * shape.pp - 1, "zb_v": 2 * shape.pp, "dualpipev": 2 * shape.pp + 1}
    if shape.schedule == "gpipe":
        return float(most)
    if shape.schedule in deep:
        return float(min(most, deep[shape.schedule]))
    return float(min(most, shape.pp + 1 if shape.dual else warm_up(shape, rank) + (not shape.paired)))


def peak(uses: list[MemoryUse]) -> MemoryUse:
    """The fullest of several ranks."""
    return max(uses, key=lambda use: float(np.max(use.total_bytes)))
