"""What a group does when its pages run out: a sequence leaves the batch, and starts over or waits in host memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taicang.serve.group import Group
from taicang.serve.request import Request
from taicang.serve.scheduler import enqueue, give_up, urgency

if TYPE_CHECKING:
    from taicang.serve.instance import Instance


def make_room(instance: Instance) -> set[int]:
    """Look exactly how long pages suffice; where not even for one step, the least urgent sequence leaves. Returns the
    groups of those that left."""
    crowded = set()
    for at, group in enumerate(instance.groups):
        if not group.n or group.limit > instance.steps:
            continue
        group.sync(instance.steps)
        while group.short(instance.steps):
            evict(instance, group)
            instance.hungry[at] = None
            crowded.add(at)
        group.look(instance.steps)
    instance.safe = min(group.limit for group in instance.groups)
    return crowded


def evict(instance: Instance, group: Group) -> None:
    """A prompt in progress goes first and starts over; a decoding sequence is swapped out while host memory has room
    for it (its answer so far is kept), and otherwise starts over (its answer so far becomes part of its prompt)."""
    if group.prefilling:
        give_up(group, instance.limits)
        return
    victim = _least_urgent(instance, group)
    victim.made += instance.made(victim, instance.steps)
    length = victim.input + victim.made - 1
    own = length - victim.nodes * group.cache.block
    swap = group.swapped + length <= instance.limits.swap_tokens
    instance.drop(group, victim, keep=not swap)
    if swap:
        victim.need = victim.done = victim.swapped = length
        group.swapped += length
        instance.stall += instance.swap.ticks(own)
    else:
        victim.restart()
    victim.preempted += 1
    enqueue(group, victim, instance.limits, first=True)


def swap_in(instance: Instance, group: Group, request: Request) -> None:
    """``request`` has pages again: what no other prompt shares comes back from host memory before the next step."""
    group.swapped -= request.swapped
    instance.stall += instance.swap.ticks(request.swapped - request.nodes * group.cache.block)
    request.swapped = 0
    request.swaps += 1


def _least_urgent(instance: Instance, group: Group) -> Request:
    """Of the decoding sequences the least urgent; of equals the one that joined last."""
    newest = reversed(group.running)
    if instance.limits.order == "arrival":
        return next(newest)
    return max(newest, key=lambda request: urgency(request, instance.limits))
