"""Which layers each model chunk of a pipeline holds, and what a chunk costs."""

from __future__ import annotations

from taicang.errors import InvalidPlan
from taicang.models.types import Block, Model
from taicang.train_plans import TrainPlan


def layers_of(model: Model, plan: TrainPlan) -> list[list[Block]]:
    """Blocks of one layer each, by chunk in model order.

    Layers are dealt evenly. Where they do not divide, embedding and head count as a layer each if that makes them
    divide (126 layers in 64 chunks); else the first chunks hold one more. MTP layers sit with the head.
    """
    layers = [block for block in model.blocks for _ in range(block.count)]
    chunks = plan.pp * plan.vpp
    if chunks == 1:
        return [layers]
    if len(layers) % chunks and (len(layers) + 2) % chunks == 0:
        each = (len(layers) + 2) // chunks
        counts = [each - 1, *[each] * (chunks - 2), each - 1]
    else:
        each, more = divmod(len(layers), chunks)
        counts = [each + (i < more) for i in range(chunks)]
    if max(counts) < 1:
        raise InvalidPlan(f"{len(layers)} layers cannot fill {chunks} pipeline chunks")
    made, at = [], 0
    for count in counts:
        made.append(layers[at : at + count])
        at += count
    return made
