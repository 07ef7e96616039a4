"""One serving instance as a state machine without a clock: ``submit``, ``begin``, ``finish``.

``begin`` starts a step, or as many pure decode steps as nothing can interrupt, and says when it ends; whoever holds the
clock calls ``finish`` then. A request that arrives in between cuts the stretch at the end of the step that runs.
Attention groups (data parallelism) step together: the slowest decides.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Collection

from taicang.serve.cache import Cache
from taicang.serve.group import Group, Lanes
from taicang.serve.held import Held, Kit
from taicang.serve.pace import NO_TIME, Jitter, Link
from taicang.serve.request import FOREVER, Request
from taicang.serve.scheduler import Limits, enqueue, fill, footprint, prompts_of
from taicang.serve.steptable import Row, StepTable

NOTHING = (0, 0, 0.0, 0)


class Instance(Held):
    """``groups`` caches, one per attention group. ``role`` "prefill" hands requests on after their first token;
    ``single`` steps one by one (for tests). ``steps_of`` draws the decode steps that some tokens need."""

    __slots__ = (
        "_context", "_growth", "_k", "_rides", "_row", "_since", "_start", "_sums", "_work", "busy", "coming", "end",
        "failures", "jitter", "name", "pool", "ratio", "refused", "role", "sending", "single", "steps_run", "version",
    )  # fmt: skip

    def __init__(
        self,
        name: int,
        table: StepTable,
        limits: Limits,
        caches: list[Cache],
        *,
        role: str = "both",
        pool: str = "",
        single: bool = False,
        steps_of: Callable[[int], int] | None = None,
        swap: Link = NO_TIME,
        jitter: Jitter | None = None,
    ) -> None:
        super().__init__(table, limits, caches, steps_of, swap)
        self.name = name
        self.role = role
        self.pool = pool or role
        """What it is set up as: a role, or a model of a fleet."""
        self.single = single
        self.jitter = jitter
        self.ratio = 1.0
        """By which its steps are longer than those of its kit."""
        self.refused: list[Request] = []
        """Requests that ``begin`` turned away; its caller takes them out."""
        self.steps_run = 0
        self.failures = 0
        self.coming = 0
        """Requests whose cache is being loaded."""
        self.sending = 0
        """Requests whose cache is here until another instance has it."""
        self.busy = 0
        self.version = 0
        self._work: list[tuple[Request, int]] = []
        self._sums: tuple[int, int, float, int] = NOTHING
        self._rides = False
        self._since = -1
        self._start = self.end = -1
        """When what runs ends; -1 while nothing does."""
        self._k = self._context = self._growth = 0
        self._row: Row | None = None

    @property
    def requests(self) -> int:
        """Requests that are here or on their way."""
        return self.lanes.here + self.coming

    @property
    def idle(self) -> bool:
        """Whether no step runs."""
        return self.end < 0

    def submit(self, request: Request, now: int) -> int | None:
        """Queue ``request``. Returns the new end where that cuts a stretch short, else None."""
        home = request.home
        at = home[1] if home is not None and home[0] == self.name else self.lanes.lightest()
        self.lanes.enter(at)
        return self._queue(request, at, now)

    def promise(self, request: Request, now: int) -> int:
        """Keep room for ``request``, whose cache will come from elsewhere; returns its group, or -1 without room."""
        at = self.lanes.lightest()
        group = self.groups[at]
        load = self.lanes.load[at]
        if load >= self.limits.sequences:
            return -1
        if not group.reserve:
            group.sync(max(self._reached(now - 1), self.steps))
        keep = 0 if group.reserve or not load else group.n + 1
        pages = -(-footprint(request, self.limits) // group.cache.page)
        if group.cache.spare - group.promised < pages + keep:
            return -1
        request.room = pages
        group.promised += pages
        self.lanes.enter(at)
        return at

    def arrive(self, request: Request, at: int, now: int) -> int | None:
        """The cache of ``request`` has come to group ``at``, where it was promised room. As ``submit``."""
        self.groups[at].promised -= request.room
        return self._queue(request, at, now)

    def withdraw(self, request: Request, at: int) -> None:
        """The cache of ``request`` will not come."""
        self.groups[at].promised -= request.room
        self.lanes.leave(at)

    def refit(self, pool: str, kit: Kit, *, role: str) -> None:
        """Set up anew as one of ``pool``, with nothing here."""
        assert self.idle
        assert not self.requests
        self.pool, self.role, self.limits, self.steps_of = pool, role, kit.limits, kit.draw(self.name)
        self.table = kit.table.slower(self.ratio)
        caches = kit.caches()
        for group, cache in zip(self.groups, caches, strict=False):
            if group.cache.watch is not None:
                cache.watch = group.cache.watch
                cache.watch.cleared()
        self._begin_anew([Group(cache, reserve=kit.limits.reserve, step=self.steps) for cache in caches])

    def _queue(self, request: Request, at: int, now: int) -> int | None:
        request.group = at
        request.place = self.name
        request.queued = now
        group = self.groups[at]
        head = enqueue(group, request, self.limits)
        self.hungry[at] = None
        full = not head or group.n + len(group.prefilling) >= self.limits.sequences
        if full and self.limits.poll == 1 and not self.limits.hold:  # it cannot join before another leaves
            return None
        return self.cut(now, self.limits.ahead)

    def cut(self, now: int, ahead: int = 0) -> int | None:
        """End the running stretch so many steps after the one that runs; returns the new end, None if it stays."""
        if self.end < 0 or self._k <= 1 or self._row is None:
            return None
        k = self._steps_in(now - self._start) + ahead
        if k >= self._k:
            return None
        self._k = k
        self.end = self._start + self._ticks(k)
        self.version += 1
        return self.end

    def _ticks(self, k: int, over: int = 0) -> int:
        """Of the first ``k`` steps of the running stretch, of which ``over`` are counted as run."""
        assert self._row is not None
        noise = 0 if self.jitter is None else self.jitter.sum(self.steps_run - over, k)
        return self._row.sum(self._context, self._growth, k) + noise

    def _seen(self, now: int) -> int:
        """Since when a prompt is here that joins the step beginning ``now``: since the last, if scheduled ahead."""
        if not self.scheduled(now):
            return now
        return self._start + (self._ticks(self._k - 1, self._k) if self._rides and self._k > 1 else 0)

    def _steps_in(self, ticks: int) -> int:
        """The least number of its steps, at least one, that take ``ticks`` or longer."""
        assert self._row is not None
        most = self._row.reach(self._context, self._growth, ticks)
        if self.jitter is None:
            return most
        return bisect_left(range(1, most + 1), ticks, key=self._ticks) + 1

    def begin(self, now: int) -> int:
        """Start the next step or stretch; returns when it ends, or -1 where there is nothing to do."""
        if not self.lanes.alive and not self.hungry:
            self._work = []
            return -1
        crowded = self.make_room() if self.steps >= self.safe else ()
        gated = (self.limits.poll > 1 or self.limits.hold > 0) and self._gated()
        self._work = work = self._feed(now, crowded, gated=gated) if self.hungry else []
        for request in self.refused:
            request.end = now
            self.lanes.leave(request.group)
        if self._since >= 0 and not any(group.waiting for group in self.groups):
            self._since = -1
        if work:
            return self._begin_prompts(now, work)
        return self._begin_decode(now, crowded, gated=gated)

    def _feed(self, now: int, crowded: Collection[int], *, gated: bool) -> list[tuple[Request, int]]:
        """Prompts, and their tokens, that groups take into this step; where ``gated`` or ``crowded``, no new ones."""
        work: list[tuple[Request, int]] = []
        limits, seen = self.limits, self._seen(now)
        chunks = limits.chunks
        for at in list(self.hungry):
            group = self.groups[at]
            waiting, prefilling = group.waiting, group.prefilling
            if not group.reserve:
                group.sync(self.steps)
            if waiting and waiting[0].done > 0 and not gated:
                self.admit_ready(group)
            if waiting or prefilling:
                before = len(prefilling)
                if chunks and group.n:  # what decodes takes its pages first
                    group.sync(self.steps + 1)
                new = not gated and not (chunks and at in crowded)
                work += fill(group, limits, self.table.query_len, now, self.refused, seen if new else -1)
                if not group.reserve and (chunks or len(prefilling) > before):  # else what ``make_room`` found holds
                    self.safe = min(self.safe, group.watch())
            if not waiting and not prefilling:
                del self.hungry[at]
        return work

    def _begin_decode(self, now: int, crowded: Collection[int], *, gated: bool) -> int:
        heap = self._heap
        while heap and heap[0][1] != heap[0][2].ticket:
            heapq.heappop(heap)
        if not heap:
            self.end = -1
            return -1
        n, context, growth, k = self.lanes.largest(self.table.growth, self.steps, heap[0][0] - self.steps)
        k = min(k, self.safe - self.steps)
        if gated:
            k = min(k, self._opens() - self.steps)
        # who stood behind a refused one, or came too late for this step, is looked at with the next one
        if self.single or self.stall or self.refused or crowded or (self.hungry and self.late(self._seen(now))):
            k = 1
        self._rides = True
        self._row, self._context, self._growth, self._k = self.table.row(n), context, growth, k
        return self._until(now, self._ticks(k))

    def _gated(self) -> bool:
        """Whether new prompts are kept waiting."""
        groups, limits = self.groups, self.limits
        if not any(group.waiting for group in groups) or not self.lanes.alive:
            self._since = -1
            return False
        if self._since < 0:
            self._since = self.steps
        if self._opens() <= self.steps:
            return False
        if len(groups) > 1:
            return not all(group.waiting for group in groups)
        enough = limits.tokens * limits.company_ratio
        return not limits.hold or sum(request.need - request.done for request in groups[0].waiting) < enough

    def _opens(self) -> int:
        """Decode step at which prompts that wait now need wait no longer."""
        if self.limits.hold:
            return self._since + self.limits.hold
        return self.steps + -self.steps % self.limits.poll

    def _begin_prompts(self, now: int, work: list[tuple[Request, int]]) -> int:
        if len(self.groups) == 1:
            self._sums = tokens, prompts, pairs, keys = prompts_of(work)
        else:
            parts: dict[int, list[tuple[Request, int]]] = {}
            for item in work:
                parts.setdefault(item[0].group, []).append(item)
            columns = list(zip(*(prompts_of(part) for part in parts.values()), strict=True))
            tokens, prompts, pairs, keys = (max(column) for column in columns)
            whole, count, area, reads = (sum(column) for column in columns)
            self._sums = whole, count, area, reads
        self._rides = self.limits.policy == "mixed" and bool(self._heap)
        n = context = 0
        if self._rides:
            n, context, _, _ = self.lanes.largest(self.table.growth, self.steps, 1)
            self._rides = n > 0
        for request, _ in work:
            if request.started < 0:
                request.started = now
        self._row, self._k = None, 1
        ticks = self.table.mixed(tokens, prompts, pairs, keys, n, context)
        if len(self.groups) > 1:
            beside = n * self.table.query_len
            ticks = self.table.shared(ticks, n, tokens + beside, whole / len(self.groups) + beside)
        noise = 0 if self.jitter is None else self.jitter.sum(self.steps_run, 1)
        return self._until(now, ticks + noise)

    def _until(self, now: int, ticks: int) -> int:
        self._start = now
        self.end = now + ticks + self.stall
        self.stall = 0
        return self.end

    def doing(self) -> tuple[int, int, int, int, tuple[int, int, float, int]]:
        """(start, decode steps, sequences that decode or wait to, their cached grains, (prompt tokens, prompts,
        query-key pairs, keys)) of what runs, sums over the groups."""
        lanes = self.lanes
        grains = lanes.base + lanes.alive * self.table.growth * self.steps
        sums = self._sums if self._work else NOTHING
        return self._start, self._k if self._rides else 0, lanes.alive, grains, sums

    def finish(self, now: int) -> list[Request]:
        """The step or stretch is over: returns the requests that leave (finished, or to be handed on)."""
        self.busy += now - self._start
        self.last = now
        left: list[Request] = []
        if self._rides:
            k = self._k
            self.steps += k
            self.steps_run += k
            heap, steps = self._heap, self.steps
            while heap and heap[0][0] <= steps:
                _, ticket, request = heapq.heappop(heap)
                if ticket == request.ticket:
                    self.leave(request)
                    request.made = request.output
                    request.end = now
                    left.append(request)
        else:
            self.steps_run += 1
        for request, tokens in self._work:
            request.done += tokens
            if request.done >= request.need:
                self._first(request, now, left)
        if self.quitting:
            left += self.quit_now(now)
        self.end = -1
        return left

    def passes(self, step: int) -> int:
        """When decode step ``step`` (from 1) of the running stretch ends; -1 from its last one on, with which it ends
        itself."""
        inside = self.end >= 0 and self._row is not None and step < self._k
        return self._start + self._ticks(step) if inside else -1

    def _first(self, request: Request, now: int, left: list[Request]) -> None:
        """A prompt is through: its next token is out, and it decodes, ends or is handed on."""
        group = self.groups[request.group]
        group.prefilling.remove(request)
        if not group.prefilling and not group.waiting:
            self.hungry.pop(request.group, None)
        if request.blocks:
            group.cache.publish(request, request.input)
        request.made += 1
        if request.first < 0:
            request.first = now
        if request.made >= request.output or self.role == "prefill":
            if request.made >= request.output:
                request.end = now
            self.lanes.leave(request.group)
            if request.end >= 0:
                group.cache.release(request, request.need)
            left.append(request)
        else:
            self.join(group, request)

    def hit_tokens(self, request: Request, now: int) -> int:
        """Prompt tokens that a lone group's cache holds at this time (0 with several groups: it may join any)."""
        if len(self.groups) > 1:
            return 0
        group = self.groups[0]
        if not group.reserve:
            group.sync(max(self._reached(now - 1), self.steps))
        return group.cache.hit(request) * group.cache.block

    def _reached(self, now: int) -> int:
        """Decode steps that are over at ``now``, those of a running stretch among them."""
        if self._row is None or self.end < 0 or now < self._start:
            return self.steps
        if self._k == 1:
            return self.steps + (now >= self.end)
        return self.steps + min(self._steps_in(now - self._start + 1) - 1, self._k)

    def stop(self, now: int) -> None:
        """Break off what runs: of a stretch the steps that are over count."""
        if self.end < 0:
            self._k = 0
            return
        self._k = self._reached(now) - self.steps
        self.busy += now - self._start
        self.end = -1
        self.version += 1

    def fail(self) -> list[Request]:
        """After ``stop``: all caches are lost. Returns the requests that were here; their users keep what was made."""
        upto = self.steps = self.steps + self._k
        self.steps_run, self._k = self.steps_run + self._k, 0
        lost: list[Request] = []
        for group in self.groups:
            for request in group.running:
                request.made += self.made(request, upto)
                request.lose(request.input + request.made - 1)
            for request in (*group.prefilling, *group.waiting):
                request.lose(request.done)
            lost += [*group.running, *group.prefilling, *group.waiting]
        self._begin_anew([Group(g.cache.emptied(), reserve=g.reserve, step=upto) for g in self.groups])
        return lost

    def _begin_anew(self, groups: list[Group]) -> None:
        """With nothing in ``groups``."""
        self.groups, self.lanes = groups, Lanes(len(groups))
        self.quitting, self.hungry, self._heap, self._work = [], {}, [], []
        self.safe, self._since = FOREVER, -1
