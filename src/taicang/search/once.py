"""A cost model that prices each distinct operator once, and only for the candidates that exist.

Attention does not depend on how experts are laid out, nor experts on how many stages there are: of the operators of a
space most repeat. Arrays do not hash; three of their numbers do, and those alike in them are compared. Of the cells of
a table some are no layout, and many do not fit the memory; of the others many are alike in what an expert kernel, an
exchange or a collective asks for. These, whose formulas are the dearest, are priced once for all that are alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.cost.cost import Cost
from taicang.lower.program import some
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
FEW = 512
"""Candidates of which it does not pay to look for those that are alike."""
DENSE = 64
"""Codes for each candidate beyond which sorting them is quicker than a table of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """``costs`` with a memory for operators of arrays; ``forget`` bounds that memory."""

    costs: Callable[[Operator, float, float], Cost]
    known: dict[Any, list[tuple[list[NDArray[Any]], Cost]]] = field(default_factory=dict, repr=False, compare=False)
    exists: NDArray[np.bool_] | None = None
    """Which cells are candidates: of the shape of the largest operators."""

    def price(self, op: Operator, cube_ratio: float, vector_ratio: float) -> Cost:
        """Cost of ``op``, remembered. Packed operators keep their seconds; of the parts only whether they communicate.

        Their cells without a candidate are ones.
        """
        if isinstance(op, PACKED):
            return self._alike(op, cube_ratio, vector_ratio, self.exists)
        values = [getattr(op, name) for name in _NAMES[type(op)]]
        arrays = [v for v in values if isinstance(v, np.ndarray)]
        alike = self.known.setdefault((type(op), cube_ratio, vector_ratio, *map(_hashed, values)), [])
        for seen, cost in alike:
            if all(map(np.array_equal, seen, arrays)):
                return cost
        price = self._alike if isinstance(op, Collective) else self.costs
        found = price(op, cube_ratio, vector_ratio)
        alike.append((arrays, found))
        return found

    def _alike(self, op: Any, cube_ratio: float, vector_ratio: float, exists: NDArray[np.bool_] | None = None) -> Cost:
        """``op`` priced once for all candidates that are alike in it."""
        arrays = {name: v for name in _NAMES[type(op)] if isinstance(v := getattr(op, name), np.ndarray) and v.ndim}
        shape = np.broadcast_shapes(*(v.shape for v in arrays.values()))
        if math.prod(shape) < FEW:
            return self.costs(op, cube_ratio, vector_ratio)
        mask = np.ones(shape, dtype=bool)
        if exists is not None and len(shape) == exists.ndim:
            same = tuple(axis for axis, size in enumerate(shape) if size == 1)
            mask = np.broadcast_to(exists.any(axis=same, keepdims=True), shape)
        kept, place = distinct(arrays, mask)
        cost = self.costs(replace(op, **kept), cube_ratio, vector_ratio)
        seconds = np.ones(shape)
        seconds[mask] = np.asarray(cost.seconds)[place]
        return Cost(seconds=seconds, network_s=float(some(cost.network_s)), origin=cost.origin)

    def forget(self) -> None:
        """Drop what is remembered (between layouts that share no operator)."""
        self.known.clear()


def distinct(
    arrays: dict[str, NDArray[Any]], mask: NDArray[np.bool_]
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """The cells of ``mask`` that differ in any of ``arrays``, and which of them each cell is."""
    values: dict[str, NDArray[Any]] = {}
    place: Any = np.zeros(int(mask.sum()), dtype=np.int64)
    count = 1
    for name, array in arrays.items():
        whole = array.shape == mask.shape  # else there are few, which are told apart before they are spread out
        own, mine = _values(array[mask] if whole else array)
        if not whole:
            mine = np.broadcast_to(mine.reshape(array.shape), mask.shape)[mask]
        rows, place = _ranked(place * own.size + mine, count * own.size)
        values = {each: v[rows // own.size] for each, v in values.items()} | {name: own[rows % own.size]}
        count = rows.size
    return values, place


def _values(array: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The distinct values of ``array`` and the place of each element's among them; they are few, so found quickly."""
    ordered = np.sort(array, axis=None)
    first = np.ones(ordered.size, dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    own = ordered[first]
    return own, np.searchsorted(own, array)


def _ranked(codes: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct ones of ``codes``, which are below ``size``, and the place of each code among them."""
    if size > DENSE * codes.size:
        return np.unique(codes, return_inverse=True)
    there = np.zeros(size, dtype=bool)
    there[codes] = True
    return np.flatnonzero(there), (np.cumsum(there) - 1)[codes]


def _hashed(value: Any) -> Any:
    """``value``, or what tells most arrays apart."""
    if not isinstance(value, np.ndarray):
        return value
    places = (0, value.size // 2, -1) if value.size else ()
    return value.dtype.char, value.shape, *map(value.item, places)
