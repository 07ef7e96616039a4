"""A scheduled run for other tools: trace events for ui.perfetto.dev (a process per rank, a thread per stream), and the
last step as a graph of tasks for simulators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from taicang.catalog.costing import training_price
from taicang.errors import InvalidInput
from taicang.interop.work import Task, Workload
from taicang.ops import Transfer
from taicang.predict.chakra import exchanged
from taicang.trace_events import Event, file, mark, process, span
from taicang.virtual.capture import (
    BLOCK,
    COLLECTIVE,
    GRAPHED,
    KERNEL,
    MARK,
    MEET,
    RECORD,
    WAIT_DEVICE,
    WAIT_EVENT,
    WAIT_STREAM,
    WAIT_WORK,
    Capture,
    Rank,
)
from taicang.virtual.members import members_of
from taicang.virtual.operators import Kernel
from taicang.virtual.price import Priced
from taicang.virtual.report import Scheduled, last_step

MOST = 200_000
"""Kernels that are drawn per rank."""


def events(capture: Capture, scheduled: Scheduled) -> dict[str, Any]:
    """The file as plain data."""
    found: list[Event] = []
    for rank in capture.ranks:
        clock = scheduled.clocks[rank.rank]
        found.append(process(rank.rank, f"rank {rank.rank}"))
        rows = zip(rank.work[:MOST].tolist(), clock.begin, clock.end, strict=False)
        for (what, stream, value), begin, end in rows:
            place = rank.rank, stream
            if what in (KERNEL, GRAPHED, COLLECTIVE):
                kernel = rank.kernels[value]
                about = {"phase": kernel.phase, "group": kernel.group, "flop": kernel.flop}
                cat = "collective" if what == COLLECTIVE else "kernel"
                found.append(span(place, kernel.name, begin, end, cat, **about))
            elif what == MARK:
                found.append(mark(place, f"step {value}", begin))
    return file(found)


def workload(capture: Capture, scheduled: Scheduled) -> Workload:
    """The last step: kernels with their times, what they wait for, collectives and messages by what they move.

    The host's time to issue them is in no task. One rank alone stands for all.
    """
    if 1 < len(capture.ranks) < capture.world:
        raise InvalidInput(
            f"a Chakra trace is of one rank that stands for all, or of all {capture.world}; "
            f"{len(capture.ranks)} ran: give --ranks all",
            where="--chakra",
        )
    groups = {
        kernel.group: members_of(kernel.group)
        for rank in capture.ranks
        for kernel in rank.kernels
        if kernel.group and not kernel.group.startswith(MEET)
    }
    ranks = {rank.rank: tuple(_tasks(rank, scheduled.priced[rank.rank])) for rank in capture.ranks}
    return Workload(name=" ".join(capture.command), ranks=ranks, groups=groups)


def _tasks(rank: Rank, priced: Priced) -> Iterator[Task]:
    """Each task waits for the last one of its stream, and for what its stream and the host waited for before."""
    tails: dict[int, int] = {}
    blocks: dict[int, dict[int, int]] = {}  # by stream: the last task of each stream that it waits for
    events: dict[int, dict[int, int]] = {}
    host: dict[int, int] = {}
    number, cost = 0, training_price(priced.machine, priced.stack)
    for what, stream, value in rank.work[last_step(rank)].tolist():
        mine = blocks.setdefault(stream, {})
        if what in (KERNEL, GRAPHED, COLLECTIVE):
            after = tuple(sorted({*host.values(), *mine.values()}))
            yield _task(number, rank.kernels[value], priced.seconds[value], after, cost)
            tails[stream] = mine[stream] = number
            number += 1
        elif what == RECORD:
            events[value] = dict(mine)
        elif what == BLOCK:
            mine |= {at: max(last, mine.get(at, -1)) for at, last in events.get(value, {}).items()}
        elif what in (WAIT_EVENT, WAIT_STREAM, WAIT_WORK, WAIT_DEVICE):
            seen = {WAIT_EVENT: events.get(value, {}), WAIT_DEVICE: tails}.get(what, mine)
            host |= {at: max(last, host.get(at, -1)) for at, last in seen.items()}


def _task(number: int, kernel: Kernel, seconds: float, after: tuple[int, ...], cost: Any) -> Task:
    common: dict[str, Any] = {"id": number, "name": kernel.name, "after": after}
    if kernel.group.startswith(f"{MEET}:") and isinstance(kernel.op, Transfer):
        first, last = members_of(kernel.group)
        sends = kernel.name == "send"
        return Task(kind="send" if sends else "receive", peer=last if sends else first,
                    payload_bytes=float(kernel.op.payload_bytes), **common)  # fmt: skip
    if kernel.group:
        kind, size, ranks, _ = exchanged(kernel.op, cost(kernel.op, 1.0, 1.0))
        if kind is not None and ranks > 1:
            return Task(kind="collective", collective=kind, payload_bytes=size, group=kernel.group, **common)
    return Task(kind="compute", seconds=seconds, flop=kernel.flop, **common)
