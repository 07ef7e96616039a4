"""The machine at work: the same instances that a replay drives, in step with a clock.

Arrivals are put on the heap of events at the time that it is; what is due is let happen when its time has come, by one
timer. Whoever waits for an answer is told of its tokens at the end of each step that makes some. A stretch of decode
steps is one event for the machine, so its steps are marked on the same heap, where somebody waits for them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from heapq import heappop
from math import inf, nextafter
from typing import Any

from taicang.live.background import Background
from taicang.live.clock import Clock, Pace
from taicang.live.metrics import Metrics
from taicang.serve.cluster import ARRIVAL, CHANGE, LOADED, MOVED, STEP, Cluster
from taicang.serve.instance import Instance
from taicang.serve.record import COMING_S, Record
from taicang.serve.request import SECOND, Request
from taicang.serve.steptable import GRAIN
from taicang.serve.trouble import cancel

PASSED = CHANGE + 1
"""Kind of the events that mark a step within a stretch; the last at one time."""
TURN_S = 0.005
"""Time on the clock for which events are let happen before others have their turn."""


class Stream:
    """A request that somebody waits for. ``out`` tokens are made; at ``last`` (ticks) the latest of them."""

    __slots__ = ("ahead", "gone", "last", "out", "place", "request", "seen", "ticket")

    def __init__(self) -> None:
        self.request: Request
        self.seen: Metrics
        self.out = 0
        self.last = -1
        self.place = -1
        self.ticket = self.ahead = 0
        """While its request decodes under this ticket, so many more tokens are made than steps of its instance."""
        self.gone = False
        """Nobody waits any more."""

    @property
    def why(self) -> str:
        """It ends: "stop" or "length"."""
        return "length"

    def told(self, now: int, *, ended: bool = False) -> None:
        """There are more tokens, or it has ended."""


class Supernode:
    """``cluster`` in the time of ``clock``. ``background`` is load that no client sends; ``served`` is a record of
    all requests, with ``arrivals`` of all that came."""

    def __init__(
        self, cluster: Cluster, clock: Clock, *, speed: float = 1.0, background: Background | None = None,
        metrics: Metrics | None = None, strike: Callable[[str, int, float | None], tuple[Any, ...]] | None = None,
        layout: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.cluster = cluster
        self.pace = Pace(clock, speed)
        self.metrics = metrics or Metrics()
        self.ranks: dict[tuple[int, int], Metrics] = {}
        """What each attention group (by instance and number) has seen, where they are asked one by one."""
        self.strike = strike
        """What happens when a part of the machine fails (see ``predict.standing``)."""
        self.layout = dict(layout or {})
        """Where the instances lie (see ``predict.standing``)."""
        self.served = Record()
        self.streams: dict[Request, Stream] = {}
        self.came_s = array("d")
        self.arrivals = {name: array("q") for name in ("input", "output", "model")}
        self.instances = {each.name: each for each in cluster.instances}
        self.told: Callable[[], None] | None = None
        """Called after whatever has happened at one time."""
        self.late_s = 0.0
        """By how much the clock was ahead when events were last let happen."""
        self._here: dict[int, dict[Request, Stream]] = {name: {} for name in (-1, *self.instances)}
        self._done = -1
        self._armed: int | None = None
        self.background: Background | None = None
        self._coming: Request | None = None
        cluster.on_left = self._left
        self.load(background)

    @property
    def now(self) -> int:
        """The machine's time, never before what has happened."""
        return max(self.pace.now(), self._done + 1)

    @property
    def over(self) -> bool:
        """It has run for as long as requests may come (see ``record``)."""
        return self.now > COMING_S * SECOND

    def load(self, background: Background | None) -> None:
        """From now on ``background`` comes in place of what did."""
        self.background, self._coming = background, None
        if background is not None:
            background.begin(self.now)
            self._next()
        self._arm()

    def _next(self) -> None:
        """Put the next request of the background on the heap."""
        assert self.background is not None
        self._coming = request = self.background.draw(self._number)
        if request.arrival > COMING_S * SECOND:
            return
        self._note(request)
        self.cluster.events.push(request.arrival, ARRIVAL, request)

    @property
    def _number(self) -> int:
        """Of the next request."""
        return len(self.arrivals["input"])

    def _note(self, request: Request) -> None:
        columns = self.arrivals
        self.came_s.append(request.arrival / SECOND)
        columns["input"].append(request.input)
        columns["output"].append(request.output)
        columns["model"].append(request.model)

    def submit(
        self, stream: Stream, input_tokens: int, output_tokens: int, *, home: tuple[int, int] | None = None,
        **marks: Any,
    ) -> None:  # fmt: skip
        """A client's request arrives: of so many tokens, with the further ``marks`` of a ``Request``."""
        at = self.now / SECOND
        while round(at * SECOND) <= self._done:  # a trace of it, in seconds, gives the same tick
            at = nextafter(at, inf)
        model = marks.pop("model", 0)
        request = Request(self._number, round(at * SECOND), input_tokens, output_tokens, **marks)
        request.model, request.home = model, home
        self._note(request)
        stream.request, stream.seen = request, self._seen(request)
        self.streams[request] = stream
        self._here[-1][request] = stream
        self.cluster.events.push(request.arrival, ARRIVAL, request)
        self._arm()

    def _seen(self, request: Request) -> Metrics:
        """Where ``request`` counts."""
        return self.ranks.get(request.home or (request.place, request.group), self.metrics)

    def leave(self, stream: Stream) -> None:
        """Nobody waits for ``stream`` any more."""
        if stream.request.end < 0 and not stream.gone:
            stream.gone = True
            self.later(self._cancel, stream)

    def later(self, act: Callable[..., None], *what: Any, after_s: float = 0.0) -> None:
        """``act(cluster, *what, now)``, as of ``trouble``, happens in ``after_s`` seconds of the machine."""
        self.cluster.later(self.now + round(after_s * SECOND), act, *what)
        self._arm()

    def change_speed(self, speed: float) -> None:
        """Go on ``speed`` times as fast as the clock."""
        self.pace.change(speed)
        self._armed = None
        self._arm()

    def advance(self) -> None:
        """Let everything happen whose time has come."""
        clock, heap = self.pace.clock, self.cluster.events.heap
        began, upto = clock.time(), self.pace.now()
        if self._armed is not None and began >= self.pace.when(self._armed):  # else rounding could keep it for ever
            upto = max(upto, self._armed)
        self._armed = None
        self.late_s = (upto - heap[0][0]) / SECOND / self.pace.speed if heap else 0.0
        while heap and heap[0][0] <= upto:
            self._happen(heap[0][0])
            if self.told is not None:
                self.told()
            if clock.time() - began > TURN_S:
                break
        self._arm()

    def _arm(self) -> None:
        first = self.cluster.events.next
        if first != self._armed and first is not None:
            self._armed = first
            self.pace.clock.at(self.pace.when(first), self.advance)

    def _happen(self, now: int) -> None:
        """All events of one time, in the order in which ``simulate.serve`` has them."""
        cluster, here = self.cluster, self._here
        heap = cluster.events.heap
        while heap and heap[0][0] == now:
            _, kind, _, what, version = heappop(heap)
            if kind == PASSED:
                self._passed(what[0], what[1], version, now)
            elif kind != STEP or version == what.version:
                cluster.happen(now, kind, what, version)
                self._follow(kind, what, now)
        self._done = now
        if cluster.touched:
            begun = list(cluster.touched)
            cluster.wake(now)
            for instance in begun:
                if here[instance.name] and (first := instance.passes(1)) >= 0:
                    cluster.events.push(first, PASSED, (instance, now), 1)

    def _follow(self, kind: int, what: Any, now: int) -> None:
        """What an event of the cluster means to who waits here."""
        if kind == STEP:
            if self._here[what.name]:
                self._tell(what, what.steps, now)
        elif kind == CHANGE:
            for stream in list(self.streams.values()):
                self._settle(stream, now)
        elif kind == ARRIVAL:
            self._arrived(what, now)
        elif kind in (LOADED, MOVED) and what[0] in self.streams:
            self._settle(self.streams[what[0]], now)

    def _arrived(self, request: Request, now: int) -> None:
        stream = self.streams.get(request)
        if stream is not None:
            self._settle(stream, now)
        elif request is self._coming:
            self._next()

    def _settle(self, stream: Stream, now: int) -> None:
        """``stream`` may be elsewhere now."""
        place = stream.request.place
        if place != stream.place:
            del self._here[stream.place][stream.request]
            stream.place, stream.ticket = place, 0
            self._here[place][stream.request] = stream
        if stream.gone:
            self._cancel(self.cluster, stream, now)

    def _cancel(self, cluster: Cluster, stream: Stream, now: int) -> None:
        cancel(cluster, self.instances.get(stream.place), stream.request, now)

    def _passed(self, instance: Instance, began: int, step: int, now: int) -> None:
        """Step ``step`` of the stretch that ``instance`` began at ``began`` is over."""
        if instance.end < 0 or instance.doing()[0] != began:
            return
        self._tell(instance, instance.steps + step, now)
        following = instance.passes(step + 1)
        if following >= 0:
            self.cluster.events.push(following, PASSED, (instance, began), step + 1)

    def _tell(self, instance: Instance, reached: int, now: int) -> None:
        """Who waits at ``instance`` learns what was made up to decode step ``reached``."""
        last = made_in = 0
        made, seen, even = instance.made, self.metrics, instance.table.growth == GRAIN
        for stream in list(self._here[instance.name].values()):
            request = stream.request
            if request.ticket == stream.ticket:
                out = reached + stream.ahead
            else:
                out = request.made + made(request, reached) if request.ticket >= 0 else request.made
                if even and request.ticket >= 0:
                    stream.ticket, stream.ahead = request.ticket, out - reached
            if out > stream.out:
                if stream.last != last or stream.seen is not seen:
                    seen.gap(now - last, made_in)
                    last, made_in, seen = stream.last, 0, stream.seen
                if last >= 0:
                    made_in += out - stream.out
                stream.out = out
                stream.last = now
                stream.told(now)
            elif stream.gone:
                self._cancel(self.cluster, stream, now)
        seen.gap(now - last, made_in)

    def _left(self, request: Request, now: int) -> None:
        """``request`` has ended."""
        self.served.append(request)
        stream = self.streams.pop(request, None)
        self._seen(request).ended(request, "stop" if stream is None else stream.why)
        if stream is not None:
            del self._here[stream.place][request]
            if not request.failed and request.made > stream.out:
                if stream.last >= 0:
                    stream.seen.gap(now - stream.last, request.made - stream.out)
                stream.out, stream.last = request.made, now
            stream.told(now, ended=True)
        elif self.background is not None and not self.over:
            following = self.background.after(request, now, self._number)
            if following is not None:
                self._note(following)
                self.cluster.events.push(following.arrival, ARRIVAL, following)

    @property
    def holds(self) -> int:
        """Tokens of cache of the smallest attention group."""
        return min(group.cache.tokens for each in self.instances.values() for group in each.groups)

    def waiting(self, home: tuple[int, int] | None = None) -> int:
        """Requests that no step works on yet, of all or at ``home``."""
        if home is not None:
            return len(self.instances[home[0]].groups[home[1]].waiting)
        return sum(len(group.waiting) for each in self.instances.values() for group in each.groups)
