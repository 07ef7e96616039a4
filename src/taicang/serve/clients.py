"""Who sends requests: a trace in its own time, or a fixed number of clients that wait for their answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from taicang.serve.request import SECOND, Request
from taicang.traffic.trace import Trace

SOME = 65_536
"""Requests of a trace that are unpacked at a time."""


def open_loop(trace: Trace) -> Iterator[Request]:
    """The requests of ``trace`` at their times."""
    nothing: tuple[int, ...] = ()
    for low in range(0, len(trace), SOME):
        part = slice(low, low + SOME)
        times = [round(t * SECOND) for t in trace.arrival_s[part].tolist()]
        inputs, outputs = trace.input_tokens[part].tolist(), trace.output_tokens[part].tolist()
        sessions = trace.session[part].tolist() if trace.session is not None else [-1] * len(inputs)
        blocks = trace.blocks[part] if trace.blocks else [nothing] * len(inputs)
        for i, now in enumerate(times):
            yield Request(low + i, now, inputs[i], outputs[i], blocks=blocks[i], session=sessions[i])


class ClosedLoop:
    """``clients`` clients that take the requests of ``trace`` in order; each sends its next one ``think_s`` (mean of an
    exponential, or exactly) after an answer. ``ramp_s`` spreads the first requests evenly."""

    __slots__ = ("_draw", "_first", "_next", "_think", "clients", "trace")

    def __init__(
        self, trace: Trace, clients: int, *, think_s: float = 0.0, random_think: bool = False, ramp_s: float = 0.0,
        seed: int = 0,
    ) -> None:  # fmt: skip
        self.trace = trace
        self.clients = min(clients, len(trace))
        self._think = round(think_s * SECOND)
        self._first = round(ramp_s * SECOND)
        self._draw = random.Random(seed).expovariate if random_think and think_s else None
        self._next = self._maker()

    def _maker(self) -> Callable[[int], Request | None]:
        trace = self.trace
        inputs, outputs = trace.input_tokens.tolist(), trace.output_tokens.tolist()
        blocks = trace.blocks or [()] * len(inputs)
        sessions = trace.session.tolist() if trace.session is not None else [-1] * len(inputs)
        made = 0

        def make(now: int) -> Request | None:
            nonlocal made
            if made >= len(inputs):
                return None
            i, made = made, made + 1
            return Request(i, now, inputs[i], outputs[i], blocks=blocks[i], session=sessions[i])

        return make

    def arrivals(self) -> Iterator[Request]:
        """The first request of every client."""
        for i in range(self.clients):
            request = self._next(self._first * i // self.clients)
            if request is not None:
                yield request

    def after(self, _: Request, now: int) -> Request | None:
        """The next request of the client whose answer has come."""
        think = round(self._draw(1.0) * self._think) if self._draw else self._think
        return self._next(now + think)
