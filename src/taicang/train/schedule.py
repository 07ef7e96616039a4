"""Pipeline schedules: the order of work on every rank.

GPipe (arXiv 1811.06965), 1F1B (PipeDream-Flush, arXiv 2006.09503), interleaved 1F1B (arXiv 2104.04473), zero bubble
ZB-H1 (arXiv 2401.10241), DualPipe (arXiv 2412.19437, section 3.2.1).

A piece of work is one pass of one chunk for one microbatch, or a pair: one microbatch's forward beside another's
backward pass, whose exchanges hide behind each other's computing. 1F1B forms pairs on request; each rank then runs
ahead by as many microbatches again, since a pair's two halves end together. DualPipe feeds the pipeline from both
ends, so every rank holds two stages, and pairs what meets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from taicang.train_plans import Schedule

FORWARD, DATA, WEIGHT, BACKWARD, PAIR = range(5)
"""Kinds of work; BACKWARD is DATA and WEIGHT at once, PAIR a FORWARD beside a BACKWARD."""
Pass: TypeAlias = tuple[int, int, int]
"""Kind, chunk, microbatch."""
Work: TypeAlias = tuple[Pass, Pass | None]
"""One pass, or a forward pass and the backward pass beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A schedule's size: ``pp`` ranks, ``vpp`` chunks on each, ``micro`` microbatches; ``paired`` 1F1B forms pairs.

    Chunks are numbered in model order; DualPipe's second direction has numbers pp to 2 pp - 1 and its own microbatches.
    """

    schedule: Schedule
    pp: int
    vpp: int
    micro: int
    paired: bool = False

    @property
    def dual(self) -> bool:
        """Whether the pipeline is fed from both ends."""
        return self.schedule == "dualpipe"

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
        return 2 * self.pp - 1 - chunk if self.dual and chunk >= self.pp else chunk % self.pp

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
    if shape.dual:
        return _dualpipe(shape, rank)
    visits = _visits(shape)
    pp, vpp = shape.pp, shape.vpp
    forward: list[Pass] = [(FORWARD, c * pp + rank, i) for c, i in visits]
    backward: list[Pass] = [(BACKWARD, (vpp - 1 - c) * pp + rank, i) for c, i in visits]
    if shape.schedule == "gpipe":
        return [(one, None) for one in forward + backward]
    if shape.schedule == "zero_bubble":
        return _trailing([(DATA, c, i) for _, c, i in backward], forward, pp, rank)
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


def _trailing(data: list[Pass], forward: list[Pass], pp: int, rank: int) -> list[Work]:
    """ZB-H1: weight gradients trail the data gradients by as many microbatches as the rank's place, filling the end."""
    warm = min(pp - rank - 1, len(forward))
    made: list[Work] = [(one, None) for one in forward[:warm]]
    ahead = forward[warm:]
    done = 0
    for i, (_, chunk, micro) in enumerate(data):
        made += [(ahead[i], None)] if i < len(ahead) else []
        made.append(((DATA, chunk, micro), None))
        if i >= rank:
            made.append(((WEIGHT, *data[done][1:]), None))
            done += 1
    return made + [((WEIGHT, chunk, micro), None) for _, chunk, micro in data[done:]]


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


def _dualpipe(shape: Shape, rank: int) -> list[Work]:
    """Eight phases, symmetric about the middle: "near" is the direction that enters on this rank's side."""
    half, depth = shape.pp // 2, min(rank, shape.pp - 1 - rank)
    deeper = half - 1 - depth
    """Ranks between this one and the middle."""
    directions = (rank, 2 * shape.pp - 1 - rank)
    made = _Both(*(directions if rank < half else directions[::-1]))
    for _ in range(2 * deeper):
        made.forward("near")
    for _ in range(depth + 1):
        made.forward("near")
        made.forward("far")
    for _ in range(deeper):
        made.backward("far", split=True)
        made.weight()
        made.forward("far")
    for i in range(shape.streams - shape.pp + depth + 1):
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
