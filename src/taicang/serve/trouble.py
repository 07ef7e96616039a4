"""What happens to a serving system while it serves: instances fail, return, are drained, slow down, change their pool,
and users leave.

Each function takes the cluster first and the time last, so that ``Cluster.later`` can plan it as an event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taicang.serve.cluster import Cluster
from taicang.serve.instance import Instance
from taicang.serve.pace import Link
from taicang.serve.request import Request
from taicang.serve.steptable import StepTable


def fail(cluster: Cluster, instance: Instance, now: int) -> None:
    """``instance`` is lost with all its caches; its requests start over elsewhere."""
    fail_together(cluster, [instance], now)


def fail_together(cluster: Cluster, instances: Sequence[Instance], now: int) -> None:
    """The same for several at once: no request goes from one of them to another."""
    failing = [each for each in instances if each not in cluster.down]
    for each in failing:
        cluster.down[each] = _taken_out(cluster, each)
        cluster.outages.append((each.name, now, -1))
    for each in failing:
        for request in _lost(cluster, each, now):
            cluster.again(request, now)
    if cluster.fleet is not None:  # one of them may have been about to take a model that requests wait for
        cluster.review(now)


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


def repair(cluster: Cluster, instance: Instance, now: int) -> None:
    """``instance`` serves again: after a failure with empty caches, after a drain with what it has."""
    pool = cluster.down.pop(instance, None)
    if pool is not None:
        at = next(i for i in range(len(cluster.outages) - 1, -1, -1) if cluster.outages[i][0] == instance.name)
        cluster.outages[at] = (*cluster.outages[at][:2], now)
    else:
        pool = cluster.drained.pop(instance, None)
    if pool is not None:
        cluster.join(instance, pool, now)


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
    """The machine has changed: from their next steps on instances take the times of their pool's table."""
    cluster.link = link
    for pool, table in tables.items():
        cluster.kits[pool].table = table
    for instance in cluster.instances:
        _apply(cluster, instance, now)


def _apply(cluster: Cluster, instance: Instance, now: int) -> None:
    end = instance.cut(now)
    instance.table = cluster.kits[instance.pool].table.slower(instance.ratio)
    cluster.ends(instance, end)


def switch(cluster: Cluster, instance: Instance, now: int) -> None:
    """``instance`` goes over to the other pool: it serves what it has, then is set up anew. The last one of a pool
    stays."""
    pool = cluster.entry if instance in cluster.entry else cluster.decode
    if cluster.split and instance in pool and len(pool) > 1:
        cluster.change(instance, cluster.decode if pool is cluster.entry else cluster.entry, now)


def _taken_out(cluster: Cluster, instance: Instance) -> list[Instance]:
    """Take ``instance`` out of whatever pool it is in; returns where it belongs."""
    home = cluster.pools[instance.pool]
    if instance in home:
        home.remove(instance)
    cluster.drained.pop(instance, None)
    cluster.leaving.pop(instance, None)
    cluster.changing.discard(instance)
    return home


def cancel(cluster: Cluster, instance: Instance | None, request: Request, now: int) -> None:
    """``request``, last seen at ``instance``, is wanted no more. What a step works on leaves with the step's end.

    A request whose cache is on its way has no ``end`` afterwards and is to be cancelled again when that has come.
    """
    if request.end >= 0:
        return
    if request in cluster.parked:
        cluster.parked.remove(request)
        request.quit(now)
        cluster.gone(request, now)
        return
    source = next((source for held, source in cluster.held if held is request), None)
    if source is not None:
        cluster.held.remove((request, source))
        source.groups[request.group].cache.release(request)
        source.sending -= 1
        if source.idle and (source.hungry or source in cluster.leaving):
            cluster.touched.append(source)
    elif instance is None or not _leaves(cluster, instance, request, now):
        return
    request.quit(now)
    cluster.gone(request, now)


def _leaves(cluster: Cluster, instance: Instance, request: Request, now: int) -> bool:
    """Whether ``request`` is out of ``instance`` at once."""
    if request.group >= len(instance.groups):
        return False
    group = instance.groups[request.group]
    if request in group.running or request in group.prefilling:
        if request not in instance.quitting:
            instance.quitting.append(request)
            cluster.ends(instance, instance.cut(now))
        return False
    if request not in group.waiting:
        return False
    instance.unqueue(group, request)
    return True
