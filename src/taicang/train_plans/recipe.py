"""Formats of a training step: what products run in, what weights, gradients and optimizer state are kept in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from taicang.errors import UnknownName


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Formats of one training step (names from ``formats``)."""

    name: str
    products: str
    """Linear layers and experts, forward and backward; embedding, head and attention core stay in bf16."""
    experts: str = ""
    """Format of the experts' grouped products where it is another."""
    weight_copies_bytes: float = 2.0
    """Bytes per parameter of the weights that products read (an 8-bit recipe keeps a transposed copy too)."""
    gather_bytes: float = 2.0
    """Bytes per parameter that a parameter gather moves."""
    still_bytes: float = 0.0
    """Bytes per parameter of weights that do not train beside adapters (0: as they are gathered)."""
    frozen: bool = False
    """Whether weights do not train in this format; products take them back to 16 bits, and embedding and head stay."""


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="bf16", products="bf16"),
        Recipe(name="fp16", products="bf16"),  # kernels of 16 bits: see ``hardware.in_half``
        Recipe(name="fp8", products="fp8", weight_copies_bytes=2.0, gather_bytes=1.0),
        Recipe(name="fp8_block", products="fp8_block", weight_copies_bytes=2.0, gather_bytes=2.0),
        # matrix units scale MX blocks themselves: grouped products run like plain fp8, not like emulated blocks
        Recipe(name="mxfp8", products="mxfp8", experts="fp8", weight_copies_bytes=2.1, gather_bytes=2.0),
        Recipe(name="nvfp4", products="nvfp4", weight_copies_bytes=3.2, gather_bytes=2.0, still_bytes=1.125),
        Recipe(name="int8", products="int8", weight_copies_bytes=2.0, gather_bytes=2.0),
        # QLoRA (arXiv 2305.14314): 4 bits, and 0.127 for scales that are quantised themselves
        Recipe(name="nf4", products="bf16", weight_copies_bytes=4.127 / 8, gather_bytes=4.127 / 8, frozen=True),
    )
}
MOMENTS: Final[Mapping[str, float]] = MappingProxyType({"fp32": 4.0, "bf16": 2.0, "fp8": 1.0})
"""Bytes per parameter of one of Adam's two moments (8-bit ones: arXiv 2110.02861; DeepSeek-V3 keeps them in bf16)."""
MASTERS: Final[Mapping[str, float]] = MappingProxyType({"fp32": 4.0, "remainder": 2.0, "none": 0.0})
"""Bytes per parameter beside the 16-bit weight: a 32-bit copy, the 16 bits that such a copy has more, or nothing (then
updates round stochastically)."""


GRADIENTS: Final[Mapping[str, float]] = MappingProxyType({"fp32": 4.0, "bf16": 2.0, "fp16": 2.0})
"""Bytes per gradient, kept and reduced."""


def recipe(name: str) -> Recipe:
    """The recipe by name; ``UnknownName`` suggests the nearest."""
    try:
        return RECIPES[name]
    except KeyError:
        raise UnknownName("training recipe", name, RECIPES) from None
