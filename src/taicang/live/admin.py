"""What an operator does to the machine while it serves, and what there is to see of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from taicang.errors import InvalidInput, UnknownName
from taicang.live.asked import Check, Refused, checked, number, whole, word
from taicang.live.background import fitting, from_profile_at
from taicang.live.supernode import Supernode
from taicang.serve import trouble
from taicang.serve.group import Group
from taicang.serve.instance import Instance
from taicang.serve.request import SECOND

FASTEST = 1e4
LONGEST_S = 365 * 86400.0

Rank: TypeAlias = tuple[int, tuple[int, int]]
"""Number of a data-parallel rank, and its instance and group."""


def _given(body: Mapping[str, Any], fields: Mapping[str, Check]) -> dict[str, Any]:
    """As ``checked``; a field that is not known is refused: a failure that was to end would never."""
    for name in body:
        if name not in fields:
            raise Refused(str(UnknownName("field", name, fields)), param=name)
    return checked(body, fields)


def _instance(machine: Supernode, body: Mapping[str, Any]) -> tuple[Instance, dict[str, Any]]:
    given = _given(body, {"instance": whole(0), "for_s": number(0.0, LONGEST_S), "ratio": number(1e-3, 1e6)})
    if "instance" not in given:
        raise Refused("instance is missing", param="instance")
    found = machine.instances.get(given["instance"])
    if found is None:
        raise Refused(f"there is no instance {given['instance']} of {len(machine.instances)}", param="instance")
    return found, given


def fail(machine: Supernode, body: Mapping[str, Any]) -> None:
    """An instance is lost with all its caches, or each that holds a rank of a part such as "node" (and is back after
    ``for_s``)."""
    if "part" in body or "number" in body:
        given = _given(body, {"part": word, "number": whole(0, 1 << 30), "for_s": number(0.0, LONGEST_S)})
        for name in ("part", "number"):
            if name not in given:
                raise Refused(f"{name} is missing", param=name)
        if machine.strike is None:
            raise Refused("parts of this machine are not known", param="part")
        try:
            struck = machine.strike(given["part"], given["number"], given.get("for_s"))
        except InvalidInput as error:
            raise Refused(str(error).removeprefix(f"{error.where}: "), param="part") from None
        machine.later(*struck)
        return
    _for_a_while(machine, body, trouble.fail)


def drain(machine: Supernode, body: Mapping[str, Any]) -> None:
    """An instance takes no new requests (for ``for_s``)."""
    _for_a_while(machine, body, trouble.drain)


def _for_a_while(machine: Supernode, body: Mapping[str, Any], act: Callable[..., None]) -> None:
    instance, given = _instance(machine, body)
    machine.later(act, instance)
    if "for_s" in given:
        machine.later(trouble.repair, instance, after_s=given["for_s"])


def repair(machine: Supernode, body: Mapping[str, Any]) -> None:
    """An instance serves again."""
    machine.later(trouble.repair, _instance(machine, body)[0])


def slow(machine: Supernode, body: Mapping[str, Any]) -> None:
    """The steps of an instance take ``ratio`` times as long (for ``for_s``)."""
    instance, given = _instance(machine, body)
    if "ratio" not in given:
        raise Refused("ratio is missing", param="ratio")
    machine.later(trouble.pace, instance, given["ratio"])
    if "for_s" in given:
        machine.later(trouble.pace, instance, 1.0, after_s=given["for_s"])


def speed(machine: Supernode, body: Mapping[str, Any]) -> None:
    """The machine's time runs ``speed`` times as fast as the clock."""
    given = _given(body, {"speed": number(1e-4, FASTEST)})
    if "speed" not in given:
        raise Refused("speed is missing", param="speed")
    machine.change_speed(given["speed"])


def background(machine: Supernode, body: Mapping[str, Any]) -> None:
    """Load that no client sends: a profile at a rate ("servegen-m-large@20/s"), or none."""
    given = _given(body, {"load": word, "seed": whole(0, (1 << 63) - 1)})
    load = given.get("load")
    machine.load(fitting(from_profile_at(load, seed=given.get("seed", 0)), machine.holds) if load else None)


ACTS: Mapping[str, Callable[[Supernode, Mapping[str, Any]], Any]] = {
    "fail": fail, "repair": repair, "drain": drain, "slow": slow, "speed": speed, "background": background,
}  # fmt: skip


def state(machine: Supernode) -> dict[str, Any]:
    """The machine at this time: every instance, what it does and how it is."""
    cluster = machine.cluster
    return {
        "machine_s": machine.now / SECOND,
        "speed": machine.pace.speed,
        "behind_s": machine.late_s,
        "requests": len(machine.arrivals["input"]),
        "ended": len(machine.served),
        "streams": len(machine.streams),
        "parked": len(cluster.parked),
        "moving": len(cluster.held),
        "background": machine.background and {"load": machine.background.trace.name, "per_s": machine.background.per_s},
        "instances": [_shown(machine, each) for each in machine.instances.values()],
    }


def _shown(machine: Supernode, instance: Instance) -> dict[str, Any]:
    cluster = machine.cluster
    states = (("down", cluster.down), ("drained", cluster.drained), ("leaving", cluster.leaving))
    return {
        "instance": instance.name,
        "pool": instance.pool,
        "state": next((name for name, held in states if instance in held), "up"),
        "requests": instance.requests,
        "running": at_work(*instance.groups),
        "waiting": _waiting(*instance.groups),
        "cache_ratio": used(*instance.groups),
        "steps": instance.steps_run,
        "busy_s": instance.busy / SECOND,
        "slower": instance.ratio,
        "failures": instance.failures,
    }


def at_work(*groups: Group) -> int:
    """Requests that a step works on."""
    return sum(group.n + len(group.prefilling) for group in groups)


def used(*groups: Group) -> float:
    """Share of their cache that is in use."""
    return 1.0 - sum(group.cache.spare for group in groups) / max(sum(group.cache.pages for group in groups), 1)


def _waiting(*groups: Group) -> int:
    return sum(len(group.waiting) for group in groups)


def _engines(machine: Supernode, rank: Rank | None) -> dict[str, Sequence[Group]]:
    if rank is None:
        return {str(name): instance.groups for name, instance in machine.instances.items()}
    number, (place, group) = rank
    return {str(number): machine.instances[place].groups[group : group + 1]}


def gauges(
    machine: Supernode, asleep: bool, rank: Rank | None = None
) -> dict[str, tuple[str, Iterator[tuple[str, float]]]]:
    """What Prometheus is shown of this time, by engine: of all instances, or of one ``rank``."""
    parts = _engines(machine, rank)

    def each(figure: Callable[..., float]) -> Iterator[tuple[str, float]]:
        return ((name, figure(*groups)) for name, groups in parts.items())

    return {
        "num_requests_running": ("Requests that a step works on.", each(at_work)),
        "num_requests_waiting": ("Requests that wait for their first step.", each(_waiting)),
        "kv_cache_usage_perc": ("Share of the cache that is in use (1: all).", each(used)),
        "engine_sleep_state": ("Whether it is awake.", each(lambda *_: float(not asleep))),
    }


def cache_info(machine: Supernode, model: str, rank: Rank | None = None) -> str:
    """The caches' layout in labels, as vLLM exposes it and endpoint pickers read it."""
    lines = ["# HELP vllm:cache_config_info Layout of the cache.", "# TYPE vllm:cache_config_info gauge"]
    for name, groups in _engines(machine, rank).items():
        caches = [group.cache for group in groups]
        block = caches[0].block or caches[0].page
        blocks = sum(each.tokens for each in caches) // block
        said = f'block_size="{block}",engine="{name}",model_name="{model}",num_gpu_blocks="{blocks}"'
        lines.append(f"vllm:cache_config_info{{{said}}} 1.0")
    return "\n".join(lines) + "\n"
