"""A scheduled run as trace events for ui.perfetto.dev: a process per rank, a thread per stream."""

from __future__ import annotations

from typing import Any

from taicang.virtual.capture import COLLECTIVE, GRAPHED, KERNEL, MARK, Capture
from taicang.virtual.report import Scheduled

MOST = 200_000
"""Kernels that are drawn per rank."""


def events(capture: Capture, scheduled: Scheduled) -> dict[str, Any]:
    """The file as plain data; times in microseconds."""
    found: list[dict[str, Any]] = []
    for rank in capture.ranks:
        clock = scheduled.clocks[rank.rank]
        found.append({"ph": "M", "pid": rank.rank, "name": "process_name", "args": {"name": f"rank {rank.rank}"}})
        rows = zip(rank.work[:MOST].tolist(), clock.begin, clock.end, strict=False)
        for (what, stream, value), begin, end in rows:
            common = {"pid": rank.rank, "tid": stream, "ts": begin * 1e6}
            if what in (KERNEL, GRAPHED, COLLECTIVE):
                kernel = rank.kernels[value]
                about = {"phase": kernel.phase, "group": kernel.group, "flop": kernel.flop}
                cat = "collective" if what == COLLECTIVE else "kernel"
                found.append(
                    common | {"ph": "X", "name": kernel.name, "cat": cat, "dur": (end - begin) * 1e6, "args": about}
                )
            elif what == MARK:
                found.append(common | {"ph": "i", "s": "p", "name": f"step {value}"})
    return {"displayTimeUnit": "ms", "traceEvents": found}
