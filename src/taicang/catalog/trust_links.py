"""How far the closed form of a collective can be trusted: by its kind, library and the level over which ranks meet."""

from __future__ import annotations

import math

from taicang.catalog.trust import FURTHER, NINE_IN_TEN, Band, recorded, unvalidated
from taicang.hardware import Level, Machine

LINKS = {
    "ranks": "{:,.0f} ranks; {:,.0f} to {:,.0f}", "sent_bytes": "{:,.0f} bytes; {:,.0f} to {:,.0f}",
    "bytes_per_s": "links of {:.3g} bytes/s; {:.3g} to {:.3g}",
}  # fmt: skip
"""What a collective is asked for and what was measured, as it is told."""


def met(machine: Machine, ranks: float, plane: str = "scale_up") -> Level:
    """The innermost level that holds so many ranks."""
    levels = machine.plane(plane).levels
    return next((level for level in levels if ranks <= level.ranks), levels[-1])


def links_key(kind: str, level: Level, flavour: str = "nccl") -> str:
    """What measurements of a collective among ranks that meet over ``level`` are filed under."""
    return (
        f"{kind.replace('_', '-')}{'' if flavour in ('', 'nccl') else ' ' + flavour} over {level.profile or level.name}"
    )


def links_band(key: str, **asked: float) -> Band:
    """The band of a collective's closed form; ``asked``: its "ranks", "sent_bytes" and its links' "bytes_per_s"."""
    pool = recorded().get("collectives", {}).get(key)
    if pool is None:
        return unvalidated(f"no measured {key}")
    for name, value in asked.items():
        low, high = pool[name]
        if not low / FURTHER <= value <= high * FURTHER:
            return unvalidated(f"{key}: {LINKS[name].format(value, low, high)} were measured")
    half, nine = pool["errors"]
    return Band(verdict=NINE_IN_TEN, low_ratio=math.exp(-nine), high_ratio=math.exp(nine),
                typical_ratio=math.expm1(half), rows=pool["rows"], basis=key)  # fmt: skip
