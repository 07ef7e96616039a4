"""One request on its way through a serving system, and the clock that it is measured with."""

from __future__ import annotations

from collections.abc import Sequence

SECOND = 10**15
"""Ticks of a second. Time is whole femtoseconds, so that a thousand steps at once end at the very tick at which a
thousand steps one by one do."""
FOREVER = 1 << 90
"""Beyond all times in ticks (a million years) and all counts of steps."""


class Request:
    """Lengths in tokens, times in ticks (-1: not yet). ``made`` counts output tokens; ``need`` is what must be in the
    cache before the next one can be made (more than the prompt after a preemption), ``done`` what is."""

    __slots__ = (
        "arrival", "base", "blocks", "cached", "deadline", "done", "end", "failed", "fetching", "first", "found",
        "group", "home", "id", "input", "last", "loaded", "lost", "made", "model", "moved", "named", "need", "nodes",
        "output", "pages", "place", "pooled", "preempted", "priority", "queued", "retries", "room", "session",
        "started", "swapped", "swaps", "ticket",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        arrival: int,
        input_tokens: int,
        output_tokens: int,
        *,
        blocks: Sequence[int] = (),
        named: int = 0,
        session: int = -1,
        priority: int = 0,
        deadline: int = FOREVER,
    ) -> None:
        self.id = number
        self.arrival = arrival
        self.input = input_tokens
        self.output = output_tokens
        self.blocks = blocks
        """Ids of the prompt's whole blocks; an id stands for its block and everything before it."""
        self.named = named or input_tokens
        """Leading tokens whose whole blocks ``blocks`` names; with the answer's, who goes on from it finds it."""
        self.session = session
        self.home: tuple[int, int] | None = None
        """Instance and attention group that it was sent to, where the sender chooses."""
        self.model = 0
        """Which of a fleet's models it asks for."""
        self.priority = priority
        """The smaller is served first, where the scheduler looks at it."""
        self.deadline = deadline
        """Tick by which it is to start, where the scheduler looks at it."""
        self.need = input_tokens
        self.done = self.made = self.last = 0
        self.cached = 0
        """Prompt tokens found in device memory when it was admitted."""
        self.loaded = self.found = 0
        """Leading prompt tokens that were here or were fetched from the memory pool; of them, those that were here."""
        self.pooled = 0
        """Of the tokens that it need not compute, those that only the memory beside the instances had."""
        self.fetching = 0
        """Ticks that it waited for them."""
        self.nodes = self.pages = 0
        """Leading blocks that it shares with others, and pages of its own."""
        self.started = self.first = self.end = self.moved = self.queued = -1
        self.ticket = -1
        """Number by which its instance knows it while it decodes."""
        self.base = 0
        """Cache grains that it brought into the decode batch, less growth up to then."""
        self.room = 0
        """Pages that its group keeps for it until its cache has come."""
        self.group = 0
        self.place = -1
        """Instance that decoded it."""
        self.retries = self.lost = 0
        """Times that it started over because its cache was lost, and tokens of cache that were lost."""
        self.failed = False
        """Given up after too many of them."""
        self.preempted = 0
        """Times that it left the decode batch, or its prompt was given up, for want of pages."""
        self.swapped = self.swaps = 0
        """Tokens of it that lie in host memory, and times that it came back from there."""

    def restart(self) -> None:
        """Forget the cache: everything made so far is prefilled again."""
        self.need = self.input + self.made
        self.done = self.nodes = self.pages = self.loaded = self.found = self.swapped = self.room = 0
        self.ticket = -1

    def quit(self, now: int) -> None:
        """Its user has gone."""
        self.end = now
        self.failed = True

    def lose(self, tokens: int) -> None:
        """The cache of ``tokens`` tokens is lost to a failure."""
        if tokens:
            self.lost += tokens
            self.retries += 1
        self.restart()
