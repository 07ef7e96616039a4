"""Pipeline schedules, simulated microbatch by microbatch and stage by stage.

A schedule is an order of work on every rank; work starts when the work before it on its rank is done and its input has
arrived. The graph of these dependencies does not depend on durations, so it is built once per shape and walked level by
level with arrays: one element per piece of work of a level. Schedules: GPipe (arXiv 1811.06965), 1F1B (PipeDream-Flush,
arXiv 2006.09503), interleaved 1F1B (arXiv 2104.04473), zero bubble ZB-H1 (arXiv 2401.10241).

After a transient of a few microbatches per rank a schedule is periodic, so long steps are simulated at two lengths and
continued along the line through both (max-plus systems have a cycle time).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from taicang.train_plans import Schedule

Floats = NDArray[np.float64]
TRANSIENT = 3
"""Rounds of pp microbatches after which a schedule repeats itself."""


@dataclass(frozen=True, slots=True)
class Graph:
    """Work of a schedule, sorted by level; -1 stands for no predecessor. ``chunk`` indexes durations."""

    rank: NDArray[np.intp]
    chunk: NDArray[np.intp]
    micro: NDArray[np.intp]
    kind: NDArray[np.intp]
    before: NDArray[np.intp]
    """The work that runs before on the same rank."""
    needs: NDArray[np.intp]
    """The work whose output it takes."""
    crosses: NDArray[np.bool_]
    """Whether that output comes from another rank."""
    levels: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A simulated pipeline: when each piece of work starts and ends."""

    graph: Graph
    start_s: Floats
    end_s: Floats

    @property
    def seconds(self) -> float:
        """When the last rank is done."""
        return float(self.end_s.max())


FORWARD, BACKWARD, WEIGHT = 0, 1, 2
Work = tuple[int, int, int]
"""Kind, chunk of the model (of pp * vpp), microbatch."""


def order(schedule: Schedule, rank: int, pp: int, vpp: int, micro: int) -> list[Work]:
    """What one rank does, in order."""
    forward = [(FORWARD, c * pp + rank, i) for c, i in _visits(pp, vpp, micro)]
    backward = [(BACKWARD, (vpp - 1 - c) * pp + rank, i) for c, i in _visits(pp, vpp, micro)]
    if schedule == "gpipe":
        return forward + backward
    warm = pp - rank - 1 if vpp == 1 else (pp - rank - 1) * 2 + (vpp - 1) * pp
    warm = min(warm, len(forward))
    done: list[Work] = forward[:warm]
    for i in range(len(forward) - warm):
        done += [forward[warm + i], backward[i]]
    done += backward[len(forward) - warm :]
    return _weights(done, rank) if schedule == "zero_bubble" else done


def _visits(pp: int, vpp: int, micro: int) -> list[tuple[int, int]]:
    """Chunk of the rank and microbatch in the order of interleaving: groups of pp microbatches, chunk by chunk."""
    if vpp == 1:
        return [(0, i) for i in range(micro)]
    return [(c, g + i) for g in range(0, micro, pp) for c in range(vpp) for i in range(pp)]


def _weights(work: list[Work], rank: int) -> list[Work]:
    """ZB-H1: weight gradients trail the data gradients by as many microbatches as the rank's place, filling the end."""
    made: list[Work] = []
    waiting: list[Work] = []
    for one in work:
        made.append(one)
        if one[0] == BACKWARD:
            waiting.append((WEIGHT, one[1], one[2]))
            if len(waiting) > rank:
                made.append(waiting.pop(0))
    return made + waiting


@lru_cache(maxsize=64)
def graph(schedule: Schedule, pp: int, vpp: int, micro: int) -> Graph:
    """Dependencies of all ranks' work. Work is numbered (kind * chunks + chunk) * micro + microbatch."""
    chunks = pp * vpp
    kinds = 3 if schedule == "zero_bubble" else 2
    lists = [
        [(kind * chunks + chunk) * micro + i for kind, chunk, i in order(schedule, rank, pp, vpp, micro)]
        for rank in range(pp)
    ]
    needs = _needs(kinds, chunks, micro)
    wanted: list[int] = needs.tolist()
    level = [-1] * len(wanted)
    before = np.full(len(wanted), -1)
    for work in lists:
        before[work[1:]] = work[:-1]
    at, depth = [0] * pp, [-1] * pp
    moved = True
    while moved:
        moved = False
        for rank, work in enumerate(lists):
            i, deep = at[rank], depth[rank]
            while i < len(work):
                one = work[i]
                need = wanted[one]
                if need >= 0:
                    if level[need] < 0:
                        break
                    deep = max(deep, level[need])
                deep += 1
                level[one] = deep
                i += 1
            moved = moved or i > at[rank]
            at[rank], depth[rank] = i, deep
    levels = np.array(level)
    assert levels.min() >= 0, "a schedule that cannot run"
    ordered = np.argsort(levels, kind="stable")
    index = np.full(len(level) + 1, -1)
    index[ordered] = np.arange(len(level))
    chunk = np.arange(len(level)) // micro % chunks
    crosses = (needs >= 0) & (chunk[needs] % pp != chunk % pp)
    starts = np.searchsorted(levels[ordered], np.arange(levels.max() + 2))
    return Graph(
        rank=chunk[ordered] % pp,
        kind=ordered // (micro * chunks),
        chunk=chunk[ordered],
        micro=ordered % micro,
        before=index[before[ordered]],
        needs=index[needs[ordered]],
        crosses=crosses[ordered],
        levels=tuple(starts.tolist()),
    )


def _needs(kinds: int, chunks: int, micro: int) -> NDArray[np.intp]:
    """The work whose output each work takes: forward from the chunk before, backward from the one behind, weight
    gradients and the last chunk's backward from the same chunk."""
    work = np.arange(kinds * chunks * micro)
    kind, chunk = work // (chunks * micro), work // micro % chunks
    forward = np.where(chunk == 0, -1, work - micro)
    backward = np.where(chunk == chunks - 1, work - chunks * micro, work + micro)
    return np.where(kind == FORWARD, forward, np.where(kind == BACKWARD, backward, work - chunks * micro))


def simulate(
    schedule: Schedule,
    pp: int,
    vpp: int,
    micro: int,
    *,
    forward_s: Sequence[float] | Floats,
    data_s: Sequence[float] | Floats,
    weight_s: Sequence[float] | Floats,
    send_s: float = 0.0,
    blocking: bool = False,
) -> Run:
    """Run ``micro`` microbatches through pp * vpp chunks whose seconds per pass are given in model order.

    ``send_s`` passes between ranks; ``blocking`` sends and receives also hold the ranks at both ends.
    """
    made = graph(schedule, pp, vpp, micro)
    kinds = np.stack([np.asarray(forward_s), np.asarray(data_s), np.asarray(weight_s)])
    if schedule != "zero_bubble":
        kinds[BACKWARD] = kinds[BACKWARD] + kinds[WEIGHT]
    lasts = kinds[made.kind, made.chunk]
    wait = np.where(made.crosses, send_s, 0.0)
    if blocking:
        lasts = lasts + wait
    start = np.zeros(lasts.size)
    end = np.zeros(lasts.size + 1)  # the last element is the end of nothing
    for low, high in zip(made.levels, made.levels[1:], strict=False):
        begin = np.maximum(end[made.before[low:high]], end[made.needs[low:high]] + wait[low:high])
        start[low:high] = begin
        end[low:high] = begin + lasts[low:high]
    return Run(graph=made, start_s=start, end_s=end[:-1])


def seconds(
    schedule: Schedule,
    pp: int,
    vpp: int,
    micro: int,
    *,
    forward_s: Sequence[float] | Floats,
    data_s: Sequence[float] | Floats,
    weight_s: Sequence[float] | Floats,
    send_s: float = 0.0,
    blocking: bool = False,
) -> float:
    """How long the pipeline takes; steps longer than the transient are continued by their period."""

    def run(count: int) -> float:
        return simulate(
            schedule, pp, vpp, count,
            forward_s=forward_s, data_s=data_s, weight_s=weight_s, send_s=send_s, blocking=blocking,
        ).seconds  # fmt: skip

    if pp == 1:
        return micro * float(np.sum(forward_s) + np.sum(data_s) + np.sum(weight_s))
    short = TRANSIENT * pp
    if micro <= short + pp:
        return run(micro)
    first, second = run(short), run(short + pp)
    return second + (second - first) / pp * (micro - short - pp)
