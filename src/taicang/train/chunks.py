"""What one model chunk costs per microbatch and holds: its layers, and embedding, MTP layers or head where they sit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taicang.lower.training import lower_layer
from taicang.lower.training_edges import lower_edges
from taicang.models.types import Block
from taicang.train import memory, sync
from taicang.train.layer import LayerTime, Price, Spent, added, layer_time, scaled, total
from taicang.train.memory import Held
from taicang.train.setup import Setup
from taicang.train.stages import Share, shares
from taicang.units import Num


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One model chunk's seconds for one microbatch and what its rank holds for it."""

    forward: Spent
    data: Spent
    weight: Spent
    held: Held
    saved_bytes: Num
    away_bytes: Num
    """Kept in the host's memory beside these."""
    layer_bytes: Num
    """Activations of the layer at work."""
    edge_bytes: Num
    """The same of embedding, or head and loss."""
    saved_s: Num
    """What its forward pass saves beside the backward pass of a chunk alike."""

    @property
    def seconds(self) -> float:
        """Of all passes."""
        return float(summed(self.forward) + summed(self.data) + summed(self.weight))


def summed(spent: Spent) -> float:
    """All lines together."""
    seconds = 0.0
    for part in spent.values():
        seconds = seconds + float(part)
    return seconds


class Layers:
    """Times of the model's layer kinds, priced once each."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.price: Price = lambda op: setup.price(op, 1.0, 1.0)
        self.known: dict[Block, tuple[LayerTime, Held]] = {}

    def __getitem__(self, block: Block) -> tuple[LayerTime, Held]:
        found = self.known.get(block)
        if found is None:
            setup = self.setup
            lowered = lower_layer(setup.model, block, setup.plan, setup.stack)
            made = layer_time(lowered, setup.plan, setup.stack, self.price, setup.tax)
            held = memory.layer_parameters(setup.model, block, setup.plan)
            found = self.known[block] = (made, held)
        return found


def priced(setup: Setup, layers: Layers) -> list[Chunk]:
    """All chunks in model order."""
    known: dict[Share, Chunk] = {}
    made = []
    for share in shares(setup.model, setup.plan):
        if share not in known:
            known[share] = _chunk(share, layers)
        made.append(known[share])
    return made


def _chunk(share: Share, layers: Layers) -> Chunk:
    setup = layers.setup
    plan, model, stack = setup.plan, setup.model, setup.stack
    counts: dict[Block, int] = {}
    for block in share.blocks:
        counts[block] = counts.get(block, 0) + 1
    if share.mtp and model.mtp_layers:
        counts[model.blocks[-1]] = counts.get(model.blocks[-1], 0) + model.mtp_layers
    forward: dict[str, Num] = {}
    data: dict[str, Num] = {}
    weight: dict[str, Num] = {}
    parts: list[tuple[Held, Num]] = []
    saved: Num = 0.0
    gone: Num = 0.0
    away = plan.activations_away_ratio
    working: Num = 0.0
    outside: Num = 0.0
    beside: Num = 0.0
    for block, count in counts.items():
        time, held = layers[block]
        back: Spent = added({"recompute": total(time.again), "launch gaps": stack.layer_gap_s}, time.data)
        front: Spent = time.forward
        backward_s = total(time.again) + total(time.data) + total(time.weight)
        beside_s = {"forward_s": total(front), "backward_s": backward_s}
        if plan.by_layer:
            again = plan.recompute_ratio if plan.recompute == "full" else 0.0
            ahead, behind = sync.layer_waits(
                sync.layer_load(held, plan, layers.price, stack.keeps), held, stack, setup.data_tax, **beside_s,
                again_ratio=again, issued_s=(time.issued_s[0], time.issued_s[1] + time.issued_s[2]),
            )  # fmt: skip
            front, back = added(front, {"data": ahead}), added(back, {"data": behind})
        if away:
            over, under = sync.away_s(time.saved_bytes * away, layers.price, **beside_s)
            front, back = added(front, {"host link": over}), added(back, {"host link": under})
        forward, data = added(forward, scaled(front, count)), added(data, scaled(back, count))
        weight = added(weight, scaled(time.weight, count))
        parts.append((held, count))
        saved = saved + time.saved_bytes * ((1.0 - away) * count)
        gone = gone + time.saved_bytes * (away * count)
        beside = beside + time.saved_s * count
        working = np.maximum(working, time.working_bytes)
    embedding, head = memory.edge_parameters(model, plan)
    heads = share.head + share.mtp * model.mtp_layers
    edges = lower_edges(model, plan, stack)
    for lowered, parameters, count in zip(edges, (embedding, head), (int(share.embedding), heads), strict=True):
        if not count:
            continue
        time = layer_time(lowered, plan, stack, layers.price, setup.tax)
        forward, data = added(forward, scaled(time.forward, count)), added(data, scaled(time.data, count))
        weight = added(weight, scaled(time.weight, count))
        parts.append((Held(dense=parameters, matrices=1.0, largest=parameters, plain=parameters), 1.0))
        outside = np.maximum(outside, time.working_bytes)
    if plan.by_layer:
        largest = max((layers[block][1] for block in counts), key=lambda each: float(np.max(each.dense + each.experts)))
        over, under = _ends(layers, (embedding, head))
        forward, data = added(forward, {"data": over}), added(data, {"data": under})
        working, outside = memory.working_bytes(working, outside, largest, (embedding, head), plan, stack.keeps)
    return Chunk(
        forward=forward, data=data, held=(held := memory.together(parts)),
        weight=added(weight, {"pointwise": sync.added_s(held, plan, stack, layers.price)}),
        saved_bytes=saved, away_bytes=gone, layer_bytes=working, edge_bytes=outside, saved_s=beside,
    )  # fmt: skip


def _ends(layers: Layers, edges: tuple[Num, Num]) -> tuple[Num, Num]:
    """What a step waits for at its ends, forward and backward."""
    setup = layers.setup
    time, held = layers[setup.model.blocks[-1]]
    return sync.edges_exposed(
        held, edges, setup.plan, setup.stack, setup.data_tax, layers.price, forward_s=total(time.forward),
        backward_s=total(time.again) + total(time.data) + total(time.weight),
    )  # fmt: skip


def held_by(chunks: Sequence[Chunk], rank: int, pp: int, *, folded: bool) -> list[Chunk]:
    """The chunks that one pipeline rank holds: every pp-th, or one and its mirror image."""
    return [chunks[rank], chunks[-1 - rank]] if folded else list(chunks[rank::pp])
