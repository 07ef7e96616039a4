"""What an instance holds: its groups, their pages, and the sequences that decode.

A sequence takes a new page whenever its length is a whole number of pages. When a group's pages run out a sequence
leaves the batch, and starts over or waits in host memory; one whose user has gone leaves with the step's end.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from taicang.serve.cache import Cache
from taicang.serve.group import Group, Lanes
from taicang.serve.pace import Link
from taicang.serve.request import FOREVER, Request
from taicang.serve.scheduler import Limits, enqueue, footprint, give_up, urgency
from taicang.serve.steptable import GRAIN, StepTable


@dataclass(slots=True, kw_only=True)
class Kit:
    """``table`` changes when the machine's links do."""

    table: StepTable
    limits: Limits
    cache: Cache
    """An empty one; each of ``groups`` attention groups has its like."""
    groups: int = 1
    draw: Callable[[int], Callable[[int], int] | None] = lambda _: None
    """By an instance's number: what draws the decode steps that some tokens need (None: as many steps as tokens)."""

    def caches(self) -> list[Cache]:
        """Those of a new instance."""
        return [self.cache.emptied() for _ in range(self.groups)]


class Held:
    """``groups`` caches, one per attention group. ``steps_of`` draws the decode steps that some tokens need."""

    __slots__ = (
        "_heap", "_joined", "groups", "hungry", "lanes", "last", "limits", "quitting", "safe", "stall", "steps",
        "steps_of", "swap", "table",
    )  # fmt: skip

    def __init__(
        self, table: StepTable, limits: Limits, caches: list[Cache], steps_of: Callable[[int], int] | None, swap: Link
    ) -> None:
        self.table = table
        self.limits = limits
        self.groups = [Group(cache, reserve=limits.reserve) for cache in caches]
        self.steps_of = steps_of
        self.swap = swap
        """The way to host memory."""
        self.stall = 0
        """Ticks by which the next step is longer: sequences are swapped before it runs."""
        self.quitting: list[Request] = []
        """Requests in the running step that nobody wants any more (see ``cancel``)."""
        self.steps = 0
        """Decode steps made."""
        self.safe = FOREVER
        """Decode step up to which pages suffice, as far as was looked."""
        self.hungry: dict[int, None] = {}
        """Groups that have prompts."""
        self.lanes = Lanes(len(caches))
        self.last = -1
        """When the last step ended."""
        self._heap: list[tuple[int, int, Request]] = []
        self._joined = 0

    def join(self, group: Group, request: Request) -> None:
        """``request`` decodes from the next step on."""
        left = request.output - request.made
        steps = left if self.steps_of is None else self.steps_of(left)
        if not group.reserve:
            group.sync(self.steps)
        grains = request.need * GRAIN
        request.base = grains - self.table.growth * self.steps
        request.last = self.steps
        group.join(request, self.steps)
        self.lanes.joined(request.group, request.base)
        if not group.reserve:
            self.safe = min(self.safe, group.watch())
        self._joined += 1
        request.ticket = self._joined
        heapq.heappush(self._heap, (self.steps + steps, self._joined, request))

    def leave(self, request: Request) -> None:
        """Out of the decode batch, with all pages given back."""
        group = self.groups[request.group]
        self.drop(group, request)
        self.lanes.leave(request.group)
        if group.waiting:
            self.hungry[request.group] = None

    def drop(self, group: Group, request: Request, *, keep: bool = True) -> None:
        """Out of the decode batch; ``keep``: see ``Group.drop``."""
        request.ticket = -1
        if not group.reserve:
            group.sync(self.steps)
        group.drop(request, self.steps, keep=keep)
        self.lanes.left(request.group, request.base)
        if not group.reserve:
            self.safe = min(self.safe, group.watch())

    def made(self, request: Request, upto: int) -> int:
        """Tokens since ``request`` joined the decode batch, at decode step ``upto``."""
        made, most = (upto - request.last) * self.table.growth // GRAIN, request.output - request.made - 1
        return made if made < most else most

    def scheduled(self, now: int) -> bool:
        """Whether the step beginning ``now`` was scheduled ahead, while another ran."""
        going = self.limits.ahead and self.last == now
        return going and (self.lanes.alive > 0 or any(g.prefilling for g in self.groups))

    def late(self, seen: int) -> bool:
        """Whether a prompt that came after ``seen`` is the next of its group."""
        return any(g.waiting and g.waiting[0].queued > seen for g in map(self.groups.__getitem__, self.hungry))

    def admit_ready(self, group: Group) -> None:
        """Requests whose prompt was computed elsewhere join the decode batch as soon as there is room."""
        while group.waiting and group.waiting[0].done >= group.waiting[0].need > 0:
            request = group.waiting[0]
            tokens = request.room * group.cache.page or footprint(request, self.limits)
            keep = 0 if self.limits.reserve else group.n + 1
            if group.n >= self.limits.sequences or not group.cache.admit(request, tokens, keep):
                return
            group.waiting.popleft()
            request.done = request.need
            request.room = 0
            if request.swapped:
                self._swap_in(group, request)
            self.join(group, request)

    def make_room(self) -> set[int]:
        """Look exactly how long pages suffice; where not even for one step, the least urgent sequence leaves.

        Returns the groups of those that left."""
        crowded = set()
        for at, group in enumerate(self.groups):
            if not group.n or group.limit > self.steps:
                continue
            group.sync(self.steps)
            while group.short(self.steps):
                self._evict(group)
                self.hungry[at] = None
                crowded.add(at)
            group.look(self.steps)
        self.safe = min(group.limit for group in self.groups)
        return crowded

    def _evict(self, group: Group) -> None:
        """A prompt in progress goes first and starts over; a decoding sequence is swapped out while host memory has
        room for it (its answer so far is kept), else it starts over (its answer so far becomes part of its prompt)."""
        if group.prefilling:
            give_up(group, self.limits)
            return
        victim = self._least_urgent(group)
        victim.made += self.made(victim, self.steps)
        length = victim.input + victim.made - 1
        own = length - victim.nodes * group.cache.block
        swap = group.swapped + length <= self.limits.swap_tokens
        self.drop(group, victim, keep=not swap)
        if swap:
            victim.need = victim.done = victim.swapped = length
            group.swapped += length
            self.stall += self.swap.ticks(own)
        else:
            victim.restart()
        victim.preempted += 1
        enqueue(group, victim, self.limits, first=True)

    def _swap_in(self, group: Group, request: Request) -> None:
        """``request`` has pages again: what no other prompt shares comes back from host memory before the next step."""
        group.swapped -= request.swapped
        self.stall += self.swap.ticks(request.swapped - request.nodes * group.cache.block)
        request.swapped = 0
        request.swaps += 1

    def _least_urgent(self, group: Group) -> Request:
        """Of the decoding sequences the least urgent; of equals the one that joined last."""
        newest = reversed(group.running)
        if self.limits.order == "arrival":
            return next(newest)
        return max(newest, key=lambda request: urgency(request, self.limits))

    def quit_now(self, now: int) -> list[Request]:
        """At a step's end: those that quit are out, if they did not leave otherwise."""
        left = []
        quitting, self.quitting = self.quitting, []
        for request in quitting:
            group = self.groups[request.group]
            if request in group.running:
                request.made += self.made(request, self.steps)
                self.drop(group, request)
                self.lanes.leave(request.group)
                if group.waiting:
                    self.hungry[request.group] = None
            elif request in group.prefilling:
                group.prefilling.remove(request)
                group.cache.release(request)
                self.lanes.leave(request.group)
                self._sated(group, request)
            elif request in group.waiting:  # evicted since
                self.unqueue(group, request)
            else:
                continue
            request.quit(now)
            left.append(request)
        return left

    def unqueue(self, group: Group, request: Request) -> None:
        """A request that waits is wanted no more."""
        group.waiting.remove(request)
        group.swapped -= request.swapped
        self.lanes.leave(request.group)
        self._sated(group, request)

    def _sated(self, group: Group, request: Request) -> None:
        if not group.waiting and not group.prefilling:
            self.hungry.pop(request.group, None)
