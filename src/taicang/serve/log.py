"""What the instances did: one row for each step, or for each stretch of equal decode steps."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from taicang.serve.instance import Instance
from taicang.serve.record import COARSE

FIELDS = ("start", "end", "steps", "sequences", "grains", "tokens", "prompts", "pairs", "keys")
"""Stamps (see ``record``); decode steps; sequences decoding and their cached tokens in grains; prompt tokens, prompts,
query-key pairs and keys. Sums over the attention groups."""


class Log:
    """Rows of integers by instance, in order of time."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows: dict[int, array[int]] = {}

    def step(self, instance: Instance, now: int) -> None:
        """``instance`` is about to finish what it began."""
        start, steps, sequences, grains, (tokens, prompts, pairs, keys) = instance.doing()
        rows = self._rows.get(instance.name)
        if rows is None:
            rows = self._rows[instance.name] = array("q")
        rows.extend((start >> COARSE, now >> COARSE, steps, sequences, grains, tokens, prompts, int(pairs), keys))

    @property
    def names(self) -> list[int]:
        """Instances that did anything."""
        return sorted(self._rows)

    def of(self, name: int) -> Mapping[str, NDArray[np.int64]]:
        """The rows of one instance as columns."""
        rows = np.frombuffer(self._rows.get(name, array("q")), dtype=np.int64).reshape(-1, len(FIELDS))
        return {field: rows[:, i] for i, field in enumerate(FIELDS)}

    def __len__(self) -> int:
        return sum(map(len, self._rows.values())) // len(FIELDS)
