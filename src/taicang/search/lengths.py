"""Lengths of requests: one for all, or those of an embedded profile by their mean and mean square."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from taicang.catalog.profiles import profile
from taicang.errors import InvalidInput

DRAWS = 100_000
"""Evenly spaced quantiles that stand for a profile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Mean tokens of a prompt and an output, and how unequal they are (mean square over square of the mean)."""

    input_tokens: float
    output_tokens: float
    input_spread_ratio: float = 1.0
    output_spread_ratio: float = 1.0
    profile: str = ""
    """Name of the profile they are of; requests are drawn from it where the load is replayed."""


def of_profile(name: str) -> Lengths:
    """Lengths of the embedded profile ``name``. ``UnknownName`` suggests the nearest."""
    found = profile(name)
    mean, spread = zip(*(_moments(name, found, key) for key in ("input", "output")), strict=True)
    return Lengths(
        input_tokens=mean[0],
        output_tokens=mean[1],
        input_spread_ratio=spread[0],
        output_spread_ratio=spread[1],
        profile=name,
    )


def _moments(name: str, found: Mapping[str, Any], key: str) -> tuple[float, float]:
    table = found.get(f"{key}_quantiles")
    if not table:
        raise InvalidInput(f"{name} has no {key} lengths", where="--profile")
    at, values = (np.array(list(map(float, each))) for each in (table.keys(), table.values()))
    order = np.argsort(at)
    drawn = np.interp((np.arange(DRAWS) + 0.5) / DRAWS, at[order], values[order])
    whole = np.maximum(np.round(drawn), 1.0)
    mean = float(whole.mean())
    return mean, float((whole * whole).mean()) / (mean * mean)
