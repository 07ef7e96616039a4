"""Values that nobody computed: what the program reads of them is invented, and told once per run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from taicang.virtual.kernels import Kernels

TOLD: dict[str, int] = {}
"""What was invented, and how often."""
SKEW = [0.0]
"""Exponent of the power law that invented choices among few follow (0: uniform)."""
CHOICES = ("topk", "sort", "argmax", "argmin", "max", "min", "argsort", "multinomial")
"""Operators that return places along a dimension."""
ROUTER = 4096
"""A choice among at most so many is a router's."""


def tell(what: str) -> None:
    """Remember that something was invented."""
    TOLD[what] = TOLD.get(what, 0) + 1


def choose(kernels: Kernels, name: str, args: Any, tensor: torch.Tensor) -> None:
    """Places along a dimension that follow from unknown numbers: drawn, so that what depends on them is consistent."""
    if name == "all" and tensor.dtype == torch.bool and kernels.small(tensor):
        kernels.host(tensor).fill_(True)
        kernels.device.know(tensor.untyped_storage().data_ptr(), 1)
        tell("whether something holds for all of a tensor (yes)")
    if name not in CHOICES or tensor.dtype != torch.int64 or not kernels.small(tensor):
        return
    if name in ("max", "min") and not (len(args) > 1 and isinstance(args[1], int)):
        return  # the largest number of all, no place
    scores = args[0]
    dim = next((each for each in args[1:] if isinstance(each, int) and not isinstance(each, bool)), -1)
    if name == "topk":
        dim = args[2] if len(args) > 2 else -1
    elif name in ("sort", "argsort", "multinomial"):
        dim = args[1] if len(args) > 1 and isinstance(args[1], int) and name != "multinomial" else -1
    many = scores.shape[dim] if scores.dim() else 1
    out = kernels.host(tensor)
    if name in ("topk", "sort", "argsort") and scores.dim():
        _distinct(out, dim, many)
        tell(
            "the experts that a router chooses"
            if name == "topk" and many <= ROUTER
            else f"the places that {name} returns"
        )
    else:
        out.copy_(torch.randint(0, max(many, 1), tuple(out.shape), generator=_generator()))
        tell(f"the places that {name} returns (such as the next token)")
    kernels.device.know(tensor.untyped_storage().data_ptr(), 1)


GENERATOR: list[torch.Generator] = []


def _generator() -> torch.Generator:
    if not GENERATOR:
        GENERATOR.append(torch.Generator().manual_seed(0))
    return GENERATOR[0]


def _distinct(out: torch.Tensor, dim: int, many: int) -> None:
    """``k`` different places of ``many`` in each row: noise decides, weighted by the power law where one is set."""
    wanted = out.transpose(dim, -1)
    k = wanted.shape[-1]
    rows = max(wanted.numel() // max(k, 1), 1)
    if SKEW[0] == 0.0 and many > ROUTER:  # any distinct places will do
        starts = torch.randint(0, many, (rows, 1), generator=_generator())
        picked = (starts + torch.arange(k)) % many
    else:
        weights = -SKEW[0] * torch.log(torch.arange(1, many + 1, dtype=torch.float64))
        noise = -torch.log(-torch.log(torch.rand(rows, many, generator=_generator(), dtype=torch.float64) + 1e-12))
        picked = (weights + noise).topk(k, dim=-1).indices
    wanted.copy_(picked.reshape(wanted.shape))


def scalar(tensor: torch.Tensor) -> bool | int | float:
    """What the program reads of one unknown number: nothing, no, zero."""
    kind = tensor.dtype
    tell(f"a {'yes or no (no)' if kind == torch.bool else 'number (0)'} that the program reads from the device")
    if kind == torch.bool:
        return False
    return 0.0 if kind.is_floating_point else 0
