"""Any graph of ranks and switches as a fabric: routes that suit all its messages, or the shortest, spread or hashed."""

from __future__ import annotations

import numpy as np

from taicang.errors import InvalidInput
from taicang.fabric.balance import MOST_ROWS, balanced
from taicang.fabric.topology import Fabric, Floats, Ints, Wired
from taicang.hardware import Level
from taicang.interop.graphs import Graph

NEVER = np.iinfo(np.int32).max // 4
"""Links on the way to a node that cannot be reached."""
SUITED = "adaptive routes keep the fullest link least busy; striped and ecmp take the shortest by number of links"
SHORTEST = f"messages take the shortest routes by number of links: links and ranks are more than {MOST_ROWS}"


def build(found: Graph) -> Fabric:
    """The links of ``found``, each way by itself. Raises ``InvalidInput`` where ranks do not reach each other."""
    tail, head = (np.array([each[k] for each in found.links], dtype=np.int64) for k in range(2))
    order = np.argsort(tail, kind="stable")
    rate = np.array(found.bandwidth_bytes_per_s)[order]
    network = Wired(levels=(0,), names=found.nodes, node=np.array(found.ranks), through=np.array(found.through),
                    tail=tail[order], head=head[order], first=0)  # fmt: skip
    ports = np.bincount(network.tail, weights=rate, minlength=len(found.nodes))[network.node]
    wait = _latest(network, np.array(found.latency_s)[order], found)
    large = len(tail) + len(network.node) > MOST_ROWS
    level = Level(name="graph", ranks=len(network.node), bandwidth_bytes_per_s=float(ports.min()), latency_s=wait,
                  topology="clos")  # fmt: skip
    return Fabric(
        name="graph", machine=found.name, ranks=len(network.node), node_ranks=1, levels=(level,), networks=(network,),
        capacity_bytes_per_s=rate, alive_ratio=np.ones(len(rate)),
        notes=("messages wait as long as between the farthest ranks", SHORTEST if large else SUITED),
    )  # fmt: skip


def _latest(network: Wired, wait_s: Floats, found: Graph) -> float:
    """Latency of the farthest pair of ranks, over its shortest route by links and then by latency."""
    nodes = len(network.names)
    hops = _hops(network, np.ones(len(wait_s), dtype=bool))
    cut = np.argwhere(hops[np.ix_(network.node, network.node)] >= NEVER)
    if len(cut):
        a, b = (found.nodes[network.node[k]] for k in cut[0])
        raise InvalidInput(f"the graph is not connected: no way leads from {a} to {b}", where=found.name)
    late = np.full((nodes, nodes), np.inf)
    np.fill_diagonal(late, 0.0)
    for far in range(1, int(hops[hops < NEVER].max(initial=0)) + 1):
        for link in range(len(wait_s)):
            a, b = network.tail[link], network.head[link]
            reach = (hops[a] == far) & (hops[b] == far - 1)
            late[a, reach] = np.minimum(late[a, reach], wait_s[link] + late[b, reach])
    ends = late[np.ix_(network.node, network.node)]
    staged = np.flatnonzero(network.through >= 0)
    if len(staged):
        via = network.through[staged]
        ends[staged] = late[network.node[staged], via][:, None] + late[np.ix_(via, network.node)]
    return float(ends.max())


def _hops(network: Wired, alive: np.typing.NDArray[np.bool_]) -> Ints:
    """Links from each node (row) to each, breadth first from all at once."""
    nodes = len(network.names)
    joined = np.zeros((nodes, nodes), dtype=np.float32)
    joined[network.tail[alive], network.head[alive]] = 1.0
    found = np.full((nodes, nodes), NEVER, dtype=np.int32)
    np.fill_diagonal(found, 0)
    front = np.eye(nodes, dtype=np.float32)
    far = 0
    while front.any():
        far += 1
        front = ((front @ joined > 0) & (found == NEVER)).astype(np.float32)
        found[front > 0] = far
    return found


def away(network: Wired, fabric: Fabric) -> Ints:
    """Links between each two nodes on the shortest way over links that are left."""
    return _hops(network, fabric.alive_ratio[network.first : network.first + len(network.tail)] > 0)


def suited(
    network: Wired, hops: Ints, capacity_bytes_per_s: Floats, source: Ints, target: Ints, size_bytes: Floats
) -> Floats | None:
    """Bytes on each link of all flows over routes that leave the fullest least busy; None where the graph is large."""
    start, end = _legs(network, source, target)
    size = np.tile(size_bytes, len(start) // max(len(size_bytes), 1))
    moved = (start != end) & (size > 0)
    nodes, alive = len(network.names), np.flatnonzero(capacity_bytes_per_s[: len(network.tail)] > 0)
    pair, inverse = np.unique(start[moved] * nodes + end[moved], return_inverse=True)
    if len(alive) + len(np.unique(pair % nodes)) > MOST_ROWS:
        return None
    demand = np.zeros((nodes, nodes))
    demand.flat[pair] = np.bincount(inverse, weights=size[moved], minlength=len(pair))
    ways = np.zeros((nodes, len(network.tail)))
    for flow, link, part in _walk(network, hops, capacity_bytes_per_s, pair, pair // nodes, pair % nodes, None):
        np.add.at(ways, (flow % nodes, link[:, 0]), demand.flat[flow] * part[:, 0])
    found = np.zeros(len(capacity_bytes_per_s))
    if len(pair):
        rate = capacity_bytes_per_s[alive]
        found[alive] = balanced(network.tail[alive], network.head[alive], rate, demand, ways[:, alive])
    return found


def _legs(network: Wired, source: Ints, target: Ints) -> tuple[Ints, Ints]:
    """Nodes where all flows start and end, and again for those that pass another on their way."""
    start, end, via = network.node[source], network.node[target], network.through[source]
    via = np.where(via >= 0, via, end)
    return np.concatenate([start, via]), np.concatenate([via, end])


def routes(
    network: Wired, hops: Ints, capacity_bytes_per_s: Floats, flow: Ints, source: Ints, target: Ints, seed: int | None
) -> list[tuple[Ints, Ints, Floats]]:
    """Links of all flows hop by hop: shares by what the next links have, or one of them by a hash with ``seed``."""
    start, end = _legs(network, source, target)
    return [
        part
        for leg in np.split(np.arange(len(start)), 2)
        for part in _walk(network, hops, capacity_bytes_per_s, flow, start[leg], end[leg], seed)
    ]


def _walk(
    network: Wired, hops: Ints, capacity_bytes_per_s: Floats, flow: Ints, at: Ints, end: Ints, seed: int | None
) -> list[tuple[Ints, Ints, Floats]]:
    fan = np.bincount(network.tail, minlength=len(network.names))
    first = np.cumsum(fan) - fan
    share: Floats = np.ones(len(flow))
    origin = at
    parts: list[tuple[Ints, Ints, Floats]] = []
    while True:
        on = at != end
        flow, at, end, share, origin = flow[on], at[on], end[on], share[on], origin[on]
        if not len(flow):
            return parts
        if (hops[at, end] >= NEVER).any():
            raise InvalidInput("no route is left between some of the ranks: too much has failed", where="--fail")
        row = np.repeat(np.arange(len(flow)), fan[at])
        link = first[at][row] + np.arange(len(row)) - (np.cumsum(fan[at]) - fan[at])[row]
        near = (hops[network.head[link], end[row]] == hops[at, end][row] - 1) & (capacity_bytes_per_s[link] > 0)
        row, link = row[near], link[near]
        weight = capacity_bytes_per_s[link]
        if seed is not None:
            drawn = mixed(origin[row], end[row] * len(network.names) + at[row], link, seed)
            best = np.full(len(flow), -1, dtype=np.int64)
            np.maximum.at(best, row, drawn)
            weight = (drawn == best[row]).astype(np.float64)
        part = share[row] * weight / np.bincount(row, weights=weight, minlength=len(flow))[row]
        used = part > 0
        row, link, part = row[used], link[used], part[used]
        parts.append((flow[row], link[:, None], part[:, None]))
        # what arrives at one node on several ways goes on together
        code = flow[row] * len(network.names) + network.head[link]
        _, index, inverse = np.unique(code, return_index=True, return_inverse=True)
        share = np.bincount(inverse, weights=part).astype(np.float64)
        kept = row[index]
        flow, at, end, origin = flow[kept], network.head[link[index]], end[kept], origin[kept]


def mixed(a: Ints, b: Ints, c: Ints, seed: int) -> Ints:
    """A hash of three numbers and a seed (splitmix64's finaliser), as a non-negative number."""
    with np.errstate(over="ignore"):
        word = a.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + b.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
        word = (
            word + c.astype(np.uint64) * np.uint64(0x165667B19E3779F9) + np.uint64((seed * 0xD6E8FEB86659FD93) % 2**64)
        )
        word ^= word >> np.uint64(30)
        word *= np.uint64(0xBF58476D1CE4E5B9)
        word ^= word >> np.uint64(27)
        word *= np.uint64(0x94D049BB133111EB)
        word ^= word >> np.uint64(31)
    found: Ints = (word >> np.uint64(1)).astype(np.int64)
    return found
