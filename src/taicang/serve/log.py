"""What the instances did: a row for each step, or for each stretch of equal decode steps; and the time between tokens.

A request's tokens come with the decode steps of its instance from the time it joined. A step's own duration is one gap;
the first step of a row also waits for whatever ran since the last decode step (prompts in steps of their own), and a
request's first gap counts from its first token. Durations are sorted into classes a sixteenth of an octave wide.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from struct import Struct, error
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.serve.instance import Instance
from taicang.serve.record import COARSE, STAMP, too_long

FIELDS = ("start", "end", "steps", "sequences", "grains", "tokens", "prompts", "pairs", "keys", "pool")
"""Stamps (see ``record``); decode steps; sequences decoding and their cached tokens in grains; prompt tokens, prompts,
query-key pairs and keys; the number of the pool. Sums over the attention groups."""
PACKED = Struct(f"={len(FIELDS)}q").pack


class Log:
    """Rows of integers by instance, in order of time."""

    __slots__ = ("_pools", "_rows")

    def __init__(self, pools: Iterable[str]) -> None:
        self._rows: dict[int, array[int]] = {}
        self._pools = {name: i for i, name in enumerate(pools)}

    def step(self, instance: Instance, now: int) -> None:
        """``instance`` is about to finish what it began."""
        start, steps, sequences, grains, (tokens, prompts, pairs, keys) = instance.doing()
        rows = self._rows.get(instance.name)
        if rows is None:
            rows = self._rows[instance.name] = array("q")
        pool = self._pools[instance.pool]
        try:
            rows.frombytes(PACKED(start >> COARSE, now >> COARSE, steps, sequences, grains, tokens, prompts, int(pairs),
                                  keys, pool))  # fmt: skip
        except error:
            raise too_long() from None

    def since(self, stamp: int) -> Log:
        """A copy of the rows that end after ``stamp``."""
        found, width = Log(self._pools), len(FIELDS)
        for name, rows in self._rows.items():
            left = rows[width * int(np.searchsorted(np.frombuffer(rows, dtype=np.int64)[1::width], stamp, "right")) :]
            if left:
                found._rows[name] = left
        return found

    @property
    def names(self) -> list[int]:
        """Instances that did anything."""
        return sorted(self._rows)

    def of(self, name: int, pool: str = "") -> Mapping[str, NDArray[np.int64]]:
        """The rows of one instance as columns, or those of its time in one pool."""
        rows = np.frombuffer(self._rows.get(name, array("q")), dtype=np.int64).reshape(-1, len(FIELDS))
        if pool:
            mine = rows[:, -1] == self._pools[pool]
            rows = rows if mine.all() else rows[mine]
        return {field: rows[:, i] for i, field in enumerate(FIELDS)}

    def worked(self, pool: str) -> NDArray[np.float64]:
        """Start and end in seconds, and the instance, of everything that was done in ``pool``."""
        names = self.names if pool in self._pools else []
        rows = [self.of(name, pool) for name in names]
        made = [np.stack([each["start"] / STAMP, each["end"] / STAMP, np.full(len(each["end"]), name)], axis=1)
                for name, each in zip(names, rows, strict=True)]  # fmt: skip
        return np.concatenate([np.zeros((0, 3)), *made])

    def __len__(self) -> int:
        return sum(map(len, self._rows.values())) // len(FIELDS)


FINENESS = 16
QUANTILES = (0.5, 0.99)


def _class(stamps: Any) -> Any:
    return np.floor(np.log2(np.maximum(stamps, 1.0)) * FINENESS).astype(np.int64)


def _seconds(key: Any) -> Any:
    return np.exp2((np.asarray(key, dtype=float) + 0.5) / FINENESS) / STAMP


def _decode(rows: Mapping[str, NDArray[np.int64]]) -> tuple[Any, ...]:
    """(start, end, steps, class of a step, class of a row's first gap, sequences that first gap is of) of the rows that
    decode."""
    at = np.flatnonzero(rows["steps"] > 0)
    start, end, steps, alive = (rows[name][at] for name in ("start", "end", "steps", "sequences"))
    each = (end - start) / np.maximum(steps, 1)
    # prompts in steps of their own keep waiting whoever decodes
    stalled = np.where((rows["steps"] == 0) & (rows["sequences"] > 0), rows["end"] - rows["start"], 0)
    upto = np.concatenate([[0], np.cumsum(stalled)])
    between = np.diff(upto[at], prepend=0)
    before = rows["sequences"][np.maximum(at - 1, 0)]
    waited = np.where(between > 0, np.minimum(before, alive), 0)
    return start, end, steps, _class(each), _class(each + between), waited


def token_gaps(log: Log, names: list[int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(durations in seconds, rising; tokens that came after each) over all tokens but the first ones."""
    total: dict[int, int] = {}
    for name in names:
        rows = log.of(name)
        _, _, steps, each, first, waited = _decode(rows)
        alive = rows["sequences"][rows["steps"] > 0]
        for keys, counts in ((each, alive * steps - waited), (first, waited)):
            unique, inverse = np.unique(keys, return_inverse=True)
            for key, count in zip(unique.tolist(), np.bincount(inverse, weights=counts).tolist(), strict=True):
                total[key] = total.get(key, 0) + round(count)
    keys = np.asarray(sorted(key for key, count in total.items() if count))
    return _seconds(keys), np.asarray([total[key] for key in keys.tolist()], dtype=float)


def request_gaps(log: Log, raw: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
    """Median, 99th percentile and longest gap of each request in seconds; NaN where it was interrupted or has none."""
    count = len(raw["id"])
    found = {f"itl_{name}_s": np.full(count, np.nan) for name in ("p50", "p99", "max")}
    whole = (raw["preempted"] == 0) & (raw["retries"] == 0) & (raw["failed"] == 0)
    usable = (raw["output"] > 1) & whole & (raw["first"] >= 0)
    for name in sorted(set(raw["place"].tolist())):  # np.unique loads masked arrays
        chosen = np.flatnonzero(usable & (raw["place"] == name))
        if len(chosen):
            for column, values in zip(found.values(), _of_instance(log, name, raw, chosen), strict=True):
                column[chosen] = values
    return found


def _of_instance(log: Log, name: int, raw: Mapping[str, NDArray[np.int64]], chosen: Any) -> tuple[Any, Any, Any]:
    start, end, steps, each, first, _ = _decode(log.of(name))
    born = raw["first"][chosen]
    low = np.searchsorted(start, np.maximum(born, raw["moved"][chosen]))
    high = np.searchsorted(end, raw["end"][chosen], side="right")
    # a request that waited for room to decode joined later: its last output - 1 steps are its own
    made = np.concatenate([[0], np.cumsum(steps)])
    joined = np.searchsorted(made, made[high] - (raw["output"][chosen] - 1), side="right") - 1
    low = np.minimum(np.maximum(low, joined), np.maximum(high - 1, 0))
    if not len(start):
        nothing = np.full(len(chosen), np.nan)
        return nothing, nothing, nothing
    own = _class(start[low] - born + (end[low] - start[low]) / steps[low])
    total = made[high] - made[low]
    reached = np.zeros(len(chosen), dtype=np.int64)
    marks = [np.full(len(chosen), -1) for _ in QUANTILES]
    top = np.full(len(chosen), -1)
    more, head = steps - 1, first[low]
    upto = np.zeros(len(steps) + 1, dtype=np.int64)
    for key in sorted({*each.tolist(), *first.tolist(), *own.tolist()}):
        np.cumsum(more * (each == key) + (first == key), out=upto[1:])
        here = upto[high] - upto[low] - (head == key) + (own == key)
        reached += here
        top[here > 0] = key
        for mark, q in zip(marks, QUANTILES, strict=True):
            mark[(mark < 0) & (reached >= q * total)] = key
    return _seconds(marks[0]), _seconds(marks[1]), _seconds(top)
