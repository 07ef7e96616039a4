"""A live run and a replay of the same arrivals give every token at the same tick, however late the clock's timer is."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st
from test_replay_laws import built, stamps, workloads

from taicang.live.supernode import Stream, Supernode
from taicang.serve.request import SECOND, Request
from taicang.serve.simulate import simulate


class Reader(Stream):
    """Notes when each token came."""

    __slots__ = ("times",)

    def __init__(self):
        super().__init__()
        self.times = []

    def told(self, now, *, ended=False):
        self.times += [now] * (self.out - len(self.times))


class Watch:
    """Takes the place of the log of a system that steps one by one: notes when each token of a request came."""

    def __init__(self):
        self.times = defaultdict(list)

    def step(self, instance, now):
        self.now = now
        _, steps, *_ = instance.doing()
        for group in instance.groups:
            for request in group.running:
                made = request.made + instance.made(request, instance.steps + steps)
                self.note(request, made)

    def note(self, request, made):
        times = self.times[request.id]
        times += [self.now] * (made - len(times))


def live(load, clock, waits, late_s):
    """Send the requests of ``load`` by ``waits`` seconds of the clock after each other."""
    cluster, made = built(load, single=False)
    clock.late_s = late_s
    machine = Supernode(cluster, clock, speed=load["speed"])
    readers = []
    for request, wait in zip(made, waits, strict=False):
        clock.until(clock.time() + wait)
        reader = Reader()
        marks = {"blocks": request.blocks, "named": request.named, "priority": request.priority, "model": request.model}
        machine.submit(reader, request.input, request.output, deadline=request.deadline, **marks)
        readers.append(reader)
    while clock.due is not None:
        clock.until(clock.due + late_s)
    return machine, readers


def replayed(load, machine, readers):
    """The same arrivals, as the record has them, in a replay that steps one by one."""
    cluster, made = built(load, single=True)
    cluster.log = watch = Watch()
    again = []
    for old, reader, at_s in zip(made, readers, machine.came_s, strict=False):
        request = Request(reader.request.id, round(at_s * SECOND), old.input, old.output, blocks=old.blocks,
                          named=old.named, priority=old.priority, deadline=old.deadline)  # fmt: skip
        request.model = old.model
        again.append(request)
    simulate(cluster, iter(again))
    return again, watch.times


@settings(max_examples=150, deadline=None)
@given(load=workloads(), data=st.data())
def test_a_live_run_gives_the_tokens_at_the_ticks_of_a_replay(still_clock, load, data):
    load["speed"] = data.draw(st.sampled_from([1.0, 0.3, 7.0]))
    gap = st.sampled_from([0.0, 0.0, 1e-6, 1e-3, 0.0313, 0.4])
    waits = data.draw(st.lists(gap, min_size=len(load["rows"]), max_size=len(load["rows"])))
    late_s = data.draw(st.sampled_from([0.0, 1e-4, 0.02]))
    machine, readers = live(load, still_clock(), waits, late_s)
    requests, times = replayed(load, machine, readers)
    assert stamps([reader.request for reader in readers]) == stamps(requests)
    for reader, request in zip(readers, requests, strict=True):
        expected = times[request.id]
        if request.first >= 0 and not request.failed:
            expected = [request.first, *expected[1:]]
            expected += [request.end] * (request.made - len(expected))
        if request.failed or request.retries or request.preempted:
            assert reader.times == sorted(reader.times)
            assert len(reader.times) >= request.made * (not request.failed)
        else:
            assert reader.times == expected
    assert not machine.streams or machine.cluster.parked or machine.cluster.held


@settings(max_examples=60, deadline=None)
@given(load=workloads(), data=st.data())
def test_who_goes_leaves_no_page_behind(still_clock, load, data):
    load["speed"] = 1.0
    cluster, made = built(load, single=False)
    clock = still_clock()
    machine = Supernode(cluster, clock)
    for request in made:
        clock.until(clock.time() + data.draw(st.sampled_from([0.0, 0.003, 0.1])))
        reader = Reader()
        machine.submit(reader, request.input, request.output, blocks=request.blocks, model=request.model,
                       priority=request.priority, deadline=request.deadline)  # fmt: skip
        if data.draw(st.booleans()):
            clock.until(clock.time() + data.draw(st.sampled_from([0.0, 1e-4, 0.01, 0.2])))
            machine.leave(reader)
    while clock.due is not None:
        clock.until(clock.due)
    assert len(machine.served) + len(machine.streams) == len(made)
    if machine.streams:  # parked, for an instance that nothing brings back
        return
    for instance in cluster.instances:
        assert instance.requests == instance.sending == 0
        for group in instance.groups:
            assert group.cache.spare == group.cache.pages
            assert group.promised == group.swapped == 0
