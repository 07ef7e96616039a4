"""A training step as trace events.

One process per pipeline rank with a thread for its passes; a pair shows as its two passes on two threads. What follows
the pipeline (gradient reduction, optimizer, parameter gather) stands behind it on every rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from taicang.trace_events import Event, file, process, span, thread
from taicang.train.pipeline import Run
from taicang.train.schedule import PAIR
from taicang.train.step import TrainStep

KINDS = ("forward", "data gradient", "weight gradient", "backward")
TAIL = ("gradient reduction", "optimizer", "parameter gather", "host")


def trace(run: Run, step: TrainStep) -> dict[str, Any]:
    """Trace events of ``run``, the first microbatches of ``step``."""
    shown = len(set(run.graph.micro.tolist())) * step.plan.copies
    about = {"microbatches": step.plan.microbatches, "microbatches shown": shown, "step seconds": step.seconds}
    return file([*_named(step.plan.pp), *_passes(run), *_tail(run, step)], about)


def _named(ranks: int) -> Iterator[Event]:
    for rank in range(ranks):
        yield process(rank, f"pipeline rank {rank}")
        yield thread(rank, 0, "passes")
        yield thread(rank, 1, "backward passes beside them")


def _passes(run: Run) -> Iterator[Event]:
    graph = run.graph
    columns = zip(
        graph.rank, graph.kind, graph.chunk, graph.micro, graph.beside, graph.beside_micro, run.start_s, run.end_s,
        strict=True,
    )  # fmt: skip
    for rank, kind, chunk, micro, beside, other, start, end in columns:
        yield _pass(KINDS[0 if kind == PAIR else kind], (int(rank), 0), int(chunk), int(micro), start, end)
        if kind == PAIR:
            yield _pass("backward", (int(rank), 1), int(beside), int(other), start, end)


def _pass(kind: str, place: tuple[int, int], chunk: int, micro: int, start_s: float, end_s: float) -> Event:
    return span(place, f"{kind} {micro}", start_s, end_s, kind, microbatch=micro, chunk=chunk)


def _tail(run: Run, step: TrainStep) -> Iterator[Event]:
    for rank in range(step.plan.pp):
        at = run.seconds
        for name in TAIL:
            lasts = step.spent.get(name, 0.0)
            if lasts > 0:
                yield span((rank, 0), name, at, at + lasts)
            at += lasts
