"""What the instances did: one row for each step, or for each stretch of equal decode steps."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from taicang.serve.instance import Instance
from taicang.serve.record import COARSE, STAMP

FIELDS = ("start", "end", "steps", "sequences", "grains", "tokens", "prompts", "pairs", "keys", "pool")
"""Stamps (see ``record``); decode steps; sequences decoding and their cached tokens in grains; prompt tokens, prompts,
query-key pairs and keys; the number of the pool. Sums over the attention groups."""


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
        rows.extend((start >> COARSE, now >> COARSE, steps, sequences, grains, tokens, prompts, int(pairs), keys, pool))

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
