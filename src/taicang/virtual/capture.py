"""What a run leaves: each executed rank's work and memory, as tables that are read without the program."""

from __future__ import annotations

import io
import json
import operator
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from taicang import ops, reading
from taicang.errors import InvalidInput
from taicang.output import write
from taicang.virtual.operators import Kernel

VERSION = 2
KERNEL, RECORD, BLOCK, WAIT_EVENT, WAIT_STREAM, WAIT_DEVICE, COLLECTIVE, MARK, WAIT_WORK, GRAPHED = range(10)
"""What an entry of the log says (the enumeration ``What`` of native/device.cpp; a kernel of a graph is ours)."""
MEET = "pair"
"""Name of the group of a message between two ranks."""
Ints = npt.NDArray[np.int64]
UNION: Mapping[str, Any] = MappingProxyType(
    {kind.__name__: kind for kind in (ops.Gemm, ops.GroupedGemm, ops.Attend, ops.Pointwise, ops.Lookup, ops.Collective,
                                      ops.Exchange, ops.Transfer, ops.Host)}
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """One executed rank."""

    rank: int
    kernels: tuple[Kernel, ...]
    work: Ints
    """Rows of what, stream, value."""
    changes: Ints
    """Rows of place in the work, number of the allocation, bytes, reserved bytes."""
    operands: Ints
    """Rows of place in the work, number of the allocation, bytes that are read or (negative) written."""
    kinds: Mapping[str, tuple[int, ...]]
    """Allocations by what they hold (weights, gradients, optimizer, buffers); the others are activations."""
    invented: Mapping[str, int]
    """Values that the program read and nobody computed, and how often."""
    notes: tuple[str, ...]
    """What was translated, skipped or approximated."""
    failure: str = ""
    """The out-of-memory message that ended the program."""
    calls: tuple[tuple[str, str, int, int], ...] = ()
    """Calls of CUDA's names on Ascend: name, file, line, how often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """All that was executed, and how many ranks the program believed in."""

    command: tuple[str, ...]
    machine: str
    world: int
    torch: str
    ranks: tuple[Rank, ...]
    fused: bool = False
    """Whether its kernels were joined (``fusion.fuse``)."""


def save(capture: Capture, folder: Path) -> None:
    """Write a capture: ``capture.json`` and a table per rank."""
    about = {"taicang_capture": VERSION} | {f: getattr(capture, f) for f in ("command", "machine", "world", "torch")}
    about["ranks"] = [each.rank for each in capture.ranks]
    files: dict[str, Any] = {"capture.json": json.dumps(about, indent=1)}
    for each in capture.ranks:
        files |= rank_files(each)
    write(files, folder, "--out")


def rank_files(rank: Rank) -> dict[str, bytes]:
    """One rank's two files by name."""
    tables = io.BytesIO()
    np.savez_compressed(tables, work=rank.work, changes=rank.changes, operands=rank.operands)
    return {
        f"rank-{rank.rank}.npz": tables.getvalue(),
        f"rank-{rank.rank}.json": json.dumps(
            {
                "rank": rank.rank, "kernels": [_plain(each) for each in rank.kernels], "kinds": dict(rank.kinds),
                "invented": dict(rank.invented), "notes": rank.notes, "failure": rank.failure,
                "calls": rank.calls,
            }
        ).encode(),
    }  # fmt: skip


def load(folder: Path) -> Capture:
    """Read it back; ``InvalidInput`` for what is no capture, or one of another version."""
    path = folder / "capture.json"
    about = reading.document(reading.text(path), str(path))
    if not isinstance(about, dict) or about.get("taicang_capture") != VERSION:
        found = about.get("taicang_capture") if isinstance(about, dict) else None
        raise InvalidInput(
            f"a capture of version {found}; this taicang reads version {VERSION}: run the program again",
            where=str(path),
        )
    with reading.expected("a capture", str(path)):
        world, listed = operator.index(about["world"]), [operator.index(rank) for rank in about["ranks"]]
        if not listed or len(set(listed)) < len(listed) or not all(0 <= rank < world for rank in listed):
            raise ValueError(f"ranks {listed} of {world}")
        return Capture(
            command=tuple(map(str, about["command"])),
            machine=str(about["machine"]),
            world=world,
            torch=str(about["torch"]),
            ranks=tuple(load_rank(folder, rank) for rank in listed),
        )


def load_rank(folder: Path, rank: int) -> Rank:
    """One rank's tables."""
    path = folder / f"rank-{rank}.json"
    about = reading.document(reading.text(path, most=reading.DOCUMENT), str(path))
    with reading.expected("a capture's table", str(path)):
        packed = io.BytesIO(reading.data(folder / f"rank-{rank}.npz"))
        if sum(each.file_size for each in zipfile.ZipFile(packed).infolist()) > reading.DOCUMENT:
            raise ValueError(f"more than {reading.DOCUMENT:,} bytes unpacked")
        packed.seek(0)
        with np.load(packed) as tables:
            work, changes, operands = (np.asarray(tables[name], np.int64) for name in ("work", "changes", "operands"))
        return Rank(
            rank=rank,
            kernels=tuple(_kernel(each) for each in about["kernels"]),
            work=work.reshape(len(work), 3),
            changes=changes.reshape(len(changes), 4),
            operands=operands.reshape(len(operands), 3),
            kinds={name: tuple(numbers) for name, numbers in about["kinds"].items()},
            invented=about["invented"],
            notes=tuple(about["notes"]),
            failure=about["failure"],
            calls=tuple(tuple(each) for each in about["calls"]),
        )


def _plain(kernel: Kernel) -> dict[str, Any]:
    return asdict(kernel) | {"op": {"kind_of_operator": type(kernel.op).__name__} | asdict(kernel.op)}


def _kernel(found: dict[str, Any]) -> Kernel:
    op = dict(found["op"])
    kind = UNION[op.pop("kind_of_operator")]
    names = {each.name for each in fields(kind)}
    return Kernel(**(found | {"op": kind(**{key: value for key, value in op.items() if key in names})}))
