"""A request whose user has gone: it leaves, and its pages are given back, wherever it is."""

from __future__ import annotations

from taicang.serve.cluster import Cluster
from taicang.serve.instance import Instance
from taicang.serve.request import Request


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
