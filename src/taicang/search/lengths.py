"""Lengths of requests: one for all, or those of an embedded profile by their moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.catalog.profiles import profile
from taicang.errors import InvalidInput
from taicang.serve.uneven import EVEN, Spread, spread

DRAWS = 100_000
"""Evenly spaced quantiles that stand for a profile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Mean tokens of a prompt and an output, and how unequal they are."""

    input_tokens: float
    output_tokens: float
    spread: Spread = EVEN
    profile: str = ""
    """Name of the profile they are of; requests are drawn from it where the load is replayed."""


def of_profile(name: str) -> Lengths:
    """Lengths of the embedded profile ``name``. ``UnknownName`` suggests the nearest."""
    found = profile(name)
    inputs, outputs = (_drawn(name, found, key) for key in ("input", "output"))
    return Lengths(
        input_tokens=float(inputs.mean()),
        output_tokens=float(outputs.mean()),
        spread=spread(inputs, outputs),
        profile=name,
    )


def _drawn(name: str, found: Mapping[str, Any], key: str) -> NDArray[np.float64]:
    table = found.get(f"{key}_quantiles")
    if not table:
        raise InvalidInput(f"{name} has no {key} lengths", where="--profile")
    at, values = (np.array(list(map(float, each))) for each in (table.keys(), table.values()))
    order = np.argsort(at)
    drawn = np.interp((np.arange(DRAWS) + 0.5) / DRAWS, at[order], values[order])
    whole: NDArray[np.float64] = np.maximum(np.round(drawn), 1.0)
    return whole
