"""Let a cluster serve requests on the event heap."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop
from typing import Protocol

from taicang.errors import TaicangError
from taicang.serve.cluster import ARRIVAL, Cluster
from taicang.serve.request import SECOND, Request

MOST_EVENTS = 1_000_000
"""Events without a request that comes or ends: more are a livelock, for a stretch of decode steps is one event."""
LONGEST = 365 * 86400 * SECOND
"""Time of the replay without one."""

EVERY = 4096
"""Events between two reports of progress."""


class Stop(Exception):
    """What ``finished`` or ``progress`` raise to end a run early; an interrupt by the user ends whatever runs it."""


class Kept(Protocol):
    """What takes finished requests: a list, or a ``Record`` of their figures."""

    def append(self, request: Request, /) -> None:
        """Take one."""

    def __len__(self) -> int: ...


def simulate(
    cluster: Cluster,
    arrivals: Iterable[Request],
    *,
    after: Callable[[Request, int], Request | None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Request]:
    """``serve`` that returns the finished requests themselves."""
    finished: list[Request] = []
    serve(cluster, arrivals, finished, after=after, progress=progress)
    return finished


def serve(
    cluster: Cluster,
    arrivals: Iterable[Request],
    finished: Kept,
    *,
    after: Callable[[Request, int], Request | None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Serve ``arrivals`` (in order of time); requests go to ``finished`` in order of finishing.

    ``after(request, now)`` makes the request that its client sends next (closed loop); its arrival may not lie before
    ``now``. ``progress(finished, now)`` is called every ``EVERY`` events. Returns whether the run came to its end:
    every request has ended, or waits for an instance that nothing brings back. ``Stop`` ends it early.
    """
    events = cluster.events
    heap, touched = events.heap, cluster.touched
    arrive, happen, wake = cluster.arrive, cluster.happen, cluster.wake
    under_way = count = 0

    def left(request: Request, now: int) -> None:
        nonlocal under_way
        under_way -= 1
        began[:] = count, now
        finished.append(request)
        if after is not None and (following := after(request, now)) is not None:
            under_way += 1
            events.push(following.arrival, ARRIVAL, following)

    cluster.on_left = left
    began = [0, 0]  # number and time of the event at which the last request came or left
    source = iter(arrivals)
    coming = next(source, None)
    try:
        while True:
            now = heap[0][0] if heap else None
            if coming is not None and (now is None or coming.arrival <= now):
                now = coming.arrival
                began[:] = count, now
                while coming is not None and coming.arrival == now:
                    under_way += 1
                    arrive(coming, now)
                    coming = next(source, None)
            if now is None or not (under_way or coming):
                return True
            while heap and heap[0][0] == now:
                _, kind, _, what, version = heappop(heap)
                happen(now, kind, what, version)
            if touched:
                wake(now)
            count += 1
            if count - began[0] > MOST_EVENTS or now - began[1] > LONGEST:
                raise _nowhere(under_way, count - began[0], now - began[1])
            if progress is not None and count % EVERY == 0:
                progress(len(finished), now)
    except Stop:
        return False


def _nowhere(under_way: int, events: int, ticks: int) -> TaicangError:
    return TaicangError(
        f"the replay gets nowhere: {under_way:,} requests are under way and none has ended in {events:,} events and "
        f"{ticks / SECOND:,.0f} s of its time; failures may come faster than a request can be served (--mtbf, "
        "--restart), or caches may be too slow to read"
    )
