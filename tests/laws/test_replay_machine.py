"""Whatever users and misfortune do in whatever order, a serving system loses no request and no page."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from test_replay_laws import table

from taicang.serve import trouble
from taicang.serve.cache import ANSWER, Cache
from taicang.serve.cluster import MOVED, Cluster
from taicang.serve.held import Kit
from taicang.serve.instance import Instance
from taicang.serve.pace import Link
from taicang.serve.request import SECOND, Request
from taicang.serve.router import ROUTERS, Router
from taicang.serve.scheduler import Limits
from taicang.serve.store import Shelf, Store
from taicang.serve.trouble import cancel

PAGES, PAGE, BLOCK = 80, 16, 64


class Serving(RuleBasedStateMachine):
    """Two or four instances under a random sequence of arrivals, passing time, failures and repairs."""

    @initialize(split=st.booleans(), groups=st.integers(1, 2), swap=st.sampled_from([0, 2000]),
                router=st.sampled_from(ROUTERS), order=st.sampled_from(["arrival", "priority"]),
                by_chunk=st.booleans())  # fmt: skip
    def build(self, split, groups, swap, router, order, by_chunk):
        limits = Limits(tokens=256, sequences=6, swap_tokens=swap, order=order, by_chunk=by_chunk)

        def pool(role, first):
            return [
                Instance(first + i, table(), limits, [Cache(PAGES, PAGE, BLOCK) for _ in range(groups)], role=role,
                         swap=Link(base=SECOND // 5000, per_token=SECOND // 10**7))
                for i in range(2)
            ]  # fmt: skip

        self.cluster = Cluster(
            pool("prefill" if split else "both", 0), decode=pool("decode", 2) if split else (),
            router=Router(router, 1), link=Link(base=SECOND // 100, per_token=SECOND // 10**6),
            store=Store([Shelf("", 30, Link(base=SECOND // 1000, per_token=SECOND // 10**7))], BLOCK),
            on_left=lambda request, now: self.left.append(request),
            kits={role: Kit(table=table(), limits=limits, cache=Cache(PAGES, PAGE, BLOCK), groups=groups)
                  for role in ("prefill", "decode", "both")},
            switch_ticks=SECOND // 20,
        )  # fmt: skip
        self.now = 0
        self.sent: list[Request] = []
        self.left: list[Request] = []
        self.unwanted: set[Request] = set()

    @rule(count=st.integers(1, 8), prompt=st.integers(1, 800), output=st.integers(1, 300), family=st.integers(0, 3),
          rank=st.integers(0, 2))  # fmt: skip
    def arrive(self, count, prompt, output, family, rank):
        for each in range(count):
            shared = prompt // BLOCK // 2
            blocks = [family * 1000 + i + (i >= shared) * 100 * (1 + each) for i in range(-(-prompt // BLOCK))]
            request = Request(len(self.sent), self.now, prompt, output, blocks=blocks, priority=rank)
            if rank == 1:
                whole = blocks[: prompt // BLOCK]
                request.named = prompt + output
                request.blocks = [*whole, *(family * 1000 + i for i in range(len(whole), request.named // BLOCK))]
            self.sent.append(request)
            self.cluster.submit(request, self.now)
        self.cluster.wake(self.now)

    @rule(events=st.integers(1, 30))
    def pass_time(self, events):
        for _ in range(events):
            if not self.one_event():
                return

    @rule(share=st.floats(0, 1))
    def stop_within_a_stretch(self, share):
        """Time moves on, but not to the next event: what happens next happens while a stretch runs."""
        following = self.cluster.events.next
        if following is not None:
            self.now += int((following - self.now) * share)

    @rule(which=st.integers(0, 3))
    def fail(self, which):
        instances = self.cluster.instances
        trouble.fail(self.cluster, instances[which % len(instances)], self.now)
        self.cluster.wake(self.now)

    @rule(which=st.integers(0, 3), what=st.sampled_from([trouble.drain, trouble.switch]))
    def take_out(self, which, what):
        instances = self.cluster.instances
        what(self.cluster, instances[which % len(instances)], self.now)
        self.cluster.wake(self.now)

    @rule(which=st.integers(0, 3), ratio=st.sampled_from([0.5, 2.0]))
    def change_pace(self, which, ratio):
        instance = self.cluster.instances[which % len(self.cluster.instances)]
        trouble.pace(self.cluster, instance, ratio, self.now)
        self.cluster.wake(self.now)

    @rule(which=st.integers(0, 3))
    def repair(self, which):
        down = [*self.cluster.down, *self.cluster.drained]
        if down:
            trouble.repair(self.cluster, down[which % len(down)], self.now)
            self.cluster.wake(self.now)

    @rule(which=st.integers(0, 1000))
    def give_up(self, which):
        """A user goes: the request is out at once, at its step's end, or when its cache has come."""
        if self.sent:
            self.unwanted.add(self.sent[which % len(self.sent)])
            self.see_them_off()
            self.cluster.wake(self.now)

    def see_them_off(self) -> None:
        places = {each.name: each for each in self.cluster.instances}
        for request in sorted(self.unwanted, key=lambda each: each.id):
            cancel(self.cluster, places.get(request.place), request, self.now)

    def one_event(self) -> bool:
        events = self.cluster.events
        if events.next is None:
            return False
        assert events.next >= self.now
        self.now = events.next
        while events.next == self.now:
            _, kind, _, what, version = events.pop()
            self.cluster.happen(self.now, kind, what, version)
        self.see_them_off()
        self.cluster.wake(self.now)
        return True

    def lost_on_the_way(self) -> set[Request]:
        """Caches whose source has failed: it is known when they should have come."""
        moves = [what for _, kind, _, what, _ in self.cluster.events.heap if kind == MOVED]
        return {request for request, (source, failures, _), _ in moves if failures != source.failures}

    @invariant()
    def every_page_is_free_shared_or_owned(self):
        if not self.sent:
            return
        lost = self.lost_on_the_way()
        for instance in self.cluster.instances:
            for at, group in enumerate(instance.groups):
                group.sync(instance.steps)
                cache = group.cache
                here = [r for r in self.sent if (r.place, r.group) == (instance.name, at) and r not in lost]
                # of prompts in progress, and of caches that move away
                own = sum(request.pages for request in here if request not in group.running)
                for request in group.running:
                    length = request.need + group.synced - request.last
                    own += -(-length // PAGE) - request.nodes * cache.per_block
                answers = sum(pages for block, pages in cache._idle.items() if block >= ANSWER)
                assert cache.free + cache.blocks * cache.per_block + answers + own == PAGES
                assert cache._resting == sum(cache._idle.values())
                assert group.swapped == sum(r.swapped for r in group.waiting) <= instance.limits.swap_tokens
                assert group.base == sum(r.base for r in group.running)

    def teardown(self):
        if not hasattr(self, "cluster"):
            return
        for instance in (*self.cluster.down, *self.cluster.drained):
            trouble.repair(self.cluster, instance, self.now)
        self.cluster.wake(self.now)
        while self.one_event():
            pass
        assert sorted(r.id for r in self.left) == [r.id for r in self.sent]
        for request in self.sent:
            if request.failed:
                assert request in self.unwanted
                assert 0 <= request.made < request.output
                assert request.arrival <= request.end
            else:
                assert request.made == request.output
                assert request.arrival <= request.started < request.first <= request.end
        for instance in self.cluster.instances:
            assert instance.requests == 0
            for group in instance.groups:
                assert group.cache.spare == PAGES


TestServing = Serving.TestCase
TestServing.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
