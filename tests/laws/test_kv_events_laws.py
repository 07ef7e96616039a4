"""What caches tell routers is what they hold, whatever happens to them."""

from __future__ import annotations

from hypothesis import given, settings
from test_replay_laws import built, workloads

from mirror import Mirror
from taicang.live.kv_events import WORD, KvEvents
from taicang.serve.simulate import simulate


@settings(max_examples=150, deadline=None)
@given(load=workloads())
def test_a_mirror_of_the_events_is_the_cache(load):
    cluster, made = built(load, single=False)
    mirror = Mirror()
    instances = cluster.instances
    events = KvEvents(instances, lambda request: range(request.named), mirror.send)

    class Log:
        def step(self, instance, now):
            events.flush()

    cluster.log = Log()
    simulate(cluster, iter(made))
    events.flush()
    rank = 0
    for instance in instances:
        for group in instance.groups:
            assert set(mirror.held.get(rank, ())) == {block & WORD for block in group.cache._users}
            rank += 1
