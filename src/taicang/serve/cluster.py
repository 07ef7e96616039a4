"""A serving system: pools of instances, a router before each, and the move of caches between them.

Clock-free as its instances are: every call takes the time and returns events for whoever holds the clock.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from taicang.errors import InvalidInput
from taicang.events import Events
from taicang.serve.door import Rounds
from taicang.serve.fleet import Fleet
from taicang.serve.held import Kit
from taicang.serve.instance import Instance
from taicang.serve.log import Log
from taicang.serve.pace import NO_TIME, Link
from taicang.serve.request import Request
from taicang.serve.router import Router, least
from taicang.serve.store import Store

ARRIVAL, ROUND, ENTRY, LOADED, MOVED, STEP, CHANGE = range(7)
"""Kinds of events, in the order in which they happen at one time: whoever comes at a step's end may join the next."""


class Cluster:
    """``entry`` takes requests; where ``decode`` is given, prompts are computed in ``entry`` and move there.

    A cache moves when the instance that will decode it has promised room; until then it stays where it was computed,
    which in time leaves no room for new prompts there.
    """

    __slots__ = (
        "_free_at", "changing", "decode", "door", "down", "drained", "entry", "events", "fleet", "held", "kits",
        "leaving", "link", "log", "on_left", "outages", "parked", "pools", "retries", "router", "split", "store",
        "switch_ticks", "switches", "touched",
    )  # fmt: skip

    def __init__(
        self,
        entry: Sequence[Instance],
        *,
        decode: Sequence[Instance] = (),
        router: Router | None = None,
        link: Link | None = None,
        store: Store | None = None,
        on_left: Callable[[Request, int], None] | None = None,
        retries: int | None = None,
        kits: Mapping[str, Kit] | None = None,
        switch_ticks: int = 0,
        fleet: Fleet | None = None,
        door: Rounds | None = None,
    ) -> None:
        self.door = door
        """Where requests take turns before they are submitted."""
        self.entry = list(entry)
        self.decode = list(decode)
        self.router = router or Router()
        self.link = link or NO_TIME
        self.store = store
        self.events = Events()
        self.on_left = on_left
        """Called with each request that ends, and the time."""
        self.log: Log | None = None
        """Where steps are noted, if anywhere."""
        self.retries = sys.maxsize if retries is None else retries
        """Times that a request is tried again after it lost its cache."""
        self.kits = dict(kits or {})
        """What instances are made of, by pool; needed only where they are to change."""
        self.fleet = fleet
        """Of several models, who holds which."""
        self.switch_ticks = switch_ticks
        """How long it takes to set an instance up for the other role."""
        self.switches = 0
        """Times that an instance changed its pool."""
        self.outages: list[tuple[int, int, int]] = []
        """(instance, when it failed, when it served again or -1)."""
        self.split = bool(decode)
        self.pools: dict[str, list[Instance]] = {}
        """Instances that take requests, by pool: one for all, two roles, or one for each model of a fleet."""
        if self.split:
            self.pools = {"prefill": self.entry, "decode": self.decode}
        elif fleet is None:
            self.pools = {"both": self.entry}
        else:
            self.pools = {model: [each for each in self.entry if each.pool == model] for model in fleet.models}
        self.down: dict[Instance, list[Instance]] = {}
        """Instances that failed, and the pool that they belong to."""
        self.drained: dict[Instance, list[Instance]] = {}
        """Instances that take no new requests, and the pool that they belong to."""
        self.leaving: dict[Instance, list[Instance]] = {}
        """Instances that change their pool, and the new one."""
        self.changing: set[Instance] = set()
        """Those of them that are being set up for it."""
        self.parked: list[Request] = []
        """Requests for a pool that has no instance."""
        self.held: list[tuple[Request, Instance]] = []
        """Computed prompts that no decode instance has room for, and where they are."""
        self._free_at: dict[int, int] = {}
        self.touched: list[Instance] = []
        """Idle instances that were given something to do."""

    @property
    def instances(self) -> list[Instance]:
        """All of them."""
        here = (each for pool in self.pools.values() for each in pool)
        return sorted([*here, *self.down, *self.drained, *self.leaving], key=lambda each: each.name)

    def later(self, at: int, act: Callable[..., None], *what: Any) -> None:
        """Plan ``act(self, *what, at)`` (see ``trouble``)."""
        self.events.push(at, CHANGE, partial(act, self, *what))

    def arrive(self, request: Request, now: int) -> None:
        """A request comes to the door."""
        if not self.door:
            self.submit(request, now)
        elif self.door.add(request):
            self.events.push(now, ROUND, self.door)

    def _round(self, door: Rounds, now: int) -> None:
        through, out, then = door.round(now)
        if through:
            self.events.push(out, ENTRY, through)
            self.events.push(then, ROUND, door)

    def submit(self, request: Request, now: int) -> None:
        """A request arrives at its queue. Raises ``InvalidInput`` for one that no instance can hold.

        While the pool that takes it has no instance, it waits for a repair, or for an instance that changes its model.
        """
        pool = self.entry if self.fleet is None else self.pools[self.fleet.models[request.model]]
        if not pool:
            self.parked.append(request)
            if self.fleet is not None:
                self.want(request.model, now)
            return
        instance = self.router.pick(request, pool)
        if self.fleet is not None:
            self._over(self.pools[instance.pool], self.fleet.crowded(self.pools, instance, now), now)
        self._check(request, instance)
        if self.store is not None and request.blocks:
            request.place = instance.name
            found = self.store.match(request, instance.name, now)
            held = len(found) * self.store.block
            here = instance.hit_tokens(request, now)
            if held > here:
                request.found, request.loaded = here, held
                instance.coming += 1
                end = self.store.load(request, found, here, now)
                request.fetching += end - now
                self.events.push(end, LOADED, (request, instance))
                return
        self._give(instance, request, now)

    def _check(self, request: Request, instance: Instance) -> None:
        for one in (instance, self.decode[0]) if self.decode else (instance,):
            holds = one.groups[0].cache.tokens
            whole = request.input if one.role == "prefill" else request.input + request.output
            if whole > holds:
                raise InvalidInput(
                    f"request {request.id} needs {whole} tokens of cache, an attention group holds {holds}"
                )

    def _give(self, instance: Instance, request: Request, now: int) -> None:
        self.ends(instance, instance.submit(request, now))

    def ends(self, instance: Instance, end: int | None) -> None:
        """``instance`` was given something: its running stretch now ends at ``end`` (None: as before)."""
        if end is not None:
            self.events.push(end, STEP, instance, instance.version)
        if instance.end < 0:
            self.touched.append(instance)

    def wake(self, now: int) -> None:
        """Start the idle instances that were given work at this time."""
        for instance in self.touched:  # some are there twice, and some come while this goes on
            if instance.end >= 0:
                continue
            end = instance.begin(now)
            if end >= 0:
                self.events.push(end, STEP, instance, instance.version)
            elif self.leaving:
                self.settle(instance, now)
            if instance.refused:
                refused, instance.refused = instance.refused, []
                for request in refused:
                    self.gone(request, now)
        self.touched.clear()

    def gone(self, request: Request, now: int) -> None:
        """``request`` has ended."""
        if self.on_left is not None:
            self.on_left(request, now)

    def happen(self, now: int, kind: int, what: Any, version: int) -> None:
        """Let one event happen."""
        if kind == STEP:
            if version == what.version:
                self._step(what, now)
        elif kind == MOVED:
            request, source, target = what
            self._moved(request, source, target, now)
        elif kind == LOADED:
            request, instance = what
            instance.coming -= 1
            if instance in self.down:
                request.found = request.loaded = 0
                self.submit(request, now)
            else:
                self._give(instance, request, now)
        elif kind == CHANGE:
            what(now)
        elif kind == ROUND:
            self._round(what, now)
        elif kind == ENTRY:
            for request in what:
                self.submit(request, now)
        else:
            self.arrive(what, now)

    def _step(self, instance: Instance, now: int) -> None:
        if self.log is not None:
            self.log.step(instance, now)
        left = instance.finish(now)
        store = self.store
        if store is not None and instance.role == "decode" and not store.answers:
            store = None
        for request in left:
            if store is not None and request.blocks and not request.failed:
                store.put(request, now)
            if request.end >= 0:
                self.gone(request, now)
            else:
                request.need = request.done = request.input + request.made - 1
                instance.sending += 1
                self.held.append((request, instance))
        if self.held and left:
            self.unhold(now)
        if instance.hungry or instance.lanes.alive or self.leaving:
            self.touched.append(instance)

    def unhold(self, now: int) -> None:
        """Send computed prompts on, in order, as far as decode instances have room."""
        while self.held:
            request, source = self.held[0]
            home = request.group
            target, at = self._room(request, now)
            if target is None:
                return
            del self.held[0]
            start = max(now, self._free_at.get(source.name, 0))
            end = start + self.link.ticks(request.need)
            self._free_at[source.name] = end
            self.events.push(end, MOVED, (request, (source, source.failures, home), (target, target.failures, at)))

    def _room(self, request: Request, now: int) -> tuple[Instance | None, int]:
        """A decode instance that promises room, the one with the fewest requests first, and its group."""
        if not self.decode:
            return None, -1
        first = least(self.decode)
        at = first.promise(request, now)
        if at >= 0:
            return first, at
        for instance in sorted(self.decode, key=lambda each: each.requests):
            if instance is not first and (at := instance.promise(request, now)) >= 0:
                return instance, at
        return None, -1

    def _moved(
        self, request: Request, source: tuple[Instance, int, int], target: tuple[Instance, int, int], now: int
    ) -> None:
        (one, failures, home), (other, others, at) = source, target
        lost = failures != one.failures
        if lost:
            if others == other.failures:
                other.withdraw(request, at)
            request.lose(request.need)
            self.again(request, now)
            return
        if others != other.failures:  # it never came there: it goes elsewhere
            self.held.append((request, one))
            self.unhold(now)
            return
        one.groups[home].cache.release(request)
        one.sending -= 1
        if one.idle and (one.hungry or one in self.leaving):
            self.touched.append(one)
        request.moved = now
        self.ends(other, other.arrive(request, at, now))

    def again(self, request: Request, now: int) -> None:
        """The cache of ``request`` was lost: it starts over, or is given up after so many tries."""
        if request.retries > self.retries:
            request.end = now
            request.failed = True
            self.gone(request, now)
        else:
            self.submit(request, now)

    def join(self, instance: Instance, pool: list[Instance], now: int) -> None:
        """``instance`` takes requests again as one of ``pool``."""
        pool.append(instance)
        pool.sort(key=lambda each: each.name)
        parked, self.parked = self.parked, []
        for request in parked:
            self.submit(request, now)
        self.unhold(now)

    def change(self, instance: Instance, target: list[Instance], now: int) -> None:
        """``instance`` takes no more requests; when it has served what it has, it is set up as one of ``target``."""
        self.pools[instance.pool].remove(instance)
        self.leaving[instance] = target
        self.settle(instance, now)

    def settle(self, instance: Instance, now: int) -> None:
        """Set ``instance``, which leaves its pool, up anew once nothing of the old work is left."""
        if instance not in self.leaving or instance in self.changing:
            return
        if instance.idle and not instance.requests and not instance.sending:
            self.changing.add(instance)
            pool = self._name(self.leaving[instance])
            fleet = self.fleet
            end = now + self.switch_ticks if fleet is None else fleet.weights.load(pool, now)
            self.later(end, Cluster._switched, instance, instance.failures)

    def _switched(self, instance: Instance, failures: int, now: int) -> None:
        if instance not in self.changing or failures != instance.failures:
            return
        self.changing.remove(instance)
        pool = self.leaving.pop(instance)
        name = self._name(pool)
        instance.refit(name, self.kits[name], role=name if self.split else instance.role)
        self.switches += 1
        self.join(instance, pool, now)

    def _name(self, pool: list[Instance]) -> str:
        return next(name for name, each in self.pools.items() if each is pool)

    def review(self, now: int) -> None:
        """See to it that the models of all parked requests come to some instance."""
        for model in dict.fromkeys(request.model for request in self.parked):
            self.want(model, now)

    def want(self, model: int, now: int) -> None:
        """See to it that ``model`` comes to some instance, if none holds it or is about to."""
        assert self.fleet is not None
        target = self.pools[self.fleet.models[model]]
        if not target:
            self._over(target, self.fleet.least(each for pool in self.pools.values() for each in pool), now)

    def _over(self, target: list[Instance], chosen: Instance | None, now: int) -> None:
        """``chosen`` goes over to ``target``, unless another is on its way there."""
        if chosen is not None and not any(pool is target for pool in self.leaving.values()):
            self.change(chosen, target, now)
