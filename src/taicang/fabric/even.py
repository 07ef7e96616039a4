"""Exchanges counted per port and unit rather than listed pair by pair: even ones, and uneven ones of many ranks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from taicang.errors import NotModelled
from taicang.fabric import graph
from taicang.fabric.flows import loads
from taicang.fabric.routing import Resources, meeting, route
from taicang.fabric.topology import Direct, Fabric, Floats, Ints, Network, Switched, Wired

AT_ONCE = 200_000
MOST_FLOWS = 6_000_000
"""Of one phase; beyond, only what can be counted is answered."""
MOST_COUNTED = 20_000
"""Ranks of an uneven exchange: what each sends to each is held in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """A fabric as one routing sees it."""

    fabric: Fabric
    found: Resources
    seed: int = 0

    def latency_s(self, teams: Ints) -> float:
        """Of a message between the ends of the widest team."""
        met = meeting(self.fabric, teams.min(axis=1), teams.max(axis=1))
        return max(self.fabric.levels[int(level)].latency_s for level in np.unique(met))


def even_loads(net: Net, teams: Ints, each_bytes: float) -> Floats:
    """Bytes on every resource of an even exchange, counted where the routing spreads evenly."""
    carried = np.zeros(len(net.found.capacity_bytes_per_s))
    rank, team = teams.ravel(), np.repeat(np.arange(len(teams)), teams.shape[1])
    for index, network in enumerate(net.fabric.networks):
        if isinstance(network, Switched) and all(base[2] == 1 for base in net.found.base[index]):
            _count(net, network, index, rank, team, each_bytes, carried)
        elif isinstance(network, Direct) and _whole(net.fabric, network, teams):
            _shifted(net, network, each_bytes, carried)
        elif isinstance(network, Wired):
            carried += _all_pairs(net, teams, each_bytes)
        else:
            carried += _pairs_within(net, network, teams, each_bytes)
    return carried


def sent(net: Net, source: Ints, target: Ints, size_bytes: Floats) -> Floats:
    """Bytes on every resource once all flows are through."""
    suits = suited(net, source, target, size_bytes)
    return _along(net, source, target, size_bytes) if suits is None else suits


def _along(net: Net, source: Ints, target: Ints, size_bytes: Floats) -> Floats:
    """The same, each flow along its own route."""
    paths = route(net.fabric, net.found, source, target, net.seed)
    return loads(paths, size_bytes, len(net.found.capacity_bytes_per_s))


def suited(net: Net, source: Ints, target: Ints, size_bytes: Floats) -> Floats | None:
    """The same on a graph of routes that suit all flows; None where there is none, or its routes are the shortest."""
    network = net.fabric.networks[0]
    if not isinstance(network, Wired) or net.found.routing != "adaptive" or net.found.away is None:
        return None
    return graph.suited(network, net.found.away, net.found.capacity_bytes_per_s, source, target, size_bytes)


def size_of(*keys: Ints) -> Ints:
    """Members that share all keys with each member."""
    code = keys[0].astype(np.int64)
    for key in keys[1:]:
        code = code * (int(key.max()) + 1) + key
    _, inverse, counts = np.unique(code, return_inverse=True, return_counts=True)
    found: Ints = counts[inverse]
    return found


def _count(net: Net, network: Switched, index: int, rank: Ints, team: Ints, each_bytes: float, carried: Floats) -> None:
    port, inside = network.port[rank], network.inside[rank]
    unit = [network.units(depth)[port] for depth in range(len(network.stages))]
    top, near = size_of(team, unit[-1]), size_of(team, inside)
    thing, beyond = port, top - near
    for depth, (up, down, _) in enumerate(net.found.base[index]):
        if depth:
            thing = unit[depth - 1]
            beyond = top - size_of(team, thing) - near + size_of(team, thing, inside)
        moved = np.bincount(thing, weights=beyond * each_bytes, minlength=network.stages[depth].things)
        carried[up : up + len(moved)] += moved
        carried[down : down + len(moved)] += moved


def uneven_loads(net: Net, ranks: Ints, size_bytes: Floats) -> Floats:
    """Bytes on every resource once each of ``ranks`` has sent what its row of ``size_bytes`` says, counted per port and
    unit. Raises ``NotModelled`` where routes differ from pair to pair."""
    carried = np.zeros(len(net.found.capacity_bytes_per_s))
    if len(ranks) > MOST_COUNTED:
        raise NotModelled(f"an uneven exchange of {len(ranks):,} ranks; up to {MOST_COUNTED:,} are counted")
    for index, network in enumerate(net.fabric.networks):
        inner = ranks // net.fabric.levels[network.levels[0] - 1].ranks if network.levels[0] else ranks
        outer = ranks // net.fabric.levels[network.levels[-1]].ranks
        if not isinstance(network, Switched):
            carried += _short(net, network, ranks, size_bytes, inner, outer)
            continue
        if any(base[2] != 1 for base in net.found.base[index]):
            raise NotModelled(f"an uneven exchange of {len(ranks):,} ranks over routes that differ from pair to pair")
        top, thing = _between(size_bytes, outer), network.port[ranks]
        for depth, (up, down, _) in enumerate(net.found.base[index]):
            if depth:
                thing = network.units(depth - 1)[network.port[ranks]]
            joint = np.unique(np.stack([thing, inner]), axis=1, return_inverse=True)[1].ravel()
            stays = _between(size_bytes, thing) + _between(size_bytes, inner) - _between(size_bytes, joint)
            for first, moved in zip((up, down), top - stays, strict=True):
                amount = np.bincount(thing, weights=moved, minlength=network.stages[depth].things)
                carried[first : first + len(amount)] += amount
    return carried


def _between(size_bytes: Floats, unit: Ints) -> Floats:
    """What each sends to (first row), and gets from (second), those in its own unit, itself among them."""
    found, order = np.zeros((2, len(unit))), np.argsort(unit, kind="stable")
    cuts = np.flatnonzero(np.diff(unit[order])) + 1
    if len(cuts) == len(unit) - 1:
        found[:] = np.diagonal(size_bytes)
        return found
    for mine in np.split(order, cuts):
        part = size_bytes[np.ix_(mine, mine)] if len(cuts) else size_bytes
        found[0, mine if len(cuts) else slice(None)] = part.sum(axis=1)
        found[1, mine if len(cuts) else slice(None)] = part.sum(axis=0)
    return found


def _short(net: Net, network: Network, ranks: Ints, size_bytes: Floats, inner: Ints, outer: Ints) -> Floats:
    """The same of a network without switches, pair by pair."""
    order = np.argsort(outer, kind="stable")
    total = np.zeros(len(net.found.capacity_bytes_per_s))
    for mine in np.split(order, np.flatnonzero(np.diff(outer[order])) + 1):
        source, target = (mine[each] for each in np.nonzero(inner[mine][:, None] != inner[mine][None, :]))
        if len(source) > MOST_FLOWS:
            raise NotModelled(f"{len(source):,} flows at once over {net.fabric.levels[network.levels[0]].name}")
        total += sent(net, ranks[source], ranks[target], size_bytes[source, target])
    return total


def _whole(fabric: Fabric, network: Direct, teams: Ints) -> bool:
    """Whether one team fills a healthy direct network, so that each unit sees what every other does."""
    filled = teams.shape == (1, fabric.ranks) and int(np.prod(network.dims)) == network.units
    return filled and network.ranks == 1 and bool((fabric.alive_ratio == 1.0).all())


def _shifted(net: Net, network: Direct, each_bytes: float, carried: Floats) -> None:
    """Loads of one unit's messages, folded onto the links of one unit: all units send alike."""
    others = np.arange(1, network.units)
    paths = route(net.fabric, net.found, np.zeros_like(others), others, net.seed)
    alone = loads(paths, np.full(len(others), each_bytes), len(carried))
    base, width = net.found.base[net.fabric.networks.index(network)][0][0], sum(network.widths)
    count = network.units * width
    carried[base : base + count] += np.tile(alone[base : base + count].reshape(-1, width).sum(axis=0), network.units)


def _all_pairs(net: Net, teams: Ints, each_bytes: float) -> Floats:
    """Loads of all pairs of an even exchange, some hundred thousand at a time."""
    total = np.zeros(len(net.found.capacity_bytes_per_s))
    ranks = teams.shape[1]
    _check(ranks, teams.size * ranks)
    step = max(AT_ONCE // ranks, 1)
    members = np.repeat(teams, ranks, axis=0).reshape(-1, ranks)  # for each member: its team
    for first in range(0, teams.size, step):
        some = members[first : first + step]
        source = np.repeat(teams.ravel()[first : first + step], ranks)
        target = some.ravel()
        apart = source != target
        total += sent(net, source[apart], target[apart], np.full(int(apart.sum()), each_bytes))
    return total


def _routed(net: Net, sources: list[Ints], targets: list[Ints], each_bytes: float) -> Floats:
    """Loads of flows of one size, each along its own route."""
    source, target = np.concatenate(sources), np.concatenate(targets)
    return _along(net, source, target, np.full(len(source), each_bytes))


def _check(ranks: int, flows: int) -> None:
    if flows > MOST_FLOWS * 2:
        raise NotModelled(
            f"an exchange of {ranks:,} ranks: {flows:,} flows whose routes differ; up to {2 * MOST_FLOWS:,} are "
            "followed"
        )


def _pairs_within(net: Net, network: Network, teams: Ints, each_bytes: float) -> Floats:
    """Loads of all pairs of an even exchange that one network carries, pair by pair."""
    total = np.zeros(len(net.found.capacity_bytes_per_s))
    fabric, levels = net.fabric, network.levels
    inner = fabric.levels[levels[0] - 1].ranks if levels[0] else 1
    outer = fabric.levels[levels[-1]].ranks
    code = np.sort(teams, axis=1)
    width = code.shape[1]
    sources: list[Ints] = []
    targets: list[Ints] = []
    kept = 0
    for shift in range(1, width):  # everyone with its neighbour so many places on
        source, target = code[:, : width - shift].ravel(), code[:, shift:].ravel()
        mine = (source // outer == target // outer) & (source // inner != target // inner)
        if not mine.any():
            if shift >= outer:
                break
            continue
        _check(width, min(width, outer) * code.size)
        sources += (source[mine], target[mine])
        targets += (target[mine], source[mine])
        kept += 2 * len(source)
        if kept >= AT_ONCE:  # a pass over all links for as many flows as memory takes well
            total += _routed(net, sources, targets, each_bytes)
            sources, targets, kept = [], [], 0
    if sources:
        total += _routed(net, sources, targets, each_bytes)
    return total
