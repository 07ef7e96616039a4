"""A cost model that prices each distinct operator once, and only for the candidates that exist.

Attention does not depend on how experts are laid out, nor experts on how many stages there are: of the operators of a
space most repeat. Arrays do not hash; their bytes do. Of the cells of a table some are no layout, and many do not fit
the memory: expert kernels and exchanges, whose formulas are the dearest, are priced for the others alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
PACKED = (GroupedGemm, Exchange)
SPARSE_RATIO = 0.8
"""Share of existing candidates above which packing them does not pay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """``costs`` with a memory for operators of arrays; ``forget`` bounds that memory."""

    costs: Callable[[Operator, float, float], Cost]
    known: dict[Any, Cost] = field(default_factory=dict, repr=False, compare=False)
    exists: NDArray[np.bool_] | None = None
    """Which cells are candidates: of the shape of the largest operators."""

    def price(self, op: Operator, cube_ratio: float, vector_ratio: float) -> Cost:
        """Cost of ``op``, remembered. Packed operators keep their seconds; of the parts only whether they communicate.

        Their cells without a candidate are ones.
        """
        if self.exists is not None and isinstance(op, PACKED):
            return self._packed(op, cube_ratio, vector_ratio, self.exists)
        key = (_key(op), cube_ratio, vector_ratio)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = self.costs(op, cube_ratio, vector_ratio)
        return found

    def _packed(self, op: Any, cube_ratio: float, vector_ratio: float, exists: NDArray[np.bool_]) -> Cost:
        arrays = {name: v for name in _NAMES[type(op)] if isinstance(v := getattr(op, name), np.ndarray) and v.ndim}
        shape = np.broadcast_shapes(*(v.shape for v in arrays.values()))
        if len(shape) != exists.ndim:
            return self.costs(op, cube_ratio, vector_ratio)
        alike = tuple(axis for axis, size in enumerate(shape) if size == 1)
        mask = np.broadcast_to(exists.any(axis=alike, keepdims=True), shape)
        if mask.sum() > SPARSE_RATIO * mask.size:
            return self.costs(op, cube_ratio, vector_ratio)
        cost = self.costs(
            replace(op, **{name: np.broadcast_to(v, shape)[mask] for name, v in arrays.items()}),
            cube_ratio,
            vector_ratio,
        )
        seconds = np.ones(shape)
        seconds[mask] = cost.seconds
        return Cost(seconds=seconds, network_s=float(np.any(np.asarray(cost.network_s) > 0)), origin=cost.origin)

    def forget(self) -> None:
        """Drop what is remembered (between layouts that share no operator)."""
        self.known.clear()


def _key(op: Operator) -> tuple[Any, ...]:
    values = [getattr(op, name) for name in _NAMES[type(op)]]
    return type(op), *[(v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for v in values]
