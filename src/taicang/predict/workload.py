"""A workload of another simulator, on its own network or on a machine of the catalogue."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from math import prod
from pathlib import Path

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.catalog.trust import Band, unvalidated
from taicang.errors import InvalidInput
from taicang.interop import astra, chakra, execute, logical, simai
from taicang.interop.execute import Ran, Span
from taicang.interop.work import Task, Workload
from taicang.ops import Collective, Transfer
from taicang.stacks import BARE


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """What came of a workload."""

    workload: str
    network: str
    ranks: int
    tasks: int
    seconds: float
    """Until the last rank is done."""
    by_rank: dict[int, Ran]
    """Of one graph that stands for all, rank 0."""
    spans: tuple[Span, ...]
    notes: tuple[str, ...]
    bands: Mapping[str, Band]


def load(path: Path) -> Workload:
    """A workload file, or the prefix of one for each rank; its kind is told by how it begins."""
    return simai.read(path) if os.path.isfile(path) and simai.is_one(path) else chakra.read(path)


def on_network(path: Path, network: Path, system: Path | None) -> Executed:
    """``path`` on the network and system of ASTRA-sim's files."""
    dims = astra.network(network)
    how = astra.system(system, len(dims)) if system else astra.System(algorithms={})
    ranks = prod(dim.ranks for dim in dims)

    def price(task: Task, members: Sequence[int]) -> float:
        if task.kind == "send":
            return logical.send_s(task.payload_bytes, members[0], members[1], dims, how)
        return logical.seconds(task.collective, task.payload_bytes, _crossed(dims, members, ranks, task), how)

    return _executed(load(path), network.name, ranks, price, how.peak_flop_per_s, how.memory_bytes_per_s)


def _crossed(dims: Sequence[astra.Dimension], members: Sequence[int], ranks: int, task: Task) -> list[astra.Dimension]:
    """Dimensions that a group spans, each with the ranks that meet in it; others as of one rank."""
    if len(members) == ranks and not task.dims:
        return list(dims)
    made, stride = [], 1
    for index, dim in enumerate(dims):
        met = len({member // stride % dim.ranks for member in members})
        wanted = not task.dims or (index < len(task.dims) and task.dims[index])
        made.append(replace(dim, ranks=met if wanted else 1))
        stride *= dim.ranks
    return made


def on_machine(path: Path, name: str, sets: Sequence[str] = ()) -> Executed:
    """``path`` on a machine of the catalogue: collectives and messages at its own prices."""
    machine = catalog.machine(name, sets)
    costs = cost_model(machine, BARE)
    chip = machine.chip

    priced = lru_cache(maxsize=None)(lambda op: float(costs.price(op, 1.0, 1.0).seconds))
    sizes = [level.ranks for level in machine.plane("scale_up").levels[:-1]]

    def price(task: Task, members: Sequence[int]) -> float:
        if task.kind == "send":
            away = abs(members[0] - members[1])
            # neighbours by number may sit in two nodes
            parted = [size for size in sizes if members[0] // size != members[1] // size]
            move = Transfer(payload_bytes=task.payload_bytes, plane="scale_up", distance=max(away, 1, *parted))
            return priced(move)
        if task.collective == "barrier" or len(members) < 2 or not task.payload_bytes:
            return 0.0
        whole = task.payload_bytes * (len(members) if task.collective == "all_gather" else 1)
        # in a broadcast each rank receives the whole, as in an all-gather of it
        kind = "all_gather" if task.collective == "broadcast" else task.collective
        op = Collective(kind=kind, payload_bytes=whole, ranks=len(members), stride=_apart(members, sizes))
        return priced(op)

    return _executed(
        load(path), machine.name, machine.ranks, price, max(chip.peak_flop_per_s.values()),
        chip.memory.bandwidth_bytes_per_s,
    )  # fmt: skip


def _apart(members: Sequence[int], sizes: Sequence[int]) -> float:
    """How far apart the ranks of a group lie. Where that differs: so that the outermost units that part it hold as many
    of them as the fullest of these does."""
    strides = {b - a for a, b in pairwise(sorted(members))}
    if len(strides) == 1:
        return strides.pop()
    for size in reversed(sizes):
        held = Counter(member // size for member in members)
        if len(held) > 1:
            return max(size / max(held.values()), 1.0)
    return 1.0


def _executed(
    workload: Workload,
    network: str,
    ranks: int,
    price: execute.Price,
    peak_flop_per_s: float | None,
    memory_bytes_per_s: float | None,
) -> Executed:
    untimed = 0

    def compute(task: Task) -> float:
        nonlocal untimed
        if task.seconds:
            return task.seconds
        if not task.flop or peak_flop_per_s is None:
            untimed += 1
            return 0.0
        return max(task.flop / peak_flop_per_s, task.moved_bytes / memory_bytes_per_s if memory_bytes_per_s else 0.0)

    if len(workload.ranks) > ranks:
        raise InvalidInput(f"{len(workload.ranks)} ranks on a network of {ranks}", where=workload.name)
    spans: list[Span] = []
    found = execute.run(workload, ranks, price, compute, spans=spans)
    notes = list(workload.notes)
    if untimed:
        notes.append(f"{untimed:,} computations have no time, and no FLOPs that could be priced: they take none")
    if len(workload.ranks) == 1 and ranks > 1:
        notes.append("one graph stands for all ranks, which move in step")
    return Executed(
        workload=workload.name, network=network, ranks=ranks, tasks=sum(map(len, workload.ranks.values())),
        seconds=max(each.seconds for each in found.values()), by_rank=found, spans=tuple(spans), notes=tuple(notes),
        bands={"workload": unvalidated("no measured run of a workload of another simulator was compared")},
    )  # fmt: skip
