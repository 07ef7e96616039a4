"""A training step as trace events, as Perfetto and chrome://tracing read them.

One process per pipeline rank with a thread for its passes; a pair shows as its two passes on two threads. What follows
the pipeline (gradient reduction, optimizer, parameter gather) stands behind it on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from taicang.train.pipeline import Run
from taicang.train.schedule import PAIR
from taicang.train.step import TrainStep

KINDS = ("forward", "data gradient", "weight gradient", "backward")
TAIL = ("gradient reduction", "optimizer", "parameter gather", "host")


def trace(run: Run, step: TrainStep) -> dict[str, Any]:
    """Trace events of ``run``, the first microbatches of ``step``; times in microseconds."""
    shown = len(set(run.graph.micro.tolist())) * step.plan.copies
    events = [*_named(step.plan.pp), *_passes(run), *_tail(run, step)]
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "microbatches": step.plan.microbatches,
            "microbatches shown": shown,
            "step seconds": step.seconds,
        },
    }


def _named(ranks: int) -> Iterator[dict[str, Any]]:
    for rank in range(ranks):
        yield _meta("process_name", rank, 0, f"pipeline rank {rank}")
        yield _meta("thread_name", rank, 0, "passes")
        yield _meta("thread_name", rank, 1, "backward passes beside them")


def _meta(kind: str, rank: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": rank, "tid": thread, "args": {"name": name}}


def _passes(run: Run) -> Iterator[dict[str, Any]]:
    graph = run.graph
    columns = zip(
        graph.rank, graph.kind, graph.chunk, graph.micro, graph.beside, graph.beside_micro, run.start_s, run.end_s,
        strict=True,
    )  # fmt: skip
    for rank, kind, chunk, micro, beside, other, start, end in columns:
        yield _event(KINDS[0 if kind == PAIR else kind], int(rank), 0, int(chunk), int(micro), start, end)
        if kind == PAIR:
            yield _event("backward", int(rank), 1, int(beside), int(other), start, end)


def _event(kind: str, rank: int, thread: int, chunk: int, micro: int, start_s: float, end_s: float) -> dict[str, Any]:
    return {
        "name": f"{kind} {micro}",
        "cat": kind,
        "ph": "X",
        "ts": float(start_s) * 1e6,
        "dur": float(end_s - start_s) * 1e6,
        "pid": rank,
        "tid": thread,
        "args": {"microbatch": micro, "chunk": chunk},
    }


def _tail(run: Run, step: TrainStep) -> Iterator[dict[str, Any]]:
    for rank in range(step.plan.pp):
        at = run.seconds
        for name in TAIL:
            lasts = step.spent.get(name, 0.0)
            if lasts > 0:
                yield {
                    "name": name, "cat": name, "ph": "X", "ts": at * 1e6, "dur": lasts * 1e6, "pid": rank, "tid": 0,
                    "args": {},
                }  # fmt: skip
            at += lasts
