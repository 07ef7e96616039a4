"""Pipeline schedules: the order of work on every rank.

GPipe (arXiv 1811.06965), 1F1B (PipeDream-Flush, arXiv 2006.09503), interleaved 1F1B (arXiv 2104.04473), zero bubble
ZB-H1, its like with twice the memory (ZB-H2, here ``zb_2p``) and ZB-V (arXiv 2401.10241), DualPipe (arXiv 2412.19437,
section 3.2.1) and its half, DualPipeV (deepseek-ai/DualPipe).

A piece of work is one pass of one chunk for one microbatch, or a pair: one microbatch's forward beside another's
backward pass, whose exchanges hide behind each other's computing. 1F1B forms pairs on request; each rank then runs
ahead by as many microbatches again, since a pair's two halves end together. DualPipe feeds the pipeline from both
ends, so every rank holds two stages, and pairs what meets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush
from typing import TypeAlias

from taicang.train_plans import WAVES, Schedule

FORWARD, DATA, WEIGHT, BACKWARD, PAIR = range(5)
"""Kinds of work; BACKWARD is DATA and WEIGHT at once, PAIR a FORWARD beside a BACKWARD."""
Pass: TypeAlias = tuple[int, int, int]
"""Kind, chunk, microbatch."""
Work: TypeAlias = tuple[Pass, Pass | None]
"""One pass, or a forward pass and the backward pass beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A schedule's size: ``pp`` ranks, ``vpp`` chunks on each, ``micro`` microbatches; ``paired`` 1F1B forms pairs.

    Chunks are numbered in model order; in a V a rank holds the chunk of its number and its mirror image. DualPipe's
    second direction has numbers pp to 2 pp - 1 and its own microbatches.
    """

    schedule: Schedule
    pp: int
    vpp: int
    micro: int
    paired: bool = False
    lengths: tuple[int, int, int] = (1, 1, 1)
    """Of forward pass, data gradient and weight gradient beside each other, for which ZB-V seeks its order."""

    @property
    def dual(self) -> bool:
        """Whether the pipeline is fed from both ends."""
        return self.schedule == "dualpipe"

    @property
    def folded(self) -> bool:
        """Whether a rank holds a chunk and its mirror image."""
        return self.dual or self.schedule in WAVES

    @property
    def chunks(self) -> int:
        """Chunks that have numbers."""
        return self.pp * (2 if self.dual else self.vpp)

    @property
    def streams(self) -> int:
        """Microbatches that each chunk sees."""
        return self.micro // 2 if self.dual else self.micro

    def rank(self, chunk: int) -> int:
        """Rank that holds ``chunk``."""
        return 2 * self.pp - 1 - chunk if self.folded and chunk >= self.pp else chunk % self.pp

    @property
    def firsts(self) -> tuple[int, ...]:
        """Chunks that start the model."""
        return (0, self.pp) if self.dual else (0,)

    @property
    def lasts(self) -> tuple[int, ...]:
        """Chunks that end the model."""
        return (self.pp - 1, 2 * self.pp - 1) if self.dual else (self.chunks - 1,)


def order(shape: Shape, rank: int) -> list[Work]:
    """What one rank does, in order."""
    pp = shape.pp
    if shape.dual:
        directions = (rank, 2 * pp - 1 - rank)
        near, far = directions if rank < pp // 2 else directions[::-1]
        return _dualpipe(shape, pp // 2, min(rank, pp - 1 - rank), _Both(near, far))
    if shape.schedule == "dualpipev":
        return _dualpipe(shape, pp, rank, _Both(rank, 2 * pp - 1 - rank))
    if shape.schedule == "zb_v":
        return _wave(pp, shape.micro, shape.lengths)[rank]
    visits = _visits(shape)
    vpp = shape.vpp
    forward: list[Pass] = [(FORWARD, c * pp + rank, i) for c, i in visits]
    backward: list[Pass] = [(BACKWARD, (vpp - 1 - c) * pp + rank, i) for c, i in visits]
    if shape.schedule == "gpipe":
        return [(one, None) for one in forward + backward]
    if shape.schedule in ("zero_bubble", "zb_2p"):
        deep = 1 if shape.schedule == "zero_bubble" else 2
        return _trailing([(DATA, c, i) for _, c, i in backward], forward, deep * (pp - rank - 1), deep * rank)
    warm = min(warm_up(shape, rank), len(forward))
    done: list[Work] = [(one, None) for one in forward[:warm]]
    steady = zip(forward[warm:], backward, strict=False)
    if shape.paired:
        done += list(steady)
    else:
        for ahead, behind in steady:
            done.append((ahead, None))
            done.append((behind, None))
    return done + [(one, None) for one in backward[len(forward) - warm :]]


def warm_up(shape: Shape, rank: int) -> int:
    """Forward passes that ``rank`` of a 1F1B schedule does before its first backward pass."""
    behind = shape.pp - rank - 1
    if shape.vpp == 1 and not shape.paired:
        return behind
    return behind * 2 + (shape.vpp - 1) * shape.pp + shape.paired


def _visits(shape: Shape) -> list[tuple[int, int]]:
    """Chunk of the rank and microbatch in the order of interleaving: groups of pp microbatches, chunk by chunk."""
    pp, vpp, micro = shape.pp, shape.vpp, shape.micro
    if vpp == 1:
        return [(0, i) for i in range(micro)]
    return [(c, g + i) for g in range(0, micro, pp) for c in range(vpp) for i in range(pp)]


def _trailing(data: list[Pass], forward: list[Pass], ahead: int, behind: int) -> list[Work]:
    """ZB-H1 and ZB-H2: ``ahead`` forward passes first; weight gradients trail the data gradients by ``behind``
    microbatches (as many as the rank's place, or twice that) and fill the end."""
    warm = min(ahead, len(forward))
    made: list[Work] = [(one, None) for one in forward[:warm]]
    rest = forward[warm:]
    done = 0
    for i, (_, chunk, micro) in enumerate(data):
        made += [(rest[i], None)] if i < len(rest) else []
        made.append(((DATA, chunk, micro), None))
        if i >= behind:
            made.append(((WEIGHT, *data[done][1:]), None))
            done += 1
    return made + [((WEIGHT, chunk, micro), None) for _, chunk, micro in data[done:]]


@lru_cache(maxsize=16)
def _wave(pp: int, micro: int, lengths: tuple[int, int, int]) -> list[list[Work]]:
    """ZB-V, found greedily for passes of these lengths: a rank that is free takes a data gradient where one can run,
    else a forward pass where memory for it is left, else a weight gradient; its second chunk comes first.

    Memory is that of 1F1B, 2 pp chunks; the last place is the second chunk's, which alone lets the rank go on. Of
    equal passes about pp - 1 of one chunk are left of the bubble.
    """
    ends: dict[Pass, int] = {}
    following = [{(kind, side): 0 for kind in (FORWARD, DATA, WEIGHT) for side in (0, 1)} for _ in range(pp)]
    done: list[list[Work]] = [[] for _ in range(pp)]

    def room(ready: dict[tuple[int, int], int], side: int) -> bool:
        held = [ready[FORWARD, each] - ready[WEIGHT, each] for each in (0, 1)]
        return sum(held) < 2 * pp - (side == 0 and not held[1] and ready[FORWARD, 1] < micro)

    def pick(rank: int, now: int) -> Pass | None:
        ready = following[rank]
        for kind in (DATA, FORWARD, WEIGHT):
            for side in (1, 0):
                at, chunk = ready[kind, side], 2 * pp - 1 - rank if side else rank
                if at == micro or (kind == FORWARD and not room(ready, side)):
                    continue
                last = chunk == 2 * pp - 1
                needs = {
                    FORWARD: (FORWARD, chunk - 1, at),
                    DATA: (FORWARD, chunk, at) if last else (DATA, chunk + 1, at),
                    WEIGHT: (DATA, chunk, at),
                }[kind]
                if (kind == FORWARD and not chunk) or ends.get(needs, now + 1) <= now:
                    return kind, chunk, at
        return None

    free, events = [0] * pp, [0]
    while events:
        now = heappop(events)
        for rank in range(pp):
            work = pick(rank, now) if free[rank] <= now else None
            if work is not None:
                kind, chunk, at = work
                ends[work] = free[rank] = now + lengths[kind]
                following[rank][kind, int(chunk >= pp)] = at + 1
                done[rank].append((work, None))
                heappush(events, free[rank])
        while events and events[0] == now:
            heappop(events)
    return done


class _Both:
    """The work of one DualPipe rank as it grows: microbatches of either direction are taken in turn."""

    def __init__(self, near: int, far: int) -> None:
        self.chunk = {"near": near, "far": far}
        self.next = {(kind, side): 0 for kind in (FORWARD, BACKWARD) for side in ("near", "far")}
        self.done: list[Work] = []
        self.waiting: list[Pass] = []

    def _take(self, kind: int, side: str) -> Pass:
        micro = self.next[kind, side]
        self.next[kind, side] = micro + 1
        return kind, self.chunk[side], micro

    def forward(self, side: str) -> None:
        self.done.append((self._take(FORWARD, side), None))

    def backward(self, side: str, *, split: bool = False) -> None:
        kind, chunk, micro = self._take(BACKWARD, side)
        self.done.append(((DATA if split else kind, chunk, micro), None))
        if split:
            self.waiting.append((WEIGHT, chunk, micro))

    def pair(self, ahead: str, behind: str) -> None:
        self.done.append((self._take(FORWARD, ahead), self._take(BACKWARD, behind)))

    def weight(self) -> None:
        self.done.append((self.waiting.pop(0), None))


def _dualpipe(shape: Shape, half: int, depth: int, made: _Both) -> list[Work]:
    """Eight phases of a rank that lies ``depth`` from where its "near" direction enters, of ``half`` to the middle.

    DualPipe is symmetric about the middle; DualPipeV is one half of it, whose far direction is the way back.
    """
    deeper = half - 1 - depth
    """Ranks between this one and the middle."""
    for _ in range(2 * deeper):
        made.forward("near")
    for _ in range(depth + 1):
        made.forward("near")
        made.forward("far")
    for _ in range(deeper):
        made.backward("far", split=True)
        made.weight()
        made.forward("far")
    for i in range(shape.streams - 2 * half + depth + 1):
        if i or deeper:
            made.pair("near", "far")
        else:  # on the middle ranks the first two wait for each other's neighbour, not for one another
            made.forward("near")
            made.backward("far")
        made.pair("far", "near")
    for _ in range(deeper):
        made.backward("far")
        made.pair("far", "near")
    for i in range(2 * (depth + 1)):  # the latter half leaves its weight gradients to the end
        made.backward("near" if i % 2 else "far", split=i > depth)
    for _ in range(deeper):
        made.weight()
        made.backward("near", split=True)
    while made.waiting:
        made.weight()
    return made.done
