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
    """Dependencies of all ranks' work."""
    lists = [order(schedule, rank, pp, vpp, micro) for rank in range(pp)]
    chunks = pp * vpp
    place: dict[Work, tuple[int, int]] = {}
    level: dict[Work, int] = {}
    at = [0] * pp
    left = sum(map(len, lists))
    while left:
        moved = False
        for rank, work in enumerate(lists):
            while at[rank] < len(work):
                one = work[at[rank]]
                need = _need(one, chunks)
                if need is not None and need not in level:
                    break
                depth = level[need] + 1 if need is not None else 0
                if at[rank]:
                    depth = max(depth, level[work[at[rank] - 1]] + 1)
                level[one] = depth
                place[one] = (rank, at[rank])
                at[rank] += 1
                left -= 1
                moved = True
        assert moved, "a schedule that cannot run"
    ordered = sorted(level, key=lambda one: level[one])
    index = {one: i for i, one in enumerate(ordered)}
    before, needs, crosses = [], [], []
    for one in ordered:
        rank, position = place[one]
        need = _need(one, chunks)
        before.append(index[lists[rank][position - 1]] if position else -1)
        needs.append(-1 if need is None else index[need])
        crosses.append(need is not None and place[need][0] != rank)
    depths = [level[one] for one in ordered]
    starts = tuple(int(i) for i in np.searchsorted(depths, range(depths[-1] + 2)))
    columns = list(zip(*ordered, strict=True))
    return Graph(
        rank=np.array([place[one][0] for one in ordered]),
        kind=np.array(columns[0]),
        chunk=np.array(columns[1]),
        micro=np.array(columns[2]),
        before=np.array(before),
        needs=np.array(needs),
        crosses=np.array(crosses),
        levels=starts,
    )


def _need(one: Work, chunks: int) -> Work | None:
    kind, chunk, micro = one
    if kind == FORWARD:
        return (FORWARD, chunk - 1, micro) if chunk else None
    if kind == WEIGHT:
        return (BACKWARD, chunk, micro)
    return (BACKWARD, chunk + 1, micro) if chunk < chunks - 1 else (FORWARD, chunk, micro)


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
