"""Run a workload's graphs: tasks in order of their dependencies, one computation at a time, collectives in step."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from taicang.errors import InvalidInput
from taicang.interop.work import Task, Workload

Price = Callable[[Task, Sequence[int]], float]
"""Seconds of a collective among these ranks, or of a message between two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What one rank did."""

    seconds: float
    compute_s: float
    communication_s: float
    """In collectives and messages, waiting for others included."""
    exposed_s: float
    """Time with nothing computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One task on the clock."""

    rank: int
    name: str
    kind: str
    begin_s: float
    end_s: float


def run(
    workload: Workload,
    ranks: int,
    price: Price,
    compute: Callable[[Task], float],
    *,
    spans: list[Span] | None = None,
) -> dict[int, Ran]:
    """Each rank's run. One graph alone stands for all ``ranks``, which then move in step: the answer is rank 0's.

    Raises ``InvalidInput`` for ranks outside the network, circles, and waits that nothing ends.
    """
    alone = len(workload.ranks) == 1 and not any(task.kind in ("send", "receive") for task in _one(workload))
    graphs = {0: _one(workload)} if alone else dict(workload.ranks)
    for rank in graphs:
        if rank >= ranks:
            raise InvalidInput(f"rank {rank} is outside a network of {ranks}", where=workload.name)
    return _Run(workload, graphs, ranks, price, compute, alone, spans).finish()


def _one(workload: Workload) -> Sequence[Task]:
    return next(iter(workload.ranks.values()))


class _Run:
    """State of a run: what is ready, when each rank computes again, who has arrived where."""

    def __init__(
        self,
        workload: Workload,
        graphs: Mapping[int, Sequence[Task]],
        ranks: int,
        price: Price,
        compute: Callable[[Task], float],
        alone: bool,
        spans: list[Span] | None,
    ) -> None:
        self.workload, self.graphs, self.ranks = workload, graphs, ranks
        self.price, self.compute, self.alone, self.spans = price, compute, alone, spans
        self.tasks = {rank: {task.id: task for task in tasks} for rank, tasks in graphs.items()}
        self.left = {rank: {t.id: len(set(t.after)) for t in tasks} for rank, tasks in graphs.items()}
        self.next: dict[int, dict[int, list[int]]] = {rank: defaultdict(list) for rank in graphs}
        for rank, tasks in graphs.items():
            for task in tasks:
                for before in set(task.after):
                    self.next[rank][before].append(task.id)
        self.heap: list[tuple[float, int, int, int]] = []
        self.order = 0
        self.free = dict.fromkeys(graphs, 0.0)
        self.busy = dict.fromkeys(graphs, 0.0)
        self.communicating = dict.fromkeys(graphs, 0.0)
        self.end = dict.fromkeys(graphs, 0.0)
        self.arrived: dict[tuple[str, int], list[tuple[float, int, Task]]] = defaultdict(list)
        self.turn: dict[tuple[int, str], int] = defaultdict(int)
        self.expected: dict[str, int] = {}
        self.group_free: dict[str, float] = defaultdict(float)
        self.sent: dict[tuple[int, int, int], list[float]] = defaultdict(list)
        self.waiting: dict[tuple[int, int, int], list[tuple[float, int, Task]]] = defaultdict(list)
        self.link_free: dict[tuple[int, int], float] = defaultdict(float)

    def finish(self) -> dict[int, Ran]:
        """Run until nothing is left."""
        for rank, tasks in self.graphs.items():
            for task in tasks:
                if not self.left[rank][task.id]:
                    self._ready(0.0, rank, task.id)
        while self.heap:
            at, _, rank, number = heapq.heappop(self.heap)
            self._start(at, rank, self.tasks[rank][number])
        self._check_all_done()
        return {
            rank: Ran(
                seconds=self.end[rank],
                compute_s=self.busy[rank],
                communication_s=self.communicating[rank],
                exposed_s=self.end[rank] - self.busy[rank],
            )
            for rank in self.graphs
        }

    def _ready(self, at: float, rank: int, number: int) -> None:
        self.order += 1
        heapq.heappush(self.heap, (at, self.order, rank, number))

    def _start(self, at: float, rank: int, task: Task) -> None:
        if task.kind == "compute":
            begin = max(at, self.free[rank])
            seconds = self.compute(task)
            self.free[rank] = begin + seconds
            self.busy[rank] += seconds
            self._done(begin, begin + seconds, rank, task)
        elif task.kind == "collective":
            self._meet(at, rank, task)
        elif task.kind == "send":
            self._send(at, rank, task)
        elif task.kind == "receive":
            key = (task.peer, rank, task.tag)
            if self.sent[key]:
                end = max(at, self.sent[key].pop(0))
                self.communicating[rank] += end - at
                self._done(at, end, rank, task)
            else:
                self.waiting[key].append((at, rank, task))
        else:
            self._done(at, at, rank, task)

    def _members(self, task: Task) -> Sequence[int]:
        if not task.group:
            return range(self.ranks)
        known = self.workload.groups.get(task.group)
        if known is None:
            raise InvalidInput(f"group {task.group!r} of {task.name} is not described", where=self.workload.name)
        if known and max(known) >= self.ranks:
            raise InvalidInput(
                f"group {task.group!r} holds rank {max(known)}, the network has {self.ranks}", where=self.workload.name
            )
        return known

    def _meet(self, at: float, rank: int, task: Task) -> None:
        """A collective begins when all its ranks are there, and its group is done with the one before."""
        members = self._members(task)
        turn = self.turn[rank, task.group]
        self.turn[rank, task.group] += 1
        there = self.arrived[task.group, turn]
        there.append((at, rank, task))
        if not self.alone:
            if task.group not in self.expected:
                self.expected[task.group] = sum(1 for each in members if each in self.graphs)
            if len(there) < self.expected[task.group]:
                return
        if len({each.collective for _, _, each in there}) > 1:
            raise InvalidInput(f"ranks of {task.name} call different collectives", where=self.workload.name)
        begin = max(self.group_free[task.group], *(came for came, _, _ in there))
        end = begin + self.price(task, members)
        self.group_free[task.group] = end
        for came, who, one in there:
            self.communicating[who] += end - came
            self._done(came, end, who, one)

    def _send(self, at: float, rank: int, task: Task) -> None:
        link = (rank, task.peer)
        if not 0 <= task.peer < self.ranks:
            raise InvalidInput(f"{task.name} goes to rank {task.peer} of {self.ranks}", where=self.workload.name)
        begin = max(at, self.link_free[link])
        end = begin + self.price(task, link)
        self.link_free[link] = end
        self._done(at, begin, rank, task)
        key = (rank, task.peer, task.tag)
        if self.waiting[key]:
            came, who, one = self.waiting[key].pop(0)
            self.communicating[who] += end - came
            self._done(came, max(came, end), who, one)
        else:
            self.sent[key].append(end)

    def _done(self, begin: float, end: float, rank: int, task: Task) -> None:
        self.left[rank][task.id] = -1
        self.end[rank] = max(self.end[rank], end)
        if self.spans is not None and task.kind != "none":
            self.spans.append(Span(rank=rank, name=task.name, kind=task.kind, begin_s=begin, end_s=end))
        for number in self.next[rank][task.id]:
            self.left[rank][number] -= 1
            if not self.left[rank][number]:
                self._ready(end, rank, number)

    def _check_all_done(self) -> None:
        """Raise ``InvalidInput`` for the first task that still waits."""
        waiting = ((r, n) for r, left in self.left.items() for n, count in left.items() if count != -1)
        rank, number = next(waiting, (None, None))
        if rank is None or number is None:
            return
        task = self.tasks[rank][number]
        why = "others of its group never come" if task.kind == "collective" else "it waits for what never ends"
        raise InvalidInput(f"rank {rank} stands still at {task.name} (node {number}): {why}", where=self.workload.name)
