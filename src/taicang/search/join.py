"""Prefill and decode pools: instance counts whose rates match, exhaustively and without pricing anything again.

Of the prefill rows whose TTFT holds only the fastest of each instance size can be part of a best plan, and of the
decode rows only those on the front of TPOT against rate of each size: a swap for a row that they beat never lowers the
rate, needs no more chips and breaks no limit. Likewise every chip that prefill leaves goes to decode instances.
``covered`` counts the combinations that this answers for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.search.front import front
from taicang.search.points import Floats, Points


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Disaggregated plans as columns: rows of both tables and instances of each."""

    prefill_row: NDArray[np.int64]
    decode_row: NDArray[np.int64]
    prefill_instances: Floats
    decode_instances: Floats
    ttft_s: Floats
    tpot_s: Floats
    requests_per_s: Floats
    chips: Floats
    """In use."""


def fastest(prefill: Points, ttft_s: float) -> NDArray[np.int64]:
    """Row of the highest rate for each instance size, TTFT within ``ttft_s``."""
    ok = np.flatnonzero(prefill.ttft_s <= ttft_s)
    order = ok[np.lexsort((prefill.ttft_s[ok], -prefill.requests_per_s[ok], prefill.chips[ok]))]
    return order[np.unique(prefill.chips[order], return_index=True)[1]]


def decode_front(decode: Points) -> NDArray[np.int64]:
    """Rows on the front of TPOT against rate of each instance size."""
    rows = [np.zeros(0, dtype=np.int64)]
    for chips in sorted(set(decode.chips.tolist())):  # np.unique of floats loads masked arrays
        mine = np.flatnonzero(decode.chips == chips)
        rows.append(mine[front(low=decode.tpot_s[mine], high=decode.requests_per_s[mine])])
    return np.concatenate(rows)


def best_rows(points: Points, *, ttft_s: float, tpot_s: float) -> NDArray[np.int64]:
    """Row of the highest rate of each layout within the limits."""
    ok = np.flatnonzero((points.ttft_s <= ttft_s) & (points.tpot_s <= tpot_s))
    order = ok[np.lexsort((points.tpot_s[ok], -points.requests_per_s[ok], points.layout[ok]))]
    return order[np.unique(points.layout[order], return_index=True)[1]]


def matched(prefill: Points, decode: Points, rows: NDArray[np.int64], *, chips: int, ttft_s: float) -> Pairs:
    """For each of the decode ``rows``, the best prefill instances beside it on ``chips`` chips, if there is room."""
    first = fastest(prefill, ttft_s)
    fed, size = prefill.requests_per_s[first][:, None], prefill.chips[first][:, None]
    drawn, other = decode.requests_per_s[rows], decode.chips[rows]

    def left(count: Any) -> Any:
        return np.floor_divide(chips - count * size, other) * drawn

    # more prefill instances feed more and leave less: the best count is the last that the rest can take, or the next
    few = np.zeros((first.size, rows.size))
    many = few + np.floor_divide(chips, size) + 1.0
    while (apart := many - few > 1.0).any():
        middle = np.where(apart, np.floor((few + many) / 2.0), few)
        takes = middle * fed <= left(middle)
        few, many = np.where(takes, middle, few), np.where(takes | ~apart, many, middle)
    counts = np.stack([few, few + 1.0], axis=1)
    rate = np.minimum(counts * fed[:, None], left(counts.swapaxes(0, 1)).swapaxes(0, 1))
    rate, counts = (each.reshape(2 * first.size, rows.size) for each in (rate, counts))
    keep = np.flatnonzero(rate.max(axis=0, initial=0.0) > 0)
    at = np.argmax(rate[:, keep], axis=0) if keep.size else keep
    return _pairs(prefill, decode, first[at // 2], rows[keep], counts[at, keep], rate[at, keep])


def _pairs(prefill: Points, decode: Points, first: Any, second: Any, count: Any, rate: Any) -> Pairs:
    # instances beyond those that the other pool can feed stay off
    decoders = np.ceil(rate / decode.requests_per_s[second] * (1.0 - 1e-12))
    return Pairs(
        prefill_row=first,
        decode_row=second,
        prefill_instances=count,
        decode_instances=decoders,
        ttft_s=prefill.ttft_s[first],
        tpot_s=decode.tpot_s[second],
        requests_per_s=rate,
        chips=count * prefill.chips[first] + decoders * decode.chips[second],
    )


def smallest(prefill: Points, decode: Points, rows: NDArray[np.int64], *, load_per_s: float, ttft_s: float) -> Pairs:
    """The fewest chips that carry ``load_per_s`` requests per second, for each of the decode ``rows``."""
    ok = np.flatnonzero(prefill.ttft_s <= ttft_s)
    if not ok.size:
        return _pairs(prefill, decode, ok, ok, np.zeros(0), np.zeros(0))
    need = np.ceil(load_per_s / prefill.requests_per_s[ok])
    at = int(np.argmin(need * prefill.chips[ok]))
    first, count = np.full(rows.size, ok[at]), np.full(rows.size, need[at])
    return _pairs(prefill, decode, first, rows, count, np.full(rows.size, load_per_s))


def covered(prefill: Points, decode: Points, *, chips: int, ttft_s: float, tpot_s: float) -> int:
    """Pairs of rows within the limits times the counts of instances that fit the machine."""
    total = 0
    sizes, rows = np.unique(decode.chips[decode.tpot_s <= tpot_s], return_counts=True)
    for size, times in zip(*np.unique(prefill.chips[prefill.ttft_s <= ttft_s], return_counts=True), strict=True):
        most = chips // int(size)
        for other, more in zip(sizes, rows, strict=True):
            total += int(times) * int(more) * _floor_sum(most, int(size), chips - most * int(size), int(other))
    return total


def _floor_sum(terms: int, slope: int, start: int, divisor: int) -> int:
    """Sum of (start + slope i) // divisor for i below ``terms``, as Euclid's algorithm goes."""
    total = 0
    while terms > 0:
        total += terms * (terms - 1) // 2 * (slope // divisor) + terms * (start // divisor)
        slope, start = slope % divisor, start % divisor
        last = slope * terms + start
        if last < divisor:
            break
        terms, start, slope, divisor = last // divisor, last % divisor, divisor, slope
    return total
