"""Prefill and decode pools: instance counts whose rates match, exhaustively and without pricing anything again.

Of the prefill rows whose TTFT holds only those on the front of TTFT against rate of each instance size can be part of a
best plan, and of the decode rows only those on the front of TPOT against rate: a swap for a row that they beat never
lowers the rate, needs no more chips and breaks no limit. Likewise every chip that prefill leaves goes to decode
instances. ``covered`` counts the combinations that this answers for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.search.points import Floats, Points
from taicang.serve.queueing import busiest, fewest


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What prefill instances carry by their size (rows) and number (columns), and the row of each that carries most."""

    chips: Floats
    row: NDArray[np.int64]
    rate: Floats


def feed(prefill: Points, *, chips: int, ttft_s: float, within_ratio: float) -> Feed:
    """Prefill instances that ``chips`` chips hold, as busy as leaves TTFT of ``within_ratio`` of the requests within
    ``ttft_s``: a faster batch may be kept less busy than a smaller one."""
    ok = np.flatnonzero(prefill.ttft_s <= ttft_s)
    sizes = _sizes(prefill.chips[ok])
    counts = np.arange(chips // max(sizes.min(initial=chips), 1.0) + 2.0)
    row, rate = np.zeros((sizes.size, counts.size), dtype=np.int64), np.zeros((sizes.size, counts.size))
    for i, size in enumerate(sizes):
        mine = _front(prefill, ok[prefill.chips[ok] == size], ttft_s)
        whole, alone = counts * prefill.requests_per_s[mine][:, None], prefill.ttft_s[mine][:, None]
        carried = whole * busiest(whole, alone, limit_s=ttft_s, within_ratio=within_ratio)
        best = np.argmax(carried, axis=0)
        row[i], rate[i] = mine[best], carried[best, np.arange(counts.size)]
    return Feed(chips=sizes, row=row, rate=rate)


def _sizes(chips: Floats) -> Floats:
    return np.asarray(sorted(set(chips.tolist())))  # np.unique loads masked arrays


def _front(prefill: Points, rows: Any, ttft_s: float) -> Any:
    """Of ``rows`` those that no other beats in both TTFT and rate: the fastest alone where there is no limit."""
    found = rows[front(low=prefill.ttft_s[rows], high=prefill.requests_per_s[rows])]
    return found[-1:] if np.isinf(ttft_s) else found


def decode_front(decode: Points) -> NDArray[np.int64]:
    """Rows on the front of TPOT against rate of each instance size."""
    rows = [np.zeros(0, dtype=np.int64)]
    for chips in _sizes(decode.chips):
        mine = np.flatnonzero(decode.chips == chips)
        rows.append(mine[front(low=decode.tpot_s[mine], high=decode.requests_per_s[mine])])
    return np.concatenate(rows)


def best_rows(points: Points, *, ttft_s: float, tpot_s: float) -> NDArray[np.int64]:
    """Row of the highest rate of each layout within the limits."""
    ok: Any = np.flatnonzero((points.ttft_s <= ttft_s) & (points.tpot_s <= tpot_s))
    most = np.zeros(len(points.plans))
    np.fmax.at(most, points.layout[ok], points.requests_per_s[ok])
    ok = ok[points.requests_per_s[ok] == most[points.layout[ok]]]  # few: sorting all would take longer
    order: NDArray[np.int64] = ok[np.lexsort((points.tpot_s[ok], points.layout[ok]))]
    return order[np.unique(points.layout[order], return_index=True)[1]]


def matched(
    prefill: Points, decode: Points, rows: NDArray[np.int64], *, chips: int, ttft_s: float, within_ratio: float
) -> Pairs:
    """For each of the decode ``rows``, the best prefill instances beside it on ``chips`` chips, if there is room."""
    fed = feed(prefill, chips=chips, ttft_s=ttft_s, within_ratio=within_ratio)
    size, of = fed.chips[:, None], np.arange(fed.chips.size)[:, None]
    drawn, other = decode.requests_per_s[rows], decode.chips[rows]

    def left(count: Any) -> Any:
        return np.floor_divide(chips - count * size, other) * drawn

    # more prefill instances feed more and leave less: the best count is the last that the rest can take, or the next
    few = np.zeros((size.size, rows.size), dtype=np.int64)
    many = few + (chips // size).astype(np.int64) + 1
    while (apart := many - few > 1).any():
        middle = np.where(apart, (few + many) // 2, few)
        takes = fed.rate[of, middle] <= left(middle)
        few, many = np.where(takes, middle, few), np.where(takes | ~apart, many, middle)
    counts = np.stack([few, few + 1], axis=1).reshape(2 * size.size, rows.size)
    rates = [np.minimum(fed.rate[of, each], left(each)) for each in (few, few + 1)]
    rate = np.stack(rates, axis=1).reshape(counts.shape)
    keep = np.flatnonzero(rate.max(axis=0, initial=0.0) > 0)
    at = np.argmax(rate[:, keep], axis=0) if keep.size else keep
    count = counts[at, keep]
    return _pairs(prefill, decode, fed.row[at // 2, count], rows[keep], count.astype(float), rate[at, keep])


def holding(
    prefill: Points, decode: Points, rows: NDArray[np.int64], *, chips: int, ttft_s: float, within_ratio: float,
    asked_per_s: Callable[[Any, Any], Any],
) -> Pairs:  # fmt: skip
    """For each of the decode ``rows``, the prefill instances beside it on ``chips`` chips with which users are served
    soonest, if any hold them all; ``asked_per_s`` says of TTFT and TPOT what they then send."""
    within = np.flatnonzero(prefill.ttft_s <= ttft_s)
    sized = [within[prefill.chips[within] == size] for size in _sizes(prefill.chips[within])]
    fronts = [each[front(low=prefill.ttft_s[each], high=prefill.requests_per_s[each])] for each in sized]
    first = np.concatenate([np.zeros(0, dtype=np.int64), *fronts])
    alone = prefill.ttft_s[first][:, None]
    asked = asked_per_s(alone, decode.tpot_s[rows])
    count = fewest(asked, prefill.requests_per_s[first][:, None], alone, limit_s=ttft_s, within_ratio=within_ratio)
    left = np.floor_divide(chips - count * prefill.chips[first][:, None], decode.chips[rows])
    rate = np.where(left * decode.requests_per_s[rows] >= asked, asked, 0.0)
    keep = np.flatnonzero(rate.max(axis=0, initial=0.0) > 0)
    at = np.argmax(rate[:, keep], axis=0) if keep.size else keep
    return _pairs(prefill, decode, first[at], rows[keep], count[at, keep], rate[at, keep])


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


def smallest(
    prefill: Points, decode: Points, rows: NDArray[np.int64], *, load_per_s: float | None, ttft_s: float,
    within_ratio: float, asked_per_s: Callable[[Any, Any], Any],
) -> Pairs:  # fmt: skip
    """The fewest chips that carry ``load_per_s`` requests per second (or what users send), for each of the decode
    ``rows``."""
    first = _front(prefill, np.flatnonzero(prefill.ttft_s <= ttft_s), ttft_s)
    if np.isinf(ttft_s):  # what keeps up is enough: any size may do it with the fewest chips
        first = np.arange(prefill.size)
    rate, alone = prefill.requests_per_s[first], prefill.ttft_s[first]
    load = np.broadcast_to(load_per_s or asked_per_s(alone.min(initial=np.inf), decode.tpot_s[rows]), rows.shape)
    need = fewest(load, rate[:, None], alone[:, None], limit_s=ttft_s, within_ratio=within_ratio)
    if not np.isfinite(need).any():
        return _pairs(prefill, decode, first[:0], first[:0], np.zeros(0), np.zeros(0))
    at = np.argmin(need * prefill.chips[first][:, None], axis=0)
    return _pairs(prefill, decode, first[at], rows, need[at, np.arange(rows.size)], load)


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


def front(*, low: Any, high: Any) -> NDArray[np.int64]:
    """Rows that no other beats with a ``low`` as low and a ``high`` as high, by rising ``low``."""
    low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    order = np.argsort(low)
    rows = np.sort(order[high[order] >= np.maximum.accumulate(high[order])]) if order.size else order
    order = rows[np.lexsort((-high[rows], low[rows]))]  # of equal ones some are left
    reached = np.maximum.accumulate(high[order]) if order.size else high
    first = np.ones(order.size, dtype=bool)
    first[1:] = high[order][1:] > reached[:-1]
    return order[first]
