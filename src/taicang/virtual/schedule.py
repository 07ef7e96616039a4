"""A captured program on streams: the host issues kernels one by one, streams run them, events and reads make them wait.

A kernel starts when it was issued, when its stream is free, and when what the stream waits for is done. A collective
starts when all executed ranks of its group are there. The result is when each entry of the log began and ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Generator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

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
    Ints,
)

Floats = npt.NDArray[np.float64]
Meeting = Generator[tuple[str, float], float, None]


@dataclass(slots=True, kw_only=True)
class Clock:
    """Where one rank's host and streams are, entry by entry."""

    seconds: Sequence[float]
    """Price of each kernel of the table."""
    groups: Sequence[str]
    """Group of each kernel that is a collective, else empty."""
    issue_s: float
    """Host time to issue one kernel."""
    fallen: Container[int] = frozenset()
    """Kernels of the table that the host runs itself."""
    host_s: float = 0.0
    streams_s: dict[int, float] = field(default_factory=dict)
    events_s: dict[int, float] = field(default_factory=dict)
    begin: list[float] = field(default_factory=list)
    end: list[float] = field(default_factory=list)
    waited_s: float = 0.0
    """Of the host, for the device."""

    def latest(self) -> float:
        """When everything that was issued is done."""
        return max(self.host_s, *self.streams_s.values()) if self.streams_s else self.host_s

    def run(self, work: Ints) -> Meeting:
        """Go through ``work``; yields (group, when this rank is there) at collectives and takes when all are."""
        streams, events, seconds = self.streams_s, self.events_s, self.seconds
        for what, stream, value in work.tolist():
            begin = end = self.host_s
            if what in (KERNEL, COLLECTIVE, GRAPHED):
                self.host_s += self.issue_s if what != GRAPHED else 0.0
                begin = max(self.host_s, streams.get(stream, 0.0))
                if what == COLLECTIVE and self.groups[value]:
                    begin = yield self.groups[value], begin
                end = streams[stream] = begin + seconds[value]
                if value in self.fallen:
                    self._wait(end)
            elif what == RECORD:
                events[value] = max(streams.get(stream, 0.0), self.host_s)
            elif what == BLOCK:
                streams[stream] = max(streams.get(stream, 0.0), events.get(value, 0.0))
            elif what == WAIT_EVENT:
                self._wait(events.get(value, 0.0))
            elif what in (WAIT_STREAM, WAIT_WORK):
                self._wait(streams.get(stream, 0.0))
            elif what == WAIT_DEVICE:
                self._wait(self.latest())
            elif what == MARK:
                begin = end = self.latest()
            self.begin.append(begin)
            self.end.append(end)

    def _wait(self, until: float) -> None:
        self.waited_s += max(until - self.host_s, 0.0)
        self.host_s = max(self.host_s, until)


def alone(clock: Clock, work: Ints) -> None:
    """One rank by itself: the others arrive when it does."""
    meetings = clock.run(work)
    try:
        _, at = next(meetings)
        while True:
            _, at = meetings.send(at)
    except StopIteration:
        return


def together(clocks: Mapping[int, Clock], work: Mapping[int, Ints], members: Mapping[str, Sequence[int]]) -> None:
    """All executed ranks: a collective starts when those of its group that are executed are there.

    A message is received when it was sent; who sends does not wait. Where no rank can go on (communicators may be
    entered in different orders), the earliest does.
    """
    running = {rank: clocks[rank].run(work[rank]) for rank in clocks}
    meetings = _Meetings(members=members, executed=clocks.keys())

    def go(rank: int, at: float | None) -> None:
        try:
            meetings.waiting[rank] = next(running[rank]) if at is None else running[rank].send(at)
        except StopIteration:
            running.pop(rank)

    for rank in list(running):
        go(rank, None)
    while meetings.waiting:
        for rank, at in meetings.free().items():
            go(rank, at)


@dataclass(slots=True, kw_only=True)
class _Meetings:
    """Who waits for whom."""

    members: Mapping[str, Sequence[int]]
    executed: Container[int]
    waiting: dict[int, tuple[str, float]] = field(default_factory=dict)
    """Rank -> the group at which it is, since when."""
    sent: dict[str, deque[float]] = field(default_factory=dict)

    def free(self) -> dict[int, float]:
        """Ranks that go on next, and when; they wait no more."""
        waiting = self.waiting
        found = next((free for rank in waiting if (free := self._ready(rank, *waiting[rank]))), None)
        if found is None:
            first = min(waiting, key=lambda rank: waiting[rank][1])
            found = {first: waiting[first][1]}
        for rank in found:
            del waiting[rank]
        return found

    def _ready(self, rank: int, group: str, begin: float) -> dict[int, float]:
        """Ranks that can go on with this one, and when."""
        name, _, pair = group.rpartition(":")
        if name == MEET:
            return self._sent(rank, group, int(pair.split(">")[0]), begin)
        need = [each for each in self.members.get(group, (rank,)) if each in self.executed]
        if all(self.waiting.get(each, ("", 0.0))[0] == group for each in need):
            return dict.fromkeys(need, max(self.waiting[each][1] for each in need))
        return {}

    def _sent(self, rank: int, group: str, source: int, begin: float) -> dict[int, float]:
        """A message of rank ``source``, at either end."""
        if rank == source:
            self.sent.setdefault(group, deque()).append(begin)
            return {rank: begin}
        if source not in self.executed:
            return {rank: begin}
        return {rank: max(begin, self.sent[group].popleft())} if self.sent.get(group) else {}


def covered(begin: Floats, end: Floats) -> float:
    """Seconds in which at least one of these intervals runs."""
    if not begin.size:
        return 0.0
    order = np.argsort(begin, kind="stable")
    begin, end = begin[order], np.maximum.accumulate(end[order])
    fresh = np.append(True, begin[1:] > end[:-1])
    starts = begin[fresh]
    ends = np.append(end[:-1][fresh[1:]], end[-1])
    return float(np.sum(ends - starts))
