"""A training stack with other abilities than its own: what it overlaps, fuses and captures in graphs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from taicang.errors import UnknownName
from taicang.stacks import Stack

OVERLAPS: Final = ("tensor", "tensor_gradients", "gradients", "registered", "interleaved_gradients", "parameters",
                   "pipeline", "expert_exchange", "shared_expert", "zero_bubble", "zb_2p", "zb_v", "dualpipe",
                   "dualpipev")  # fmt: skip
"""What a training stack can overlap ("tensor_gradients": tensor-parallel collectives of the backward pass behind other
products; "registered": data-parallel ones take no cores), and the schedules beyond 1F1B that the search may take."""
ALIASES: Final[Mapping[str, str]] = MappingProxyType({"mc2": "tensor"})
"""Other names of these words."""
GROUPED: Final = "grouped"
"""Word of ``fused`` for experts in one product (``Stack.grouped_experts``): it is there unless it is taken away."""
FUSIONS: Final = ("flash_attention", "expert_products", "fp8_attention", "fp8_stored", "loss_kernel", "chunked_loss",
                  "fused_loss")  # fmt: skip
"""Kernels of a training stack that take the place of several, or of slower ones ("fp8_stored": activations keep their
inputs in 8 bits)."""
PARTS: Final = ("mixer", "router", "experts")
"""Parts of a layer that a captured graph can replay."""


def changed(
    stack: Stack, overlap: Sequence[str] = (), fused: Sequence[str] = (), captured: Sequence[str] = ()
) -> Stack:
    """``stack`` with other abilities: each a list of its own ("none": nothing), or "+word" and "-word" changes.

    Raises ``UnknownName`` for a word that is none of ``OVERLAPS``, ``FUSIONS``, ``PARTS``.
    """
    grouped = stack.grouped_experts
    for word in fused:
        grouped = word[0] != "-" if word.lstrip("+-") == GROUPED else grouped
    fused = [word for word in fused if word.lstrip("+-") != GROUPED]
    return replace(
        stack,
        grouped_experts=grouped,
        overlap=_changed(stack.overlap, overlap, "overlap", OVERLAPS),
        fused=_changed(stack.fused, fused, "fusion", FUSIONS),
        captured=_changed(stack.captured, captured, "part of a layer", PARTS),
    )


def _changed(own: frozenset[str], words: Sequence[str], what: str, known: Collection[str]) -> frozenset[str]:
    if not words:
        return own
    words = [word[: word[:1] in "+-"] + ALIASES.get(bare := word.lstrip("+-"), bare) for word in words]
    changes = [word for word in words if word[:1] in "+-"]
    for word in words:
        if word.lstrip("+-") not in (*known, "none"):
            more = [*ALIASES] if what == "overlap" else [GROUPED] if what == "fusion" else []
            raise UnknownName(what, word.lstrip("+-"), [*known, *more])
    kept = set(own) if len(changes) == len(words) else {w for w in words if w[:1] not in "+-"} - {"none"}
    kept |= {word[1:] for word in changes if word[0] == "+"}
    return frozenset(kept - {word[1:] for word in changes if word[0] == "-"})
