"""A workload as a graph: what each rank computes and exchanges, and what must be done before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["compute", "collective", "send", "receive", "none"]
Collective: TypeAlias = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "barrier"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One node of a rank's graph."""

    id: int
    name: str
    kind: Kind
    after: tuple[int, ...] = ()
    """Ids of tasks of the same rank that are done before."""
    seconds: float = 0.0
    """Of a "compute" task, where its time is known."""
    flop: float = 0.0
    """Of a "compute" task whose time is not."""
    moved_bytes: float = 0.0
    """Of memory, of the same."""
    collective: Collective = "barrier"
    payload_bytes: float = 0.0
    """Of a collective, the input of one rank (its output, where each rank's is a part of that: see ``execute``)."""
    group: str = ""
    """Name of a collective's group ("": all ranks)."""
    peer: int = -1
    """Other rank of a send or receive."""
    tag: int = 0
    dims: tuple[bool, ...] = ()
    """Dimensions of the network that a collective crosses (none given: all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Graphs by rank. One graph alone stands for all ranks."""

    name: str
    ranks: Mapping[int, Sequence[Task]]
    groups: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...] = ()
