"""What is to go wrong during a replay, and how it comes to pass: options of the command, planned as events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import MappingProxyType

from taicang.catalog.costing import cost_model
from taicang.errors import InvalidInput, TaicangError, UnknownName
from taicang.hardware import Machine
from taicang.reliability import components, with_mtbf
from taicang.serve import trouble
from taicang.serve.breakage import Breakage
from taicang.serve.build import Pool, Source, link, loading_s, step_table
from taicang.serve.cluster import Cluster
from taicang.serve.instance import Instance
from taicang.serve.request import FOREVER, SECOND
from taicang.units import digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A part fails: an "instance", "chip", "node", "rack", "switch", or a unit of a level of the machine's planes."""

    part: str
    number: int
    at_s: float
    down_s: float | None = None
    """Until it is repaired (None: not in this run)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """From ``at_s`` on, for ``for_s`` seconds (None: to the end), ``what`` differs.

    A plane keeps ``change_ratio`` of its bandwidth (0: it is dead), an instance's steps take ``change_ratio`` times as
    long, or an instance takes no new requests.
    """

    what: str
    at_s: float
    for_s: float | None = None
    change_ratio: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong, and what the system does about it."""

    outages: Sequence[Outage] = ()
    degraded: Sequence[Change] = ()
    """Planes."""
    slow: Sequence[Change] = ()
    """Instances, by number."""
    drained: Sequence[Change] = ()
    """Instances, by number."""
    switched: Sequence[tuple[int, float]] = ()
    """(instance, seconds until it goes over to the other pool)."""
    breakdowns: bool = False
    """Parts fail at random, at the rates of ``reliability.components``."""
    mtbf_s: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Mean time between failures of one component, by class; without ``breakdowns`` nothing else fails."""
    spare_chips: int = 0
    """Idle chips that stand in for failed ones."""
    restart_s: float | Source = 600.0
    """Seconds until an instance serves on spare chips, after a repair of parts that failed at random, or in its other
    pool (assumed: detecting, scheduling, loading weights, warming up; as for training); or "cold" or "warm": as long as
    its weights take (see ``serve.build``)."""
    retries: int | None = None
    """Times that a request starts over after its cache was lost (None: until it is served)."""
    jitter_s: float = 0.0
    """Mean time by which each rank's host is late in each step; the slowest decides."""


def plan(cluster: Cluster, pools: Sequence[Pool], faults: Faults, *, seed: int) -> Breakage:
    """Have ``faults`` happen to ``cluster``, whose instances are those of ``pools`` in turn; returns what breaks them.

    Raises ``InvalidInput`` for what the system does not have.
    """
    machine = pools[0].setup.machine
    cluster.retries = cluster.retries if faults.retries is None else faults.retries
    restart = _ticks(restarting_s(pools, faults))
    cluster.switch_ticks = restart
    members = _members(cluster, pools)
    spans = _spans(members)
    breakage = Breakage(
        spans, spares=faults.spare_chips * machine.chip.dies, restart=restart, seed=seed, dies=machine.chip.dies,
    )  # fmt: skip
    used = sum(len(span) for span in spans.values()) + breakage.spares
    if faults.spare_chips and used > machine.ranks:
        raise InvalidInput(
            f"the pools and {faults.spare_chips} spare chips need {used} ranks, {machine.name} has {machine.ranks}",
            where="--spares",
        )
    for outage in faults.outages:
        cluster.later(_ticks(outage.at_s), *striking(outage, machine, breakage, cluster))
    if faults.breakdowns or faults.mtbf_s:
        parts = with_mtbf(components(machine), faults.mtbf_s)
        chosen = parts if faults.breakdowns else {name: parts[name] for name in faults.mtbf_s}
        breakage.at_random(cluster, chosen)
    for change in faults.drained:
        instance = _instance(cluster, change.what, "--drain")
        _from_to(cluster, change, (trouble.drain, instance), (trouble.repair, instance))
    for change in faults.slow:
        instance = _instance(cluster, change.what, "--slow")
        _from_to(cluster, change, (trouble.pace, instance, change.change_ratio), (trouble.pace, instance, 1.0))
    for number, at_s in faults.switched:
        if not cluster.split or len({pool.setup.plan.ranks for pool in pools}) > 1:
            raise InvalidInput("instances change pools only where both have instances of one size", where="--switch")
        cluster.later(_ticks(at_s), trouble.switch, _instance(cluster, str(number), "--switch"))
    degraded = sorted(faults.degraded, key=lambda each: each.at_s)
    for one, other in pairwise(degraded):
        if one.for_s is None or other.at_s < one.at_s + one.for_s:
            raise InvalidInput("one plane can be worse than usual at a time", where="--degrade")
    for change in degraded:
        _degrade(cluster, pools, change, breakage)
    return breakage


def striking(
    outage: Outage, machine: Machine, breakage: Breakage, cluster: Cluster
) -> tuple[Callable[..., None], range, int]:  # fmt: skip
    """``outage`` as ``Cluster.later`` takes it. Raises ``InvalidInput`` for a part that the machine does not have."""
    down = FOREVER if outage.down_s is None else _ticks(outage.down_s)
    return breakage.strike, _ranks(outage, machine, breakage.spans, cluster), down


def restarting_s(pools: Sequence[Pool], faults: Faults) -> float:
    """Seconds that the restart of an instance takes, that of the slower pool."""
    if isinstance(faults.restart_s, str):
        return max(loading_s(pool.setup, faults.restart_s) for pool in pools)
    return faults.restart_s


def _ticks(seconds: float) -> int:
    return round(seconds * SECOND)


def _from_to(
    cluster: Cluster, change: Change, begin: tuple[Callable[..., None], *tuple[object, ...]],
    end: tuple[Callable[..., None], *tuple[object, ...]],
) -> None:  # fmt: skip
    cluster.later(_ticks(change.at_s), *begin)
    if change.for_s is not None:
        cluster.later(_ticks(change.at_s + change.for_s), *end)


def _members(cluster: Cluster, pools: Sequence[Pool]) -> list[tuple[Instance, Pool]]:
    return list(zip(cluster.instances, (pool for pool in pools for _ in range(pool.instances)), strict=True))


def _spans(members: Sequence[tuple[Instance, Pool]]) -> dict[Instance, range]:
    made: dict[Instance, range] = {}
    first = 0
    for instance, pool in members:
        made[instance] = range(first, first + pool.setup.plan.ranks)
        first += pool.setup.plan.ranks
    return made


def _instance(cluster: Cluster, number: str, where: str) -> Instance:
    every = cluster.instances
    if not digits(number) or int(number) >= len(every):
        raise InvalidInput(f"there is no instance {number} of {len(every)}", where=where)
    return every[int(number)]


def _ranks(outage: Outage, machine: Machine, spans: Mapping[Instance, range], cluster: Cluster) -> range:
    if outage.part == "instance":
        return spans[_instance(cluster, str(outage.number), "--fail")]
    sizes = unit_ranks(machine)
    if outage.part not in sizes:
        raise InvalidInput(
            f"{machine.name} has no {outage.part!r}; it has {', '.join(sorted(sizes))}, and instances by number",
            where="--fail",
        )
    size = sizes[outage.part]
    first = outage.number * size
    if first >= machine.ranks:
        count = -(-machine.ranks // size)
        raise InvalidInput(f"there is no {outage.part} {outage.number} of {count} in {machine.name}", where="--fail")
    return range(first, first + size)


def unit_ranks(machine: Machine) -> dict[str, int]:
    """Ranks that share one unit of each kind: chip, node, what ``reliability`` knows, and levels of the planes."""
    dies = machine.chip.dies
    levels = {level.name: level.ranks for plane in machine.planes.values() for level in plane.levels}
    known = {
        name: int(float(part.blast_chips) * dies)
        for name, part in components(machine).items()
        if name in ("rack", "switch")
    }
    return levels | known | {"chip": dies, "npu": dies, "node": min(machine.chips_per_node, machine.chips) * dies}


def _degrade(cluster: Cluster, pools: Sequence[Pool], change: Change, breakage: Breakage) -> None:
    """Price the pools anew on the machine that is left; an instance whose steps need a dead plane stops."""
    machine = pools[0].setup.machine
    if change.what not in machine.planes:
        raise UnknownName("plane", change.what, machine.planes, where="--degrade")
    worse = machine.degraded(change.what, change.change_ratio)
    setups = [replace(p.setup, machine=worse, price=cost_model(worse, p.setup.stack).price) for p in pools]
    tables, stopped = {}, []
    for role, pool, setup in zip(cluster.kits, pools, setups, strict=True):
        try:
            made = step_table(replace(pool, setup=setup, table=None))
            made.probe()
            tables[role] = made
        except TaicangError:
            stopped.append(pool)
    way = link(setups[0], setups[1]) if cluster.split else cluster.link
    usual = {role: cluster.kits[role].table for role in tables}
    _from_to(cluster, change, (trouble.reprice, tables, way), (trouble.reprice, usual, cluster.link))
    hit = [instance for instance, pool in _members(cluster, pools) if pool in stopped]
    if hit:
        down = FOREVER if change.for_s is None else _ticks(change.for_s)
        cluster.later(_ticks(change.at_s), breakage.take_down, hit, down)
