"""A cost model that prices each distinct operator once, and only for the candidates that exist.

Attention does not depend on how experts are laid out, nor experts on how many stages there are: of the operators of a
space most repeat. Arrays do not hash; their bytes do. Of the cells of a table some are no layout, and many do not fit
the memory; of the others many are alike in what an expert kernel, an exchange or a collective asks for. These, whose
formulas are the dearest, are priced once for all that are alike.
"""

from __future__ import annotations

import math
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
FEW = 512
"""Candidates of which it does not pay to look for those that are alike."""
GOLDEN, SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(52)
"""Fibonacci hashing of a number's bits into 4,096 places."""
DENSE = 64
"""Codes for each candidate beyond which sorting them is quicker than a table of all."""


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
        if isinstance(op, PACKED):
            return self._alike(op, cube_ratio, vector_ratio, self.exists)
        key = (_key(op), cube_ratio, vector_ratio)
        found = self.known.get(key)
        if found is None:
            price = self._alike if isinstance(op, Collective) else self.costs
            found = self.known[key] = price(op, cube_ratio, vector_ratio)
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
        distinct, place = _distinct(arrays, mask)
        cost = self.costs(replace(op, **distinct), cube_ratio, vector_ratio)
        seconds = np.ones(shape)
        seconds[mask] = np.asarray(cost.seconds)[place]
        return Cost(seconds=seconds, network_s=float(np.any(np.asarray(cost.network_s) > 0)), origin=cost.origin)

    def forget(self) -> None:
        """Drop what is remembered (between layouts that share no operator)."""
        self.known.clear()


def _distinct(
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
    """The distinct values of ``array`` and the place of each element's among them; quick where they are few."""
    hashed = ((np.ascontiguousarray(array, dtype=np.float64).view(np.uint64) * GOLDEN) >> SHIFT).astype(np.int64)
    held = np.zeros(1 << (64 - int(SHIFT)), dtype=array.dtype)
    held[hashed] = array
    if not np.array_equal(held[hashed], array):
        return np.unique(array, return_inverse=True)
    rows, place = _ranked(hashed.ravel(), held.size)
    return held[rows], place


def _ranked(codes: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct ones of ``codes``, which are below ``size``, and the place of each code among them."""
    if size > DENSE * codes.size:
        return np.unique(codes, return_inverse=True)
    there = np.zeros(size, dtype=bool)
    there[codes] = True
    return np.flatnonzero(there), (np.cumsum(there) - 1)[codes]


def _key(op: Operator) -> tuple[Any, ...]:
    values = [getattr(op, name) for name in _NAMES[type(op)]]
    return type(op), *[(v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for v in values]
