"""The peak of a rank's memory, and what it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from taicang.virtual.capture import Rank

KINDS = ("weights", "gradients", "optimizer", "buffers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Bytes at the moment when most were allocated."""

    allocated_bytes: int
    reserved_bytes: int
    """Most that segments ever took, fragmentation included."""
    kinds_bytes: Mapping[str, int]


def peak(rank: Rank) -> Peak:
    """Most bytes of ``rank`` at once, by kind; what is no parameter, gradient or state counts as activations."""
    changes = rank.changes
    if not len(changes):
        return Peak(allocated_bytes=0, reserved_bytes=0, kinds_bytes={})
    held = np.cumsum(changes[:, 2])
    at = int(np.argmax(held))
    before = changes[: at + 1]
    freed = set(before[before[:, 2] < 0, 1].tolist())
    live = {int(n): int(b) for _, n, b, _ in before if b > 0 and int(n) not in freed}
    kinds: dict[str, int] = {}
    for name in KINDS:
        kinds[name] = sum(live.pop(number, 0) for number in rank.kinds.get(name, ()))
    kinds["activations and workspaces"] = sum(live.values())
    return Peak(
        allocated_bytes=int(held[at]),
        reserved_bytes=int(changes[:, 3].max()),
        kinds_bytes={name: size for name, size in kinds.items() if size},
    )
