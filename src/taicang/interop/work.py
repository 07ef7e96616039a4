"""A workload as a graph: what each rank computes and exchanges, what must be done before; and its files as bytes."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias, cast

from taicang.errors import InvalidInput

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


def opened(path: Path) -> IO[bytes]:
    """``path`` to read from; gzip is told by its name."""
    return cast("IO[bytes]", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def all_of(path: Path, most: int) -> bytes:
    """All bytes of ``path``. Raises ``InvalidInput`` for what cannot be read, or has more than ``most``."""
    try:
        with opened(path) as file:
            data = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"cannot be read ({error})", where=str(path)) from None
    if len(data) > most:
        raise InvalidInput(f"more than {most >> 20} MiB", where=str(path))
    return data
