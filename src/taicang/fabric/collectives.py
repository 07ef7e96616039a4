"""Collectives as flows: what each algorithm puts on every link, phase by phase.

A phase is what runs at once; its bytes are those of all its messages, ``hops`` of which follow one another. Teams are
groups that run the same collective at the same time, one row of ranks each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from taicang.errors import InvalidInput, NotModelled, UnknownName
from taicang.fabric.even import MOST_FLOWS, Net, even_loads, sent, size_of, suited, uneven_loads
from taicang.fabric.flows import Course, Drained, drain, shares
from taicang.fabric.routing import route
from taicang.fabric.topology import Direct, Floats, Ints, Network, Switched

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "send", "dispatch", "combine")
"""As they are asked for; the last two are exchanges that a router draws."""
ALGORITHMS: Mapping[str, tuple[str, ...]] = {
    "all_reduce": ("ring", "tree", "halving_doubling", "direct", "hierarchical", "in_switch"),
    "all_gather": ("ring", "direct", "halving_doubling"),
    "reduce_scatter": ("ring", "direct", "halving_doubling"),
    "all_to_all": ("direct",),
    "send": ("direct",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Bytes on every resource, the time until they are through, and the messages that follow one another."""

    name: str
    carried_bytes: Floats
    wire_s: float
    hops: int
    hop_s: float
    course: Course

    @property
    def seconds(self) -> float:
        """Bytes and latencies."""
        return self.wire_s + self.hops * self.hop_s


def teams_of(ranks: int, stride: int = 1, copies: int = 1) -> Ints:
    """``copies`` groups of ``ranks`` that lie ``stride`` apart, each beginning one rank after the other."""
    return np.arange(copies)[:, None] + stride * np.arange(ranks)[None, :]


def collective(net: Net, kind: str, teams: Ints, payload_bytes: float, algorithm: str = "") -> list[Phase]:
    """Phases of a collective of the rows of ``teams``; ``payload_bytes`` is the whole buffer of one rank.

    Raises ``UnknownName`` for a kind or an algorithm, ``InvalidInput`` for sizes that an algorithm does not take.
    """
    if kind not in ALGORITHMS:
        raise UnknownName("collective", kind.replace("_", "-"), KINDS, where="--collective")
    algorithm = algorithm or ALGORITHMS[kind][0]
    if algorithm not in ALGORITHMS[kind]:
        raise UnknownName(f"algorithm of {kind}", algorithm, ALGORITHMS[kind], where="--algorithm")
    if teams.shape[1] < 2:
        return []
    if kind == "all_to_all":
        return [_even(net, "exchange", teams, payload_bytes / teams.shape[1])]
    if kind == "send":
        pairs = teams[:, [0, -1]]
        return [listed(net, "send", pairs[:, 0], pairs[:, 1], np.full(len(pairs), payload_bytes), hops=1)]
    passes = 2 if kind == "all_reduce" else 1
    return _MAKERS[algorithm](net, teams, payload_bytes, passes)


def contend(net: Net, jobs: Sequence[tuple[str, Ints, float]]) -> tuple[list[float], Course]:
    """Seconds until each of several collectives (kind, teams, payload) is through, all begun at once on fair shares,
    and how busy the levels are on the way.

    A rank's messages of one collective flow at once: rings are pipelined. Raises as ``collective`` does.
    """
    parts = [_flows(net, kind, teams, payload) for kind, teams, payload in jobs]
    source, target, size = (np.concatenate([part[k] for part in parts]) for k in range(3))
    done = _drained(net, source, target, size)
    ends = np.cumsum([len(part[0]) for part in parts])
    return [float(each.max(initial=0.0)) for each in np.split(done.finish_s, ends[:-1])], done.course


def _flows(net: Net, kind: str, teams: Ints, payload_bytes: float) -> tuple[Ints, Ints, Floats]:
    if kind not in ALGORITHMS:
        raise UnknownName("collective", kind.replace("_", "-"), KINDS[:5], where="--beside")
    ranks = teams.shape[1]
    if kind == "send":
        return teams[:, 0], teams[:, -1], np.full(len(teams), payload_bytes)
    if kind == "all_to_all":
        source, target = np.repeat(teams, ranks, axis=1).ravel(), np.tile(teams, (1, ranks)).ravel()
        apart = source != target
        return source[apart], target[apart], np.full(int(apart.sum()), payload_bytes / ranks)
    return _neighbours(net, teams, (2 if kind == "all_reduce" else 1) * payload_bytes * (ranks - 1) / ranks)


def listed(
    net: Net, name: str, source: Ints, target: Ints, size_bytes: Floats, *, hops: int, teams: Ints | None = None
) -> Phase:
    """A phase of flows that are listed one by one."""
    ends = np.stack([source, target], axis=1) if teams is None else teams
    if len(ends) and (carried := suited(net, source, target, size_bytes)) is not None:
        return _phase(net, name, carried, hops, ends)
    done = _drained(net, source, target, size_bytes)
    return Phase(
        name=name,
        carried_bytes=done.busy_bytes,
        wire_s=done.seconds,
        hops=hops,
        hop_s=net.latency_s(ends) if len(ends) else 0.0,
        course=done.course,
    )


def uneven(net: Net, name: str, ranks: Ints, size_bytes: Floats) -> Phase:
    """Each of ``ranks`` sends what its row of ``size_bytes`` says to each; of too many flows to follow, as long as the
    fullest link is busy."""
    teams = ranks[None, :]
    if size_bytes.size > MOST_FLOWS:
        return _phase(net, name, uneven_loads(net, ranks, size_bytes), 1, teams)
    source, target = np.nonzero(size_bytes)
    apart = source != target
    source, target = source[apart], target[apart]
    return listed(net, name, ranks[source], ranks[target], size_bytes[source, target], hops=1, teams=teams)


def _drained(net: Net, source: Ints, target: Ints, size_bytes: Floats) -> Drained:
    if len(source) > MOST_FLOWS:
        raise NotModelled(f"{len(source):,} flows at once; up to {MOST_FLOWS:,} are followed one by one")
    paths = route(net.fabric, net.found, source, target, net.seed)
    return drain(paths, size_bytes, net.found.capacity_bytes_per_s, net.found.level)


def _through(net: Net, carried: Floats) -> float:
    """Seconds that the fullest resource needs: equal flows are through no sooner and no later."""
    capacity = net.found.capacity_bytes_per_s
    used = carried > 0
    if (capacity[used] <= 0).any():
        raise InvalidInput(
            "no route is left between some of the ranks: too much of the fabric has failed", where="--fail"
        )
    return float((carried[used] / capacity[used]).max(initial=0.0))


def _phase(net: Net, name: str, carried: Floats, hops: int, teams: Ints) -> Phase:
    wire = _through(net, carried)
    busy = shares(carried / (wire or 1.0), carried, net.found.capacity_bytes_per_s, net.found.level)
    return Phase(name=name, carried_bytes=carried, wire_s=wire, hops=hops, hop_s=net.latency_s(teams),
                 course=((wire, busy),))  # fmt: skip


def _even(net: Net, name: str, teams: Ints, each_bytes: float) -> Phase:
    """Everyone sends ``each_bytes`` to everyone of its team."""
    return _phase(net, name, even_loads(net, teams, each_bytes), 1, teams)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ring:
    """Members of all teams as one level sees them: units inside it, in runs of one team and one larger unit."""

    ranks: Ints
    unit: Ints
    """Of each member."""
    place: Ints
    """Of each member in its unit."""
    first: Ints
    """First member of each unit."""
    size: Ints
    start: Ints
    """First unit of the run that each unit is in."""
    count: Ints
    """Units of that run."""
    closed: Ints
    """Whether the run is the whole team, so that the ring closes in it."""


def _ring(net: Net, level: int, teams: Ints) -> _Ring:
    levels = net.fabric.levels
    low, high = levels[level - 1].ranks if level else 1, levels[level].ranks
    ranks = np.sort(teams, axis=1).ravel()
    team = np.repeat(np.arange(len(teams)), teams.shape[1])
    unit, run = _ordinal(team, ranks // low), _ordinal(team, ranks // high)
    size = np.bincount(unit)
    first = np.cumsum(size) - size
    run_of, team_of = run[first], team[first]
    units = np.bincount(run_of)
    runs = np.bincount(team_of[np.cumsum(units) - units])
    return _Ring(
        ranks=ranks, unit=unit, place=np.arange(len(ranks)) - first[unit], first=first, size=size,
        start=(np.cumsum(units) - units)[run_of], count=units[run_of], closed=(runs == 1)[team_of].astype(np.int64),
    )  # fmt: skip


def _ordinal(team: Ints, unit: Ints) -> Ints:
    """Number of each distinct (team, unit), in order."""
    found: Ints = np.unique(team * (int(unit.max()) + 1) + unit, return_inverse=True)[1]
    return found


def _neighbours(net: Net, teams: Ints, volume_bytes: float) -> tuple[Ints, Ints, Floats]:
    """Flows of rings that visit one unit after the other, each rank of a unit being the one that leaves it in its turn.

    ``volume_bytes`` pass between two neighbours over all rings together. On a level inside a larger one the ring is
    open: of n units, n - 1 have a neighbour. On a mesh the rings differ, so that all its links carry the same.
    """
    parts: list[tuple[Ints, Ints, Floats]] = []
    for network, level in ((each, level) for each in net.fabric.networks for level in each.levels):
        ring = _ring(net, level, teams)
        count = ring.count[ring.unit]
        share = np.where(ring.closed[ring.unit] > 0, 1.0, (count - 1.0) / count) / ring.size[ring.unit]
        for steps, each in _steps(network, ring):
            mine = np.flatnonzero((count > 1) & (steps > 0) & (steps < count))
            if not len(mine):
                continue
            unit = ring.unit[mine]
            start, step = ring.start[unit], steps[mine]
            successor = start + (unit - start + step) % ring.count[unit]
            for place, part in _dealt(ring.place[mine], ring.size[unit], ring.size[successor]):
                target = ring.ranks[ring.first[successor] + place]
                size = (volume_bytes * share * each)[mine] * part
                parts.append((ring.ranks[mine][part > 0], target[part > 0], size[part > 0]))
    source, target, size = (np.concatenate([part[k] for part in parts]) for k in range(3))
    return source, target, size


def _dealt(place: Ints, mine: Ints, theirs: Ints) -> Iterator[tuple[Ints, Floats]]:
    """Members of the next unit, of ``theirs``, to whom one of ``mine`` passes on, and each one's share."""
    first = place * theirs // mine
    for more in range(int((-(-(place + 1) * theirs // mine) - first).max())):
        to = np.minimum(first + more, theirs - 1)
        both = np.minimum((place + 1) * theirs, (to + 1) * mine) - np.maximum(place * theirs, to * mine)
        yield to, np.where(first + more < theirs, np.clip(both, 0, None), 0) / theirs


def _steps(network: Network, ring: _Ring) -> Iterator[tuple[Ints, Floats]]:
    """How far on a member's neighbours are, in units, and the share of its bytes that each gets."""
    count = ring.count[ring.unit]
    whole = isinstance(network, Direct) and int(np.prod(network.dims)) == count.max() == count.min()
    if isinstance(network, Direct) and whole and (network.torus or len(network.dims) > 1):
        stride = 1
        at = ring.unit - ring.start[ring.unit]
        for size, links in zip(network.dims, network.widths, strict=True):
            here = at // stride % size
            spread = len(network.dims) * links if network.torus else sum(network.widths)
            for step in (1, size - 1)[:links] if network.torus else range(1, size):
                yield ((here + step) % size - here) * stride % count, np.full(len(at), 1.0 / spread)
            stride *= size
    elif isinstance(network, Direct) and not network.torus:
        for step in range(1, int(count.max())):
            yield np.full(len(count), step), 1.0 / np.maximum(count - 1.0, 1.0)
    else:
        yield np.ones(len(count), dtype=np.int64), np.ones(len(count))


def _ring_phases(net: Net, teams: Ints, payload_bytes: float, passes: int) -> list[Phase]:
    ranks = teams.shape[1]
    source, target, size = _neighbours(net, teams, passes * payload_bytes * (ranks - 1) / ranks)
    return [_phase(net, "ring", sent(net, source, target, size), passes * (ranks - 1), teams)]


def _direct_phases(net: Net, teams: Ints, payload_bytes: float, passes: int) -> list[Phase]:
    each = payload_bytes / teams.shape[1]
    return [_even(net, name, teams, each) for name in ("scatter", "gather")[:passes]]


def _doubling_phases(net: Net, teams: Ints, payload_bytes: float, passes: int) -> list[Phase]:
    ranks = teams.shape[1]
    if ranks & (ranks - 1):
        raise InvalidInput(f"halving and doubling needs a power of two of ranks, got {ranks}", where="--algorithm")
    phases = []
    for bit in range(ranks.bit_length() - 1):
        partner = teams[:, np.arange(ranks) ^ (1 << bit)]
        size = np.full(teams.size, payload_bytes * (1 << bit) / ranks)
        phases.append(listed(net, f"distance {1 << bit}", teams.ravel(), partner.ravel(), size, hops=1))
    return phases[::-1] * 1 + phases if passes == 2 else phases


def _parents(ranks: int) -> list[tuple[Ints, Ints]]:
    """Children and parents of a double binary tree: inner nodes of one tree are leaves of the other."""
    child = np.arange(1, ranks)
    bit = child & -child
    parent = (child ^ bit) | (bit << 1)
    parent = np.where(parent >= ranks, child ^ bit, parent)
    shifted = ((child + 1) % ranks, (parent + 1) % ranks) if ranks % 2 else (ranks - 1 - child, ranks - 1 - parent)
    return [(child, parent), shifted]


def _tree_phases(net: Net, teams: Ints, payload_bytes: float, passes: int) -> list[Phase]:
    """Two trees carry half of the buffer each, up and down at once, in pieces small enough to hide the depth."""
    ranks = teams.shape[1]
    source, target = [], []
    for child, parent in _parents(ranks):
        source += [teams[:, child].ravel(), teams[:, parent].ravel()]
        target += [teams[:, parent].ravel(), teams[:, child].ravel()]
    ends = np.concatenate(source), np.concatenate(target)
    size = np.full(len(ends[0]), payload_bytes / 2.0)
    hops = passes * (ranks - 1).bit_length()
    return [listed(net, "double tree", *ends, size, hops=hops, teams=teams)]


def _hierarchical_phases(net: Net, teams: Ints, payload_bytes: float, passes: int) -> list[Phase]:
    """Scatter inside the units of each network from the innermost out, a ring or a tree per shard across the last,
    gather."""
    teams = np.sort(teams, axis=1)
    count = teams.shape[1]
    team = np.repeat(np.arange(len(teams)), count)
    widths = [1]
    for network in net.fabric.networks:
        sizes = np.unique(size_of(team, teams.ravel() // net.fabric.levels[network.levels[-1]].ranks))
        if len(sizes) > 1:
            raise InvalidInput(
                f"a hierarchical all-reduce needs units of one size, got {sizes.tolist()}", where="--algorithm"
            )
        if sizes[0] > widths[-1]:
            widths.append(int(sizes[0]))
    stages = [
        teams.reshape(-1, outer // inner, inner).swapaxes(1, 2).reshape(-1, outer // inner)
        for inner, outer in pairwise(widths)
    ]
    scatters = [
        _direct_phases(net, stage, payload_bytes / inner, 1)[0]
        for stage, inner in zip(stages[:-1], widths, strict=False)
    ]
    gathers = [replace(each, name="gather") for each in reversed(scatters)]
    ways = (way(net, stages[-1], payload_bytes / widths[-2], passes) for way in (_ring_phases, _tree_phases))
    return [*scatters, *min(ways, key=lambda phases: sum(phase.seconds for phase in phases)), *gathers]


def _in_switch_phases(net: Net, teams: Ints, payload_bytes: float, passes: int) -> list[Phase]:
    """Switches add: a rank sends its buffer once and its shard, reduced, once more; beyond them a ring per shard.

    Between u units that no switch joins with adders, each rank carries 2 (u - 1) / u of its share, piece by piece while
    others are added; only the messages that follow one another come on top.
    """
    del passes
    network = net.fabric.networks[0]
    levels = net.fabric.levels
    if not isinstance(network, Switched) or not levels[0].reduces:
        raise NotModelled(f"the switches of {net.fabric.machine} next to its ranks do not reduce")
    last = max(index for index in network.levels if levels[index].reduces)
    unit = np.sort(teams, axis=1) // levels[last].ranks
    team = np.repeat(np.arange(len(teams)), teams.shape[1])
    width = size_of(team, unit.ravel())
    if len(np.unique(width)) > 1:
        raise InvalidInput("reduction in switches needs units of one size", where="--algorithm")
    carried = np.zeros(len(net.found.capacity_bytes_per_s))
    ranks, held = np.sort(teams, axis=1).ravel(), int(width[0])
    for depth, (up, down, each) in enumerate(net.found.base[0]):
        if each > 1 or network.stages[depth].level > last:
            raise NotModelled("reduction in switches under a routing that tells their planes apart")
        thing = ranks if depth == 0 else network.units(depth - 1)[ranks]
        members = size_of(team, thing)
        apart = held / members
        moved = payload_bytes * (1.0 + 1.0 / apart) * (apart > 1.0) / members
        amount = np.bincount(thing, weights=moved, minlength=network.stages[depth].things)
        carried[up : up + len(amount)] += amount
        carried[down : down + len(amount)] += amount
    inside = np.sort(teams, axis=1).reshape(-1, held)
    if held == teams.shape[1]:
        return [_phase(net, "in switch", carried, 2, inside)]
    across = inside.reshape(len(teams), -1, held).swapaxes(1, 2).reshape(-1, teams.shape[1] // held)
    (between,) = _ring_phases(net, across, payload_bytes / held, 2)
    added = replace(between, wire_s=0.0, carried_bytes=between.carried_bytes * 0.0, course=())
    return [_phase(net, "in switch", carried + between.carried_bytes, 2, inside), added]


_MAKERS: Mapping[str, Callable[[Net, Ints, float, int], list[Phase]]] = {
    "ring": _ring_phases,
    "direct": _direct_phases,
    "halving_doubling": _doubling_phases,
    "tree": _tree_phases,
    "hierarchical": _hierarchical_phases,
    "in_switch": _in_switch_phases,
}
