"""A cost model that prices each distinct operator once, however many layouts share it.

Attention does not depend on how experts are laid out, nor experts on how many stages there are: of the operators of a
space most repeat. Arrays do not hash; their bytes do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from taicang.cost.cost import Cost
from taicang.ops import (
    Attend,
    Collective,
    Exchange,
    Gemm,
    GroupedGemm,
    Host,
    Lookup,
    Operator,
    Pointwise,
    Transfer,
)

KINDS = (Attend, Collective, Exchange, Gemm, GroupedGemm, Host, Lookup, Pointwise, Transfer)
_NAMES = {kind: tuple(f.name for f in fields(kind)) for kind in KINDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """``costs`` with a memory for operators of arrays; ``forget`` bounds that memory."""

    costs: Callable[[Operator, float, float], Cost]
    known: dict[Any, Cost] = field(default_factory=dict, repr=False, compare=False)

    def price(self, op: Operator, cube_ratio: float, vector_ratio: float) -> Cost:
        """Cost of ``op``, remembered."""
        key = (_key(op), cube_ratio, vector_ratio)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = self.costs(op, cube_ratio, vector_ratio)
        return found

    def forget(self) -> None:
        """Drop what is remembered (between layouts that share no operator)."""
        self.known.clear()


def _key(op: Operator) -> tuple[Any, ...]:
    values = [getattr(op, name) for name in _NAMES[type(op)]]
    return type(op), *[(v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for v in values]
