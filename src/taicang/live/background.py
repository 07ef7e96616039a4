"""Load that no client sends: the requests of a trace, over and over, on the machine alone."""

from __future__ import annotations

from collections.abc import Iterator

from taicang.catalog.profiles import profile
from taicang.errors import InvalidInput
from taicang.serve.clients import OpenLoop
from taicang.serve.request import FOREVER, SECOND, Request
from taicang.traffic.generate import arriving, from_profile
from taicang.traffic.trace import Trace
from taicang.units import parse

DRAWN = 10_000
"""Requests of a profile before they come again."""
SLOWEST_PER_S, FASTEST_PER_S = 1e-6, 1e5

APART = 1 << 56
"""Between the ids of a trace's blocks and those of its next round: prompts come back, their blocks are new."""


class Background:
    """The requests of ``trace`` at its times; after its last one, and a mean pause, it begins again."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._loop = OpenLoop(trace)
        self._start = self._round = 0
        self._period = round(trace.span_s * SECOND) + round(trace.span_s / max(len(trace) - 1, 1) * SECOND)
        self._source: Iterator[Request] = iter(())
        self._index: dict[Request, int] = {}
        """Of those that another follows, where in the trace they stand."""

    @property
    def per_s(self) -> float:
        """Requests of a second of the machine, in the mean."""
        return len(self.trace) / self._period * SECOND

    def begin(self, now: int) -> None:
        """The first request comes at ``now``."""
        self._start, self._round = now, 0
        self._source = self._loop.arrivals()

    def draw(self, number: int) -> Request:
        """The next request, to be known by ``number``."""
        request = next(self._source, None)
        if request is None:
            self._start += max(self._period, 1)
            self._round += 1
            self._source = self._loop.arrivals()
            request = next(self._source)
        request.arrival += self._start
        if request.deadline < FOREVER:
            request.deadline += self._start
        return self._named(request, number)

    def _named(self, request: Request, number: int) -> Request:
        if self._loop.waits:
            self._index[request] = request.id
        if self._round:
            request.blocks = [block + self._round * APART for block in request.blocks]
        request.id = number
        return request

    def after(self, request: Request, now: int, number: int) -> Request | None:
        """The request, to be known by ``number``, that is sent now that ``request`` has been answered."""
        index = self._index.pop(request, -1)
        if index < 0:
            return None
        request.id = index
        following = self._loop.after(request, now)
        return None if following is None else self._named(following, number)


def from_profile_at(text: str, *, seed: int = 0) -> Trace:
    """PROFILE@RATE as a trace. Raises ``InvalidInput`` for an unknown profile or a rate that cannot be read."""
    name, _, rate = text.rpartition("@") if "@" in text else (text, "", "")
    drawn = from_profile(name, profile(name, where="--background"), DRAWN, seed=seed)
    if not rate:
        raise InvalidInput(f"a profile needs a rate: {name}@20/s", where="--background")
    per_s = parse(rate, "per_s", where="--background")
    if not SLOWEST_PER_S <= per_s <= FASTEST_PER_S:
        raise InvalidInput(f"the rate lies between {SLOWEST_PER_S:g} and {FASTEST_PER_S:g}/s", where="--background")
    return arriving(drawn, per_s, seed=seed)


def fitting(trace: Trace, holds: int) -> Background:
    """``trace`` as load for a machine whose caches hold ``holds`` tokens. Raises ``InvalidInput`` for one without
    times, or with a request that fits no cache."""
    if not len(trace.arrival_s):
        raise InvalidInput(f"{trace.name} has no times: give a rate, TRACE@20/s", where="--background")
    longest = int((trace.input_tokens + trace.output_tokens).max())
    if longest > holds:
        raise InvalidInput(
            f"{trace.name} has a request of {longest:,} tokens; a cache holds {holds:,}", where="--background"
        )
    return Background(trace)
