"""Which layers each model chunk of a pipeline holds, and where embedding, MTP layers and head sit."""

from __future__ import annotations

import re
from dataclasses import dataclass

from taicang.errors import InvalidPlan
from taicang.models.types import Block, Model
from taicang.train_plans import TrainPlan

_CHUNK = re.compile(r"(E?)(\d*)(M?)(L?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One chunk's part of the model: ``blocks`` of one layer each, in model order."""

    blocks: tuple[Block, ...]
    embedding: bool
    mtp: bool
    head: bool


def shares(model: Model, plan: TrainPlan) -> list[Share]:
    """Parts of the model by chunk in model order, as ``plan.stages`` says.

    Without it layers are dealt evenly. Where they do not divide, embedding and head count as a layer each if that makes
    them divide (126 layers in 64 chunks); else the first chunks hold one more. MTP layers sit with the head. Raises
    ``InvalidPlan`` for stages that are not the model.
    """
    layers = [block for block in model.blocks for _ in range(block.count)]
    counts, marks = _said(plan) if plan.stages else (_dealt(len(layers), plan.chunks), [""] * plan.chunks)
    if sum(counts) != len(layers):
        raise InvalidPlan(f"stages hold {sum(counts)} layers, {model.name} has {len(layers)}")
    places = {"E": _place(marks, "E", 0), "M": _place(marks, "M", -1), "L": _place(marks, "L", -1)}
    made, at = [], 0
    for i, count in enumerate(counts):
        blocks = tuple(layers[at : at + count])
        share = Share(blocks=blocks, embedding=places["E"] == i, mtp=places["M"] == i, head=places["L"] == i)
        made.append(share)
        at += count
    return made


def _dealt(layers: int, chunks: int) -> list[int]:
    if chunks > 1 and layers % chunks and (layers + 2) % chunks == 0:
        each = (layers + 2) // chunks
        return [each - 1, *[each] * (chunks - 2), each - 1]
    each, more = divmod(layers, chunks)
    return [each + (i < more) for i in range(chunks)]


def _repeated(part: str) -> list[str]:
    """Chunks of one entry: "7 x 3" is three of seven layers, of which "E7 x 3" starts with the embedding."""
    each, _, count = part.partition(" X ")
    return [each, *[each.strip("EML")] * (int(count) - 1)] if count.isdigit() and int(count) else [part]


def _said(plan: TrainPlan) -> tuple[list[int], list[str]]:
    parts = [each for part in plan.stages.split(",") for each in _repeated(part.strip().upper())]
    if len(parts) != plan.chunks:
        raise InvalidPlan(f"stages name {len(parts)} chunks, pp x vpp = {plan.chunks}")
    counts, marks = [], []
    for part in parts:
        found = _CHUNK.fullmatch(part)
        if not part or found is None:
            raise InvalidPlan(
                f"cannot read stage {part!r}: a number of layers, with E, M, L in this order as in 'E15ML'"
            )
        counts.append(int(found[2] or 0))
        marks.append(found[1] + found[3] + found[4])
    return counts, marks


def _place(marks: list[str], letter: str, default: int) -> int:
    found = [i for i, mark in enumerate(marks) if letter in mark]
    if len(found) > 1:
        raise InvalidPlan(f"{letter} stands in {len(found)} stages")
    ends = {"E": 0, "L": len(marks) - 1}
    if found and letter in ends and found[0] != ends[letter]:
        raise InvalidPlan(f"{letter} belongs in the {'first' if letter == 'E' else 'last'} chunk, where the model does")
    return found[0] if found else range(len(marks))[default]
