"""The lowered step: operators of one rank with how often they run and on which stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from taicang.ops import Operator
from taicang.units import Count

Part: TypeAlias = Literal["embed", "attention", "ffn", "experts", "head", "draft", "host"]
Stream: TypeAlias = Literal["attention", "experts", "outside"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """``repeat`` runs of one operator; ``stream`` is where a two-microbatch schedule puts it (outside: alone)."""

    label: str
    part: Part
    op: Operator
    repeat: Count = 1
    stream: Stream = "outside"
    block: int = -1
    """Index of the model's block it belongs to (-1: none)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """All tasks of one step of one rank, in order; ``layers`` of them repeat the blocks' tasks."""

    tasks: tuple[Task, ...]
    layers: int

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)


def some(count: Count) -> bool:
    """Whether any candidate has a positive count; of most arrays the last one tells."""
    if not isinstance(count, np.ndarray):
        return bool(count > 0)
    return count.size > 0 and bool(count.item(-1) > 0 or (count > 0).any())


def where_some(count: Count) -> Count:
    """One where the count is positive, else zero: how often an operator of that size runs."""
    return np.where(np.asarray(count) > 0, 1.0, 0.0) if isinstance(count, np.ndarray) else float(count > 0)


def at_least_one(count: Count) -> Count:
    """``count``, or one where nothing runs (so that the operator has a shape; its repeat is zero there)."""
    return np.maximum(count, 1.0)
