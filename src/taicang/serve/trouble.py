"""What happens to a serving system while it serves: instances fail, return, are drained, slow down, change their pool.

Each function takes the cluster first and the time last, so that ``Cluster.later`` can plan it as an event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from taicang.serve.instance import Instance
from taicang.serve.link import Link
from taicang.serve.request import Request
from taicang.serve.steptable import StepTable

if TYPE_CHECKING:
    from taicang.serve.cluster import Cluster


def fail(cluster: Cluster, instance: Instance, now: int) -> None:
    """``instance`` is lost with all its caches; its requests start over elsewhere."""
    fail_together(cluster, [instance], now)


def fail_together(cluster: Cluster, instances: Sequence[Instance], now: int) -> None:
    """The same for several at once: no request goes from one of them to another."""
    failing = [each for each in instances if each not in cluster.down]
    for each in failing:
        cluster.down[each] = _taken_out(cluster, each)
        cluster.leaving.pop(each, None)
        cluster.outages.append((each.name, now, -1))
    for each in failing:
        for request in _lost(cluster, each, now):
            again(cluster, request, now)


def _lost(cluster: Cluster, instance: Instance, now: int) -> list[Request]:
    """Stop ``instance``; returns the requests whose caches were there."""
    running = not instance.idle
    instance.stop(now)
    if running and cluster.log is not None:
        cluster.log.step(instance, now)
    instance.failures += 1
    instance.sending = 0
    if cluster.store is not None:
        cluster.store.lose(instance.name)
    held = [request for request, source in cluster.held if source is instance]
    cluster.held = [(request, source) for request, source in cluster.held if source is not instance]
    for request in held:
        request.lose(request.need)
    return [*instance.fail(), *held]


def again(cluster: Cluster, request: Request, now: int) -> None:
    """The cache of ``request`` was lost: it starts over, or is given up after so many tries."""
    if request.retries > cluster.retries:
        request.end = now
        request.failed = True
        cluster.gone(request, now)
    else:
        cluster.submit(request, now)


def repair(cluster: Cluster, instance: Instance, now: int) -> None:
    """``instance`` serves again: after a failure with empty caches, after a drain with what it has."""
    pool = cluster.down.pop(instance, None)
    if pool is not None:
        at = max(i for i, (name, _, _) in enumerate(cluster.outages) if name == instance.name)
        cluster.outages[at] = (*cluster.outages[at][:2], now)
    else:
        pool = cluster.drained.pop(instance, None)
    if pool is not None:
        join(cluster, instance, pool, now)


def join(cluster: Cluster, instance: Instance, pool: list[Instance], now: int) -> None:
    """``instance`` takes requests again as one of ``pool``."""
    pool.append(instance)
    pool.sort(key=lambda each: each.name)
    parked, cluster.parked = cluster.parked, []
    for request in parked:
        cluster.submit(request, now)
    cluster.unhold(now)


def drain(cluster: Cluster, instance: Instance, now: int) -> None:
    """``instance`` takes no new requests; it serves those that it has."""
    del now  # what runs goes on
    if instance not in cluster.down and instance not in cluster.drained and instance not in cluster.leaving:
        cluster.drained[instance] = _taken_out(cluster, instance)


def pace(cluster: Cluster, instance: Instance, ratio: float, now: int) -> None:
    """From the next step on those of ``instance`` are longer than their kit's by ``ratio``."""
    instance.ratio = ratio
    _apply(cluster, instance, now)


def reprice(cluster: Cluster, tables: Mapping[str, StepTable], link: Link, now: int) -> None:
    """The machine has changed: from their next steps on instances take the times of their role's table."""
    cluster.link = link
    for role, table in tables.items():
        cluster.kits[role].table = table
    for instance in cluster.instances:
        _apply(cluster, instance, now)


def _apply(cluster: Cluster, instance: Instance, now: int) -> None:
    end = instance.cut(now)
    instance.table = cluster.kits[instance.role].table.slower(instance.ratio)
    cluster.ends(instance, end)


def switch(cluster: Cluster, instance: Instance, now: int) -> None:
    """``instance`` goes over to the other pool: it serves what it has, then is set up anew. The last one of a pool
    stays."""
    pool = cluster.entry if instance in cluster.entry else cluster.decode
    if not cluster.split or instance not in pool or len(pool) == 1:
        return
    pool.remove(instance)
    cluster.leaving[instance] = cluster.decode if pool is cluster.entry else cluster.entry
    settle(cluster, instance, now)


def settle(cluster: Cluster, instance: Instance, now: int) -> None:
    """Set ``instance``, which leaves its pool, up anew once nothing of the old work is left."""
    if instance in cluster.leaving and instance.idle and not instance.requests and not instance.sending:
        cluster.later(now + cluster.switch_ticks, _switched, instance, instance.failures)


def _switched(cluster: Cluster, instance: Instance, failures: int, now: int) -> None:
    pool = cluster.leaving.get(instance)
    if pool is None or failures != instance.failures:
        return
    del cluster.leaving[instance]
    role = "decode" if pool is cluster.decode else "prefill"
    instance.refit(role, cluster.kits[role])
    cluster.switches += 1
    join(cluster, instance, pool, now)


def _taken_out(cluster: Cluster, instance: Instance) -> list[Instance]:
    """Take ``instance`` out of whatever pool it is in; returns where it belongs."""
    for pool in (cluster.entry, cluster.decode):
        if instance in pool:
            pool.remove(instance)
            return pool
    home = cluster.drained.pop(instance, None)
    if home is not None:
        return home
    # on its way to another pool, not set up for it yet
    target = cluster.leaving[instance]
    return cluster.entry if target is cluster.decode else cluster.decode
