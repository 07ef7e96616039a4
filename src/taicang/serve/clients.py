"""Who sends requests: a trace in its own time, or a fixed number of clients that wait for their answers.

In either, a request with a delay is sent so long after the answer before it in its session.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np

from taicang.serve.request import SECOND, Request
from taicang.traffic.trace import Trace, continued, following

SOME = 65_536
"""Requests of a trace that are unpacked at a time."""


class Turns:
    """Makes the requests of ``trace``; ``after`` makes those that wait for an answer."""

    __slots__ = ("_continued", "_delay", "_due", "_model", "_next", "_rank", "first", "trace")

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._next = following(trace)
        self._continued = continued(trace)
        self._delay = trace.delay_s
        self._rank = trace.priority.tolist() if trace.priority is not None else None
        self._due = trace.deadline_s.tolist() if trace.deadline_s is not None else None
        self._model = trace.model.tolist() if trace.model is not None else None
        self.first = np.ones(len(trace), dtype=bool) if self._delay is None else np.isnan(self._delay)
        """Requests that wait for none."""

    @property
    def waits(self) -> bool:
        """Whether any request does."""
        return self._next is not None

    def make(self, i: int, now: int) -> Request:
        """Request ``i``, arriving ``now``."""
        t = self.trace
        made = Request(
            i, now, int(t.input_tokens[i]), int(t.output_tokens[i]), blocks=t.blocks[i] if t.blocks else (),
            session=int(t.session[i]) if t.session is not None else -1,
        )  # fmt: skip
        return self.marked(made)

    def marked(self, request: Request) -> Request:
        """``request`` with the trace's model, priority and deadline, and the blocks of its answer where the next turn
        tells them."""
        i = request.id
        if i in self._continued:
            request.named = request.input + request.output
            request.blocks = self.trace.blocks[self._continued[i]][: request.named // self.trace.block]
        if self._model is not None:
            request.model = self._model[i]
        if self._rank is not None:
            request.priority = self._rank[i]
        if self._due is not None and self._due[i] == self._due[i]:  # not NaN
            request.deadline = request.arrival + round(self._due[i] * SECOND)
        return request

    def after(self, request: Request, now: int) -> Request | None:
        """The next turn of the session whose answer has come."""
        if self._next is None or self._delay is None:
            return None
        i = int(self._next[request.id])
        return None if i < 0 else self.make(i, now + round(float(self._delay[i]) * SECOND))


class OpenLoop(Turns):
    """The requests of ``trace`` at their times."""

    __slots__ = ()

    def arrivals(self) -> Iterator[Request]:
        """All that wait for no answer, in order of time."""
        trace, nothing = self.trace, ()
        plain = self._rank is None and self._due is None and self._model is None and not self._continued
        for low in range(0, len(trace), SOME):
            part = slice(low, low + SOME)
            times, first = trace.arrival_s[part].tolist(), self.first[part].tolist()
            inputs, outputs = trace.input_tokens[part].tolist(), trace.output_tokens[part].tolist()
            sessions = trace.session[part].tolist() if trace.session is not None else [-1] * len(inputs)
            blocks = trace.blocks[part] if trace.blocks else [nothing] * len(inputs)
            for i, at in enumerate(times):
                if first[i]:
                    made = Request(
                        low + i, round(at * SECOND), inputs[i], outputs[i], blocks=blocks[i], session=sessions[i]
                    )
                    yield made if plain else self.marked(made)


class ClosedLoop(Turns):
    """``clients`` clients that take the requests (or sessions) of ``trace`` in order; each sends its next one
    ``think_s`` (exactly, or as the mean of an exponential) after an answer. ``ramp_s`` spreads the first ones."""

    __slots__ = ("_draw", "_order", "_ramp", "_think", "clients")

    def __init__(
        self, trace: Trace, clients: int, *, think_s: float = 0.0, random_think: bool = False, ramp_s: float = 0.0,
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(trace)
        self._order = iter(np.flatnonzero(self.first).tolist())
        self.clients = min(clients, int(self.first.sum()))
        self._think = round(think_s * SECOND)
        self._ramp = round(ramp_s * SECOND)
        self._draw: Callable[[float], float] | None = random.Random(seed).expovariate if random_think else None

    def arrivals(self) -> Iterator[Request]:
        """The first request of every client."""
        for i in range(self.clients):
            yield self.make(next(self._order), self._ramp * i // self.clients)

    def after(self, request: Request, now: int) -> Request | None:
        """The next request of the client whose answer has come."""
        turn = super().after(request, now)
        if turn is not None:
            return turn
        i = next(self._order, -1)
        if i < 0:
            return None
        think = round(self._draw(1.0) * self._think) if self._draw else self._think
        return self.make(i, now + think)
