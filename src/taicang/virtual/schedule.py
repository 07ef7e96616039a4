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
    waiting: dict[int, tuple[str, float]] = {}
    sent: dict[str, deque[float]] = {}

    def go(rank: int, at: float | None) -> None:
        try:
            waiting[rank] = next(running[rank]) if at is None else running[rank].send(at)
        except StopIteration:
            running.pop(rank)

    def ready(rank: int, group: str, begin: float) -> dict[int, float]:
        """Ranks that can go on with this one, and when."""
        name, _, pair = group.rpartition(":")
        if name == MEET:
            ends = [int(each) for each in pair.split(">")]
            if rank == ends[0]:
                sent.setdefault(group, deque()).append(begin)
                return {rank: begin}
            if ends[0] not in clocks:
                return {rank: begin}
            return {rank: max(begin, sent[group].popleft())} if sent.get(group) else {}
        need = [each for each in members.get(group, (rank,)) if each in clocks]
        if all(waiting.get(each, ("", 0.0))[0] == group for each in need):
            at = max(waiting[each][1] for each in need)
            return dict.fromkeys(need, at)
        return {}

    for rank in list(running):
        go(rank, None)
    while waiting:
        free: dict[int, float] = {}
        for rank, (group, begin) in waiting.items():
            free = ready(rank, group, begin)
            if free:
                break
        if not free:
            first = min(waiting, key=lambda rank: waiting[rank][1])
            free = {first: waiting[first][1]}
        for each in free:
            del waiting[each]
        for each, at in free.items():
            go(each, at)


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
