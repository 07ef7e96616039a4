"""Max-min fair rates of flows that share links, and the time until all of them are through.

A set of rates is max-min fair if no flow can have more without taking from one that has no more. Progressive filling
finds it (Bertsekas and Gallager, Data Networks, 6.5.2): raise all rates together, and fix those of a link that fills.
Here every link that is the narrowest of all its flows fills in the same round, since nothing elsewhere can change its
share; the number of rounds is the depth of that order, not the number of links.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from taicang.fabric.routing import Paths
from taicang.fabric.topology import Floats, Ints

IDLE = 0.02
"""Rates are found anew before the flows that are through would leave more than this share of the rest idle."""
EPOCHS = 128
"""... or before a part in so many of the time has passed, whatever they leave."""
EXACT = 1e-12
NEAR = 5e-3
"""Shares that differ by less count as one while flows drain."""


def loads(paths: Paths, size_bytes: Floats, count: int) -> Floats:
    """Bytes on each resource once all flows are through."""
    entry = np.repeat(size_bytes, np.diff(paths.first)) * paths.share
    found: Floats = np.bincount(paths.resource, weights=entry, minlength=count).astype(np.float64)
    return found


def max_min(paths: Paths, capacity_bytes_per_s: Floats, slack_ratio: float = EXACT) -> Floats:
    """Max-min fair rate of every flow in B/s; infinite for one that uses no link.

    A link also fills where its share is within ``slack_ratio`` of the narrowest of its flows': far fewer rounds, and
    no rate above what is fair or below it by more than about that.
    """
    flows = len(paths.first) - 1
    rates = np.full(flows, np.inf)
    left = capacity_bytes_per_s.astype(np.float64).copy()
    length = np.diff(paths.first)
    active = np.flatnonzero(length > 0)
    resource, share = paths.resource, paths.share
    starts = paths.first[active]
    spans = length[active]
    while len(active):
        used = np.bincount(resource, weights=share, minlength=len(left))
        with np.errstate(divide="ignore", invalid="ignore"):
            each = np.where(used > 0, left / used, np.inf)
        here = each[resource]
        least = np.minimum.reduceat(here, starts)
        slack = np.repeat(least * (1.0 + slack_ratio), spans)
        tight = here <= slack
        entries = np.bincount(resource, minlength=len(left))
        narrow = np.bincount(resource[tight], minlength=len(left)) == entries
        done = np.logical_or.reduceat(narrow[resource] & tight, starts)
        rates[active[done]] = least[done]
        gone = np.repeat(done, spans)
        left -= np.bincount(resource[gone], weights=(np.repeat(least, spans) * share)[gone], minlength=len(left))
        np.maximum(left, 0.0, out=left)
        resource, share = resource[~gone], share[~gone]
        active, spans = active[~done], spans[~done]
        starts = np.concatenate([[0], np.cumsum(spans)[:-1]]) if len(spans) else spans
    return rates


Course: TypeAlias = tuple[tuple[float, Floats], ...]
"""Until when, and how busy each level's links are in the mean, of those that carry anything at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """When the flows were through."""

    seconds: float
    busy_bytes: Floats
    """Bytes that each resource carried."""
    finish_s: Floats
    """Of each flow."""
    course: Course = ()


def shares(carried: Floats, used: Floats, capacity: Floats, level: Ints) -> Floats:
    """Mean of ``carried`` (bytes, or bytes/s) over ``capacity`` by level, over the links that are in use."""
    mine = used > 0
    count = int(level.max(initial=-1)) + 1
    total = np.bincount(level[mine], weights=carried[mine] / capacity[mine], minlength=count)
    found: Floats = total / np.maximum(np.bincount(level[mine], minlength=count), 1)
    return found


def drain(
    paths: Paths, size_bytes: Floats, capacity_bytes_per_s: Floats, level: Ints | None = None, idle_ratio: float = IDLE
) -> Drained:
    """Send all flows at once at max-min fair rates until the last is through.

    Equal flows need no rounds: the last ones share the fullest link from beginning to end. Otherwise rates are found
    anew as flows finish, those that finish close to each other together, as long as what they leave idle until then is
    less than ``idle_ratio`` of what all carry, or within a part in ``EPOCHS`` of the whole time. With the ``level`` of
    each resource, how busy it was on the way is told too.
    """
    carried = loads(paths, size_bytes, len(capacity_bytes_per_s))
    with np.errstate(divide="ignore", invalid="ignore"):
        least = float(np.nanmax(np.where(carried > 0, carried / capacity_bytes_per_s, 0.0), initial=0.0))
    finish = np.zeros(len(size_bytes))
    remaining = size_bytes.astype(np.float64).copy()
    rows = np.flatnonzero((remaining > 0) & (np.diff(paths.first) > 0))
    if not len(rows):
        return Drained(seconds=0.0, busy_bytes=carried, finish_s=finish)
    if np.ptp(remaining[rows]) <= 1e-9 * remaining[rows].max():
        rates = max_min(paths, capacity_bytes_per_s)
        finish[rows] = np.minimum(remaining[rows] / rates[rows], least)
        even = () if level is None else ((least, shares(carried / least, carried, capacity_bytes_per_s, level)),)
        return Drained(seconds=least, busy_bytes=carried, finish_s=finish, course=even)
    now, course = 0.0, list[tuple[float, Floats]]()
    while len(rows):
        few = subset(paths, rows)
        rates = max_min(few, capacity_bytes_per_s, NEAR)
        needed = remaining[rows] / rates
        order = np.argsort(needed)
        sorted_, rate = needed[order], rates[order]
        idle = np.cumsum(rate) * sorted_ - np.cumsum(rate * sorted_)
        last = np.flatnonzero(idle <= idle_ratio * rate.sum() * sorted_)[-1]
        last = max(last, int(np.searchsorted(sorted_, least / EPOCHS)) - 1)
        if now + float(sorted_[-1]) <= least * (1.0 + NEAR):  # the fullest link was never idle: nothing is left to gain
            last = len(sorted_) - 1
        step = float(sorted_[last])
        through = needed <= step * (1.0 + 1e-9)
        finish[rows[through]] = now + needed[through]
        remaining[rows] -= rates * step
        now += step
        if level is not None:
            moved = loads(few, np.minimum(rates, remaining[rows] / step + rates), len(carried))
            course.append((now, shares(moved, carried, capacity_bytes_per_s, level)))
        rows = rows[~through]
    return Drained(seconds=float(finish.max()), busy_bytes=carried, finish_s=finish, course=tuple(course))


def subset(paths: Paths, rows: Ints) -> Paths:
    """The routes of some flows."""
    spans = np.diff(paths.first)
    if len(rows) == len(spans):
        return paths
    kept = np.zeros(len(spans), dtype=bool)
    kept[rows] = True
    entry = np.repeat(kept, spans)
    first = np.concatenate([[0], np.cumsum(spans[rows])])
    return Paths(first=first, resource=paths.resource[entry], share=paths.share[entry])
