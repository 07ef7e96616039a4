"""A serving system: pools of instances, a router before each, and the move of caches between them.

Clock-free as its instances are: every call takes the time and returns events for whoever holds the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from taicang.errors import InvalidInput
from taicang.events import Events
from taicang.serve.instance import Instance
from taicang.serve.link import Link
from taicang.serve.log import Log
from taicang.serve.request import Request
from taicang.serve.router import Router
from taicang.serve.store import Store

ARRIVAL, LOADED, MOVED, STEP, FAIL, REPAIR = range(6)
"""Kinds of events, in the order in which they happen at one time: whoever comes at a step's end may join the next."""


class Cluster:
    """``entry`` takes requests; where ``decode`` is given, prompts are computed in ``entry`` and move there."""

    __slots__ = (
        "_free_at", "_touched", "decode", "down", "entry", "events", "link", "log", "moved_tokens", "on_left", "parked",
        "router", "split", "store",
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
    ) -> None:
        self.entry = list(entry)
        self.decode = list(decode)
        self.router = router or Router()
        self.link = link or Link(base=0, per_token=0)
        self.store = store
        self.events = Events()
        self.on_left = on_left
        """Called with each finished request and the time."""
        self.log: Log | None = None
        """Where steps are noted, if anywhere."""
        self.moved_tokens = 0
        self.split = bool(decode)
        self.down: dict[Instance, list[Instance]] = {}
        """Instances that failed, and the pool that they belong to."""
        self.parked: list[Request] = []
        self._free_at: dict[int, int] = {}
        self._touched: dict[Instance, None] = {}

    @property
    def instances(self) -> list[Instance]:
        """All of them."""
        return sorted([*self.entry, *self.decode, *self.down], key=lambda each: each.name)

    def submit(self, request: Request, now: int) -> None:
        """A request arrives. Raises ``InvalidInput`` for one that no instance can hold.

        While a pool has no instance left, requests wait for a repair.
        """
        if not self.entry or (self.split and not self.decode):
            self.parked.append(request)
            return
        instance = self.router.pick(request, self.entry)
        self._check(request, instance)
        if self.store is not None and request.blocks:
            request.place = instance.name
            found = self.store.match(request, instance.name, now)
            held = len(found) * self.store.block
            here = instance.hit_tokens(request, now)
            if held > here:
                request.loaded = held
                instance.coming += 1
                end = self.store.load(request, found, here, now)
                request.fetching += end - now
                self.events.push(end, LOADED, (request, instance))
                return
        self._give(instance, request, now)

    def fail(self, instance: Instance, now: int) -> None:
        """``instance`` is lost with all its caches; its requests start over elsewhere."""
        if instance in self.down:
            return
        pool = self.entry if instance in self.entry else self.decode
        pool.remove(instance)
        self.down[instance] = pool
        instance.failures += 1
        if self.store is not None:
            self.store.lose(instance.name)
        for request in instance.fail(now):
            self.submit(request, now)

    def repair(self, instance: Instance, now: int) -> None:
        """``instance`` serves again, with empty caches."""
        pool = self.down.pop(instance, None)
        if pool is None:
            return
        pool.append(instance)
        pool.sort(key=lambda each: each.name)
        parked, self.parked = self.parked, []
        for request in parked:
            self.submit(request, now)

    def _check(self, request: Request, instance: Instance) -> None:
        for one in (instance, self.decode[0]) if self.decode else (instance,):
            cache = one.groups[0].cache
            whole = request.input if one.role == "prefill" else request.input + request.output
            if whole > cache.pages * cache.page:
                raise InvalidInput(
                    f"request {request.id} needs {whole} tokens of cache, an attention group holds "
                    f"{cache.pages * cache.page}"
                )

    def _give(self, instance: Instance, request: Request, now: int) -> None:
        end = instance.submit(request, now)
        if end is not None:
            self.events.push(end, STEP, instance, instance.version)
        if instance.idle:
            self._touched[instance] = None

    def wake(self, now: int) -> None:
        """Start the idle instances that were given work at this time."""
        while self._touched:
            touched, self._touched = self._touched, {}
            for instance in touched:
                if instance.idle:
                    end = instance.begin(now)
                    if end >= 0:
                        self.events.push(end, STEP, instance, instance.version)
                    if instance.refused:
                        self._turn_away(instance, now)

    def _turn_away(self, instance: Instance, now: int) -> None:
        refused, instance.refused = instance.refused, []
        if self.on_left is not None:
            for request in refused:
                self.on_left(request, now)

    def happen(self, now: int, kind: int, what: object, version: int) -> None:
        """Let one event happen."""
        if kind == STEP:
            assert isinstance(what, Instance)
            if version != what.version:
                return
            if self.log is not None:
                self.log.step(what, now)
            for request in what.finish(now):
                if self.store is not None and request.blocks and what in self.entry:
                    self.store.put(request, now)
                if request.end >= 0:
                    if self.on_left is not None:
                        self.on_left(request, now)
                else:
                    self._move(request, what, now)
            self._touched[what] = None
        elif kind == LOADED:
            assert isinstance(what, tuple)
            request, instance = what
            instance.coming -= 1
            if instance in self.down:
                request.loaded = 0
                self.submit(request, now)
            else:
                self._give(instance, request, now)
        elif kind in (FAIL, REPAIR):
            assert isinstance(what, Instance)
            (self.fail if kind == FAIL else self.repair)(what, now)
        elif kind == MOVED:
            assert isinstance(what, tuple)
            request, source, failures = what
            if failures != source.failures:  # the cache was lost on its way
                request.restart()
                self.submit(request, now)
                return
            source.groups[request.group].cache.release(request)
            if source.idle and source.hungry:
                self._touched[source] = None
            request.moved = now
            request.need = request.input + request.made - 1
            request.done = request.need
            if self.decode:
                self._give(_least(self.decode), request, now)
            else:
                request.restart()
                self.parked.append(request)
        else:
            assert isinstance(what, Request)
            self.submit(what, now)

    def _move(self, request: Request, source: Instance, now: int) -> None:
        """The cache leaves as soon as the source's link is free."""
        start = max(now, self._free_at.get(source.name, 0))
        end = start + self.link.ticks(request.need)
        self._free_at[source.name] = end
        self.moved_tokens += request.need
        self.events.push(end, MOVED, (request, source, source.failures))


def _least(pool: Sequence[Instance]) -> Instance:
    return pool[0] if len(pool) == 1 else min(pool, key=lambda instance: instance.requests)
