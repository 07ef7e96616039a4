"""Pipelines, simulated microbatch by microbatch and stage by stage.

Work starts when the work before it on its rank is done and its input has arrived. The graph of these dependencies does
not depend on durations, so it is built once per shape and walked level by level with arrays: one element per piece of
work of a level. After a transient of a few microbatches per rank a schedule is periodic, so long steps are simulated at
two lengths and continued along the line through both (max-plus systems have a cycle time).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from taicang.train.schedule import BACKWARD, DATA, FORWARD, PAIR, WEIGHT, Shape, Work, order

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
FINE = 16
"""Steps of the longest pass that ZB-V's order is sought in."""
TRANSIENT = 3
"""Rounds of pp microbatches after which a schedule repeats itself."""


@dataclass(frozen=True, slots=True)
class Graph:
    """Work of a schedule, sorted by level; -1 stands for none. ``chunk`` and ``kind`` index durations.

    A pair's ``beside`` is the chunk of its backward pass; ``needs`` its forward input, ``returns`` its backward input.
    """

    rank: Ints
    chunk: Ints
    micro: Ints
    kind: Ints
    beside: Ints
    beside_micro: Ints
    before: Ints
    """The work that runs before on the same rank."""
    needs: Ints
    """The work whose output it takes."""
    returns: Ints
    crosses: NDArray[np.bool_]
    """Whether ``needs`` is on another rank, and ``returns`` likewise."""
    returns_crosses: NDArray[np.bool_]
    levels: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """Seconds of each pass of each chunk, by the chunks' numbers.

    ``saved_s`` is what a forward pass saves beside the backward pass of a like chunk. ``send_s`` passes between ranks;
    ``blocking`` sends and receives also hold the ranks at both ends.
    """

    forward_s: Floats
    data_s: Floats
    weight_s: Floats
    saved_s: Floats = field(default_factory=lambda: np.zeros(1))
    send_s: float = 0.0
    blocking: bool = False


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

    @property
    def span_s(self) -> float:
        """The longest that a rank is at it: what a step takes where the optimizer's check follows it, so that no rank
        waits for the others before it starts the next one (arXiv 2401.10241, section 4)."""
        ranks = range(int(self.graph.rank.max()) + 1)
        mine = [self.graph.rank == rank for rank in ranks]
        return float(max(self.end_s[one].max() - self.start_s[one].min() for one in mine))


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """The pipelined part of a step: how long it takes and what pairs save on each rank."""

    seconds: float
    saved_s: Floats


@lru_cache(maxsize=64)
def graph(shape: Shape) -> Graph:
    """Dependencies of all ranks' work."""
    micro, chunks = shape.streams, shape.chunks
    lists = [order(shape, rank) for rank in range(shape.pp)]
    works: list[Work] = [work for one in lists for work in one]
    main = np.array([work[0] for work in works], dtype=np.intp).reshape(-1, 3)
    other = np.array([work[1] or (-1, -1, -1) for work in works], dtype=np.intp).reshape(-1, 3)
    paired = other[:, 0] == BACKWARD
    kind, chunk, at = main.T
    # who makes a chunk's forward output, or its data gradient, of a microbatch
    made = np.full((2, chunks, micro), -1)
    nodes = np.arange(len(works))
    made[0, chunk[kind == FORWARD], at[kind == FORWARD]] = nodes[kind == FORWARD]
    back = (kind == DATA) | (kind == BACKWARD)
    made[1, chunk[back], at[back]] = nodes[back]
    made[1, other[paired, 1], other[paired, 2]] = nodes[paired]
    first, last = np.isin(np.arange(chunks), shape.firsts), np.isin(np.arange(chunks), shape.lasts)

    def input_of(kind: Ints, chunk: Ints, at: Ints) -> Ints:
        """Forward from the chunk before, backward from the one behind, the last chunk's backward and weight
        gradients from the same chunk."""
        ahead = np.where(first[chunk], -1, made[0, chunk - 1, at])
        behind = np.where(last[chunk], made[0, chunk, at], made[1, np.minimum(chunk + 1, chunks - 1), at])
        return np.where(kind == FORWARD, ahead, np.where(kind == WEIGHT, made[1, chunk, at], behind))

    needs = input_of(kind, chunk, at)
    returns = np.where(paired, input_of(other[:, 0], *np.maximum(other[:, 1:], 0).T), -1)
    sizes = np.cumsum([0] + [len(one) for one in lists])
    before = nodes - 1
    before[sizes[:-1]] = -1
    rank = np.repeat(np.arange(shape.pp), np.diff(sizes))
    levels = _levels(sizes.tolist(), needs.tolist(), returns.tolist())
    ordered = np.argsort(levels, kind="stable")
    index = np.full(len(works) + 1, -1)
    index[ordered] = nodes
    starts = np.searchsorted(levels[ordered], np.arange(levels.max() + 2))
    return Graph(
        rank=rank[ordered],
        chunk=chunk[ordered],
        micro=at[ordered],
        kind=np.where(paired, PAIR, kind)[ordered],
        beside=other[ordered, 1],
        beside_micro=other[ordered, 2],
        before=index[before[ordered]],
        needs=index[needs[ordered]],
        returns=index[returns[ordered]],
        crosses=((needs >= 0) & (rank[needs] != rank))[ordered],
        returns_crosses=((returns >= 0) & (rank[returns] != rank))[ordered],
        levels=tuple(starts.tolist()),
    )


def _levels(sizes: list[int], needs: list[int], returns: list[int]) -> Ints:
    """Longest path to each node; ``sizes`` bound the nodes of each rank, which run in their order."""
    level = [-1] * sizes[-1]
    at, depth = sizes[:-1], [-1] * (len(sizes) - 1)
    moved = True
    while moved:
        moved = False
        for rank, end in enumerate(sizes[1:]):
            node, deep = at[rank], depth[rank]
            while node < end:
                need, back = needs[node], returns[node]
                if need >= 0:
                    if level[need] < 0:
                        break
                    deep = max(deep, level[need])
                if back >= 0:
                    if level[back] < 0:
                        break
                    deep = max(deep, level[back])
                deep += 1
                level[node] = deep
                node += 1
            moved = moved or node > at[rank]
            at[rank], depth[rank] = node, deep
    levels = np.array(level)
    assert levels.min() >= 0, "a schedule that cannot run"
    return levels


def _lasting(made: Graph, times: Durations) -> tuple[Floats, Floats]:
    """Seconds of each piece of work, and what pairs save of them."""
    forward, data, weight = (
        np.asarray(row, dtype=np.float64) for row in (times.forward_s, times.data_s, times.weight_s)
    )
    whole = data + weight
    kinds = np.stack([forward, data, weight, whole, forward])
    lasts: Floats = kinds[made.kind, made.chunk]
    paired = made.kind == PAIR
    if not paired.any():
        return lasts, np.zeros_like(lasts)
    saved = np.broadcast_to(times.saved_s, forward.shape)
    less = np.where(paired, np.minimum(saved[made.chunk], saved[made.beside]), 0.0)
    return lasts + np.where(paired, whole[made.beside], 0.0) - less, less


def simulate(shape: Shape, times: Durations) -> Run:
    """Run the microbatches of ``shape`` through its chunks."""
    if shape.schedule == "zb_v":
        means = [float(np.mean(row)) for row in (times.forward_s, times.data_s, times.weight_s)]
        shape = replace(shape, lengths=tuple(max(round(mean / max(*means, 1e-12) * FINE), 1) for mean in means))  # type: ignore[arg-type]
    made = graph(shape)
    lasts, _ = _lasting(made, times)
    wait = np.where(made.crosses, times.send_s, 0.0)
    back = np.where(made.returns_crosses, times.send_s, 0.0)
    if times.blocking:
        lasts = lasts + wait + back
    start = np.zeros(lasts.size)
    end = np.zeros(lasts.size + 1)  # the last element is the end of nothing
    pairs = bool((made.returns >= 0).any())
    for low, high in zip(made.levels, made.levels[1:], strict=False):
        begin = np.maximum(end[made.before[low:high]], end[made.needs[low:high]] + wait[low:high])
        if pairs:
            begin = np.maximum(begin, end[made.returns[low:high]] + back[low:high])
        start[low:high] = begin
        end[low:high] = begin + lasts[low:high]
    return Run(graph=made, start_s=start, end_s=end[:-1])


def phase(shape: Shape, times: Durations, runs: int = 1) -> Phase:
    """How long ``runs`` of the pipeline take, one after the other; those longer than the transient are continued by
    their period."""
    if runs > 1:
        one = phase(shape, times)
        return Phase(seconds=one.seconds * runs, saved_s=one.saved_s * runs)

    def run(micro: int) -> Phase:
        cut = replace(shape, micro=micro)
        done = simulate(cut, times)
        saved = np.bincount(done.graph.rank, weights=_lasting(done.graph, times)[1], minlength=shape.pp)
        seconds = done.seconds if shape.schedule not in ("zb_2p", "zb_v") else done.span_s
        return Phase(seconds=seconds, saved_s=np.asarray(saved, dtype=np.float64))

    pp, micro = shape.pp, shape.micro
    if pp == 1 and not shape.paired:
        once = float(np.sum(times.forward_s) + np.sum(times.data_s) + np.sum(times.weight_s))
        return Phase(seconds=micro * once, saved_s=np.zeros(1))
    period = 2 * pp if shape.folded else pp
    short = TRANSIENT * period
    if micro <= short + period:
        return run(micro)
    short += micro % period  # the rest is whole periods
    first, second = run(short), run(short + period)
    more = (micro - short - period) / period
    return Phase(
        seconds=second.seconds + (second.seconds - first.seconds) * more,
        saved_s=second.saved_s + (second.saved_s - first.saved_s) * more,
    )
