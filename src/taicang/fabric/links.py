"""One message between two memories: what a verb reaches of the links, and what each tier of switches adds to it."""

from __future__ import annotations

from dataclasses import dataclass

from taicang.units import Num


@dataclass(frozen=True, slots=True, kw_only=True)
class VerbFit:
    """Constants of one verb on one kind of memory."""

    efficiency_ratio: float
    """Of the line rate, for large messages."""
    latency_s: float
    """Of a small message inside the innermost switched unit."""
    crossing_s: float
    """Added by each tier of switches beyond it, both ways."""


def message_s(fit: VerbFit, payload_bytes: Num, rate_bytes_per_s: Num, tiers: int) -> Num:
    """Seconds of one message over ``tiers`` of switches (1: a single switch)."""
    return (
        fit.latency_s + fit.crossing_s * max(tiers - 1, 0) + payload_bytes / (rate_bytes_per_s * fit.efficiency_ratio)
    )
