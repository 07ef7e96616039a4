"""What an operator costs: seconds, what they are made of, and where the constants came from."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from taicang.units import Num

RESOURCES = ("compute", "memory", "network", "latency")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Price of one operator on one rank; every field is a float or an array of the operator's shape.

    ``seconds`` is the answer. The four ``*_s`` parts are what each resource alone would need; with smooth saturation
    ``seconds`` is at least their maximum and at most their sum.
    """

    seconds: Num
    compute_s: Num = 0.0
    memory_s: Num = 0.0
    network_s: Num = 0.0
    latency_s: Num = 0.0
    """Launch floors, hops and synchronisation: what remains for an empty operator."""
    flop: Num = 0.0
    moved_bytes: Num = 0.0
    """Device-memory traffic."""
    sent_bytes: Num = 0.0
    """Network injection of this rank."""
    level_bytes: tuple[Num, ...] = ()
    """Of these, what meets its receiver at each level of the plane, from the innermost out."""
    origin: str = ""
    """Which constants priced it: calibration family, profile and kind."""

    @property
    def binds(self) -> str:
        """The resource with the largest part (scalar costs only)."""
        parts = (self.compute_s, self.memory_s, self.network_s, self.latency_s)
        return RESOURCES[int(np.argmax([float(p) for p in parts]))]


def faster(cost: Cost, other: Cost) -> Cost:
    """Whichever takes less time, for each candidate; ``cost`` where they take as long."""
    better = np.asarray(other.seconds) < np.asarray(cost.seconds)
    if better.ndim == 0 or not better.any():
        return other if better.any() else cost
    numbers = [each.name for each in fields(Cost) if each.name not in ("origin", "level_bytes")]
    chosen = {name: np.where(better, getattr(other, name), getattr(cost, name)) for name in numbers}
    levels = tuple(np.where(better, b, a) for a, b in zip(cost.level_bytes, other.level_bytes, strict=True))
    return Cost(**chosen, level_bytes=levels, origin=f"{cost.origin}, {other.origin}")


def saturate(*parts: Num, sharpness: float) -> Num:
    """Smooth maximum of non-negative times: their p-norm with p = ``sharpness``.

    p -> infinity is a perfect overlap of the resources (the roofline), p = 1 none at all. Monotone in every part.
    """
    top = parts[0]
    for part in parts[1:]:
        top = np.maximum(top, part)
    safe = np.maximum(top, 1e-30)
    total: Num = 0.0
    for part in parts:
        total = total + np.power(part / safe, sharpness)
    return safe * np.power(total, 1.0 / sharpness)
