"""Routes: which links a message from one rank to another uses, as compressed rows.

``adaptive`` spreads packets over all links that are left, so that the parallel links of a port or unit act as one.
``striped`` deals them evenly over planes and adapts within each. ``ecmp`` picks one switch of the tier above by a hash
of the ends and a seed, per switch below; different flows may meet on a link. Dead links are routed around.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from taicang.errors import InvalidInput, NotModelled, UnknownName
from taicang.fabric import graph
from taicang.fabric.topology import Direct, Fabric, Floats, Ints, Stage, Switched, Wired

Routing: TypeAlias = Literal["adaptive", "striped", "ecmp"]
ROUTINGS = ("adaptive", "striped", "ecmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """``first[i]`` to ``first[i + 1]``: the resources of flow i and the share of its bytes that each carries."""

    first: Ints
    resource: Ints
    share: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Links as the routing sees them: groups that share what they have."""

    routing: Routing
    capacity_bytes_per_s: Floats
    group: Ints
    """Resource of each link."""
    level: Ints
    """Level that each resource belongs to."""
    base: tuple[tuple[tuple[int, int, int], ...], ...]
    """Per network and stage: first resource up, first down, resources of one thing below."""
    away: Ints | None = None
    """Of a graph: links between each two nodes on the shortest way that is left."""


def resources(fabric: Fabric, routing: Routing = "adaptive") -> Resources:
    """Group the links of ``fabric`` as ``routing`` uses them; ``UnknownName`` for another routing."""
    if routing not in ROUTINGS:
        raise UnknownName("routing", routing, ROUTINGS, where="--routing")
    group = np.empty(len(fabric.capacity_bytes_per_s), dtype=np.int64)
    bases: list[tuple[tuple[int, int, int], ...]] = []
    levels: list[Ints] = []
    count = 0

    def take(number: int, level: int) -> int:
        nonlocal count
        levels.append(np.full(number, level))
        count += number
        return count - number

    for network in fabric.networks:
        if isinstance(network, Wired):
            number = len(network.tail)
            base = take(number, network.levels[0])
            group[network.first : network.first + number] = base + np.arange(number)
            bases.append(((base, base, 1),))
            continue
        if isinstance(network, Direct):
            at = network.levels[0]
            if network.up >= 0:
                for first in (network.up, network.down):
                    base = take(fabric.ranks, at)
                    group[first : first + fabric.ranks] = base + np.arange(fabric.ranks)
            number = network.units * sum(network.widths)
            base = take(number, at)
            group[network.first : network.first + number] = base + np.arange(number)
            bases.append(((base, base, 1),))
            continue
        rows = []
        whole = bool((fabric.alive_ratio == 1.0).all())
        for depth, stage in enumerate(network.stages):
            inner = _groups(network, stage, depth, "adaptive" if whole and routing == "striped" else routing)
            each = int(inner.max()) + 1
            starts = []
            for first in (stage.up, stage.down):
                base = take(stage.things * each, stage.level)
                ids = base + np.arange(stage.things)[:, None] * each + inner[None, :]
                group[first : first + stage.things * stage.fan] = ids.ravel()
                starts.append(base)
            rows.append((starts[0], starts[1], each))
        bases.append(tuple(rows))
    return Resources(
        routing=routing,
        capacity_bytes_per_s=_sum(group, fabric.left_bytes_per_s(), count),
        group=group,
        level=np.concatenate(levels),
        base=tuple(bases),
        away=next((graph.away(each, fabric) for each in fabric.networks if isinstance(each, Wired)), None),
    )


def _sum(place: Ints, weight: Floats, count: int) -> Floats:
    found: Floats = np.bincount(place, weights=weight, minlength=count).astype(np.float64)
    return found


def _groups(network: Switched, stage: Stage, depth: int, routing: Routing) -> Ints:
    """Resource of each link of one thing below, counted from its first."""
    if routing == "ecmp" and depth:
        return np.arange(stage.fan)
    if routing == "striped" and network.planes > 1:
        return stage.plane
    return np.zeros(stage.fan, dtype=np.int64)


def meeting(fabric: Fabric, source: Ints, target: Ints) -> Ints:
    """Innermost level whose unit holds both ends."""
    found = np.full(len(source), len(fabric.levels), dtype=np.int64)
    for index in range(len(fabric.levels) - 1, -1, -1):
        ranks = fabric.levels[index].ranks
        found[source // ranks == target // ranks] = index
    return found


def route(fabric: Fabric, found: Resources, source: Ints, target: Ints, seed: int = 0) -> Paths:
    """Routes of all pairs. Raises ``InvalidInput`` for ranks outside the fabric and where no route is left."""
    ends = np.concatenate([source, target])
    if len(ends) and not 0 <= ends.min() <= ends.max() < fabric.ranks:
        wrong = int(ends.max() if ends.max() >= fabric.ranks else ends.min())
        raise InvalidInput(f"rank {wrong} is not in {fabric.machine}, which has {fabric.ranks:,}")
    met = meeting(fabric, source, target)
    parts: list[tuple[Ints, Ints, Floats]] = []
    for index, network in enumerate(fabric.networks):
        mine = np.flatnonzero(np.isin(met, network.levels) & (source != target))
        if not len(mine):
            continue
        ends_of = (source[mine], target[mine])
        if isinstance(network, Wired):
            assert found.away is not None
            capacity = found.capacity_bytes_per_s[found.base[index][0][0] :]
            hashed = seed if found.routing == "ecmp" else None
            parts += graph.routes(network, found.away, capacity, mine, *ends_of, hashed)
        elif isinstance(network, Direct):
            parts += _direct(found, network, index, mine, *ends_of)
        else:
            parts += _switched(fabric, found, network, index, mine, *ends_of, seed)
    return _rows(parts, len(source), found)


def _rows(parts: list[tuple[Ints, Ints, Floats]], flows: int, found: Resources) -> Paths:
    if not parts:
        return Paths(first=np.zeros(flows + 1, dtype=np.int64), resource=np.zeros(0, dtype=np.int64), share=np.zeros(0))
    flow = np.concatenate([np.broadcast_to(f[:, None], r.shape).ravel() for f, r, _ in parts])
    resource = np.concatenate([r.ravel() for _, r, _ in parts])
    share = np.concatenate([np.broadcast_to(s, r.shape).ravel() for _, r, s in parts])
    kept = (resource >= 0) & (share > 0)
    if not kept.all():
        flow, resource, share = flow[kept], resource[kept], share[kept]
    if len(parts) > 1:
        order = np.argsort(flow, kind="stable")
        flow, resource, share = flow[order], resource[order], share[order]
    if (found.capacity_bytes_per_s[resource] <= 0).any():
        raise InvalidInput(
            "no route is left between some of the ranks: too much of the fabric has failed", where="--fail"
        )
    first = np.concatenate([[0], np.cumsum(np.bincount(flow, minlength=flows))])
    return Paths(first=first, resource=resource, share=share)


def _switched(
    fabric: Fabric, found: Resources, network: Switched, index: int, flow: Ints, source: Ints, target: Ints, seed: int
) -> list[tuple[Ints, Ints, Floats]]:
    """Up to the first stage that holds both ports, and down again."""
    ports = network.port[source], network.port[target]
    parts: list[tuple[Ints, Ints, Floats]] = []
    left = np.arange(len(flow))
    things = [ports]
    for depth, stage in enumerate(network.stages):
        a, b = (each[left] for each in things[depth])
        here = stage.unit[a] == stage.unit[b]
        if here.any():
            rows = left[here]
            ends = [(x[rows], y[rows]) for x, y in things]
            parts += _climb(fabric, found, network, index, depth, flow[rows], ends, seed)
        left = left[~here]
        if not len(left):
            break
        x, y = things[depth]
        things.append((stage.unit[x], stage.unit[y]))
    return parts


def _climb(
    fabric: Fabric,
    found: Resources,
    network: Switched,
    index: int,
    top: int,
    flow: Ints,
    ends: list[tuple[Ints, Ints]],
    seed: int,
) -> list[tuple[Ints, Ints, Floats]]:
    """Routes of pairs that meet at stage ``top``."""
    columns: list[Ints] = []
    hashed = found.routing == "ecmp" and top >= 1
    if hashed and top > 1:
        raise NotModelled("ecmp over three tiers of switches; use --routing adaptive or striped")
    for depth in range(top + 1):
        up, down, each = found.base[index][depth]
        if hashed and depth:
            continue
        for base, thing in ((up, ends[depth][0]), (down, ends[depth][1])):
            columns.append(base + thing[:, None] * each + np.arange(each)[None, :])
    share: Floats = np.ones((len(flow), 1))
    each = columns[0].shape[1]
    if each > 1:  # planes: those alive at both ends share what there is
        alive = np.ones((len(flow), each), dtype=bool)
        for column in columns:
            alive &= found.capacity_bytes_per_s[column] > 0
        share = alive / np.maximum(alive.sum(axis=1, keepdims=True), 1)
        if not alive.any(axis=1).all():
            raise InvalidInput("no plane is left between some of the ranks", where="--fail")
    parts = [(flow, column, share) for column in columns]
    if hashed:
        up, down, each = found.base[index][1]
        picked = _hashed(fabric, network.stages[1], ends[1], ends[0], seed)
        share = np.full((len(flow), 1), 1.0 / picked.shape[1])
        parts += [
            (flow, base + thing[:, None] * each + picked, share)
            for base, thing in ((up, ends[1][0]), (down, ends[1][1]))
        ]
    return parts


def _hashed(fabric: Fabric, stage: Stage, units: tuple[Ints, Ints], ports: tuple[Ints, Ints], seed: int) -> Ints:
    """Of every switch below, the link that a hash of the ends picks among those alive at both ends."""
    lower = int(stage.below.max()) + 1
    wide = stage.fan // lower
    first = np.arange(lower)[None, :] * wide
    drawn = graph.mixed(ports[0][:, None], ports[1][:, None], np.arange(lower)[None, :], seed)
    alive = fabric.alive_ratio
    reach = stage.things * stage.fan
    if (alive[stage.up : stage.up + reach] > 0).all() and (alive[stage.down : stage.down + reach] > 0).all():
        plain: Ints = first + drawn % wide
        return plain
    choice = first[:, :, None] + np.arange(wide)[None, None, :]
    usable = (alive[stage.up + units[0][:, None, None] * stage.fan + choice] > 0) & (
        alive[stage.down + units[1][:, None, None] * stage.fan + choice] > 0
    )
    count = usable.sum(axis=2)
    if not count.all():
        raise InvalidInput("no route is left between some of the ranks", where="--fail")
    wanted = drawn % count
    place = np.argmax(np.cumsum(usable, axis=2) > wanted[:, :, None], axis=2)
    picked: Ints = first + place
    return picked


def _direct(
    found: Resources, network: Direct, index: int, flow: Ints, source: Ints, target: Ints
) -> list[tuple[Ints, Ints, Floats]]:
    """One dimension after the other; a dead link of a plain mesh is replaced by all detours of two hops."""
    base = found.base[index][0][0]
    a, b = source // network.ranks, target // network.ranks
    one = np.ones((len(flow), 1))
    parts: list[tuple[Ints, Ints, Floats]] = []
    if network.up >= 0:
        parts += [
            (flow, found.group[network.up + source][:, None], one),
            (flow, found.group[network.down + target][:, None], one),
        ]
    width, offset, stride = sum(network.widths), 0, 1
    units = int(np.prod(network.dims))
    here = a % units
    home = a - here
    for size, links in zip(network.dims, network.widths, strict=True):
        x, y = here // stride % size, b % units // stride % size
        step = (y - x) % size
        if not network.torus:
            link = base + (home + here) * width + offset + (step - 1) % size
            parts += _around(found, network, flow, home + here, step, base + offset, link)
        else:
            parts += _around_the_ring(flow, home, here, stride, size, links, step, base + offset, width)
        here = here + (y - x) * stride
        stride *= size
        offset += links
    return parts


def _around(
    found: Resources, network: Direct, flow: Ints, unit: Ints, step: Ints, base: int, link: Ints
) -> list[tuple[Ints, Ints, Floats]]:
    moved = step > 0
    dead = moved & (found.capacity_bytes_per_s[np.where(moved, link, 0)] <= 0)
    parts: list[tuple[Ints, Ints, Floats]] = [
        (flow, np.where(moved & ~dead, link, -1)[:, None], np.ones((len(flow), 1)))
    ]
    if dead.any():
        if len(network.dims) > 1:
            raise NotModelled("a dead link in a mesh of several dimensions")
        size, width = network.dims[0], network.widths[0]
        rows = np.flatnonzero(dead)
        via = np.arange(1, size)[None, :]
        first = base + unit[rows][:, None] * width + via - 1
        start = unit[rows] % size
        middle = unit[rows][:, None] - start[:, None] + (start[:, None] + via) % size
        rest = (step[rows][:, None] - via) % size
        second = base + middle * width + (rest - 1) % size
        capacity = found.capacity_bytes_per_s
        open_ = (rest > 0) & (capacity[first] > 0) & (capacity[np.where(rest > 0, second, first)] > 0)
        if not open_.any(axis=1).all():
            raise InvalidInput("no route is left between some of the ranks", where="--fail")
        share = open_ / open_.sum(axis=1, keepdims=True)
        parts += [(flow[rows], np.where(open_, first, -1), share), (flow[rows], np.where(open_, second, -1), share)]
    return parts


def _around_the_ring(
    flow: Ints, home: Ints, here: Ints, stride: int, size: int, links: int, step: Ints, base: int, width: int
) -> list[tuple[Ints, Ints, Floats]]:
    """Hops along one dimension of a torus, the shorter way; halfway round, both ways in equal parts."""
    parts: list[tuple[Ints, Ints, Floats]] = []
    half = 2 * step == size
    for backwards in range(links):
        length = (size - step) % size if backwards else step
        share = np.where(length == 0, 0.0, np.where(2 * length < size, 1.0, np.where(half & (links > 1), 0.5, 0.0)))
        if links == 1:
            share = (step > 0) * 1.0
        columns: list[Ints] = []
        for hop in range(size // 2 if size > 2 else 1):
            on = (hop < length) & (share > 0)
            at = here // stride % size
            place = (at - hop if backwards else at + hop) % size
            unit = home + here + (place - at) * stride
            columns.append(np.where(on, base + unit * width + backwards, -1))
        parts.append((flow, np.stack(columns, axis=1), share[:, None]))
    return parts
