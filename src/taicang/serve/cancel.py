"""A request whose user has gone: it leaves, and its pages are given back, wherever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taicang.serve.group import Group
from taicang.serve.request import Request

if TYPE_CHECKING:
    from taicang.serve.cluster import Cluster
    from taicang.serve.instance import Instance


def cancel(cluster: Cluster, instance: Instance | None, request: Request, now: int) -> None:
    """``request``, last seen at ``instance``, is wanted no more. What a step works on leaves with the step's end.

    A request whose cache is on its way has no ``end`` afterwards and is to be cancelled again when that has come.
    """
    if request.end >= 0:
        return
    if request in cluster.parked:
        cluster.parked.remove(request)
        _end(request, now)
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
    _end(request, now)
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
    _unqueue(instance, group, request)
    return True


def quit_now(instance: Instance, now: int) -> list[Request]:
    """At a step's end: those that quit are out, if they did not leave otherwise."""
    left = []
    quitting, instance.quitting = instance.quitting, []
    for request in quitting:
        group = instance.groups[request.group]
        if request in group.running:
            request.made += instance.made(request, instance.steps)
            instance.drop(group, request)
            instance.lanes.leave(request.group)
            if group.waiting:
                instance.hungry[request.group] = None
        elif request in group.prefilling:
            group.prefilling.remove(request)
            group.cache.release(request)
            instance.lanes.leave(request.group)
            _sated(instance, group, request)
        elif request in group.waiting:  # evicted since
            _unqueue(instance, group, request)
        else:
            continue
        _end(request, now)
        left.append(request)
    return left


def _unqueue(instance: Instance, group: Group, request: Request) -> None:
    group.waiting.remove(request)
    group.swapped -= request.swapped
    instance.lanes.leave(request.group)
    _sated(instance, group, request)


def _sated(instance: Instance, group: Group, request: Request) -> None:
    if not group.waiting and not group.prefilling:
        instance.hungry.pop(request.group, None)


def _end(request: Request, now: int) -> None:
    request.end = now
    request.failed = True
