"""Routes over a graph that keep its fullest link as empty as can be: what an adaptive network tends to.

A linear program, by columns (Dantzig and Wolfe, 1960): each is a way to take everything that is meant for one node
there, and links priced by the program's dual say which shortest ways to add. Links only add ways, so that none of them
ever slows what is sent.
"""

from __future__ import annotations

import numpy as np

from taicang.fabric.topology import Floats, Ints

MOST_ROWS = 1000
"""Links and receivers; routes over larger graphs are the shortest."""
ROUNDS = 200
NEAR = 1e-7
FEW_ROWS, FAR = 100, 1e-5
"""How near is near enough on a graph of more."""


def balanced(tail: Ints, head: Ints, capacity: Floats, demand: Floats, ways: Floats) -> Floats:
    """Bytes on each link, of the ways that leave the fullest link the least busy.

    ``demand`` holds the bytes from each node (row) to each; ``ways`` one way to take those of each node there: bytes
    on each link (column).
    """
    wanted = np.flatnonzero(demand.any(axis=0))
    owner, columns = np.arange(len(wanted)), (ways[wanted] / capacity).T
    best = columns.sum(axis=1)
    near = NEAR if len(tail) + len(wanted) <= FEW_ROWS else FAR
    full = best >= best.max() * (1.0 - near)
    price = full / full.sum()  # where what is alike fills alike, this is the program's dual already
    for _ in range(ROUNDS):
        far, after = _shortest(tail, head, price / capacity, len(demand))
        least = (demand * far)[:, wanted].sum(axis=0)
        if best.max() <= least.sum() * (1.0 + near):
            break
        spent = np.full(len(wanted), np.inf)
        np.minimum.at(spent, owner, price @ columns)
        fresh = np.flatnonzero(least < spent * (1.0 - near))
        if not len(fresh):
            break
        taken = [_taken(head, after[:, wanted[at]], far[:, wanted[at]], demand[:, wanted[at]]) for at in fresh]
        owner = np.concatenate([owner, fresh])
        columns = np.concatenate([columns, (np.array(taken) / capacity).T], axis=1)
        share, price = _master(columns, owner, len(wanted), near)
        found = columns @ share
        best = found if found.max() < best.max() else best
    loads: Floats = best * capacity
    return loads


def _shortest(tail: Ints, head: Ints, length: Floats, nodes: int) -> tuple[Floats, Ints]:
    """Length of the shortest way from each node (row) to each, and its first link."""
    far = np.full((nodes, nodes), np.inf)
    np.fill_diagonal(far, 0.0)
    length = length + 1e-12 * length.max()  # no circles of links that cost nothing
    after = np.full((nodes, nodes), -1)
    starts = np.searchsorted(tail, np.arange(nodes))
    while True:
        ahead = length[:, None] + far[head]
        shorter = far.copy()
        np.minimum.at(shorter, tail, ahead)
        if np.array_equal(shorter, far):
            break
        far = shorter
    for node in range(nodes):
        mine = ahead[starts[node] : np.searchsorted(tail, node, side="right")]
        if len(mine):
            after[node] = starts[node] + mine.argmin(axis=0)
    return np.where(np.isfinite(far), far, 0.0), after


def _taken(head: Ints, after: Ints, far: Floats, bytes_from: Floats) -> Floats:
    """Bytes on each link when all goes the shortest way to one node."""
    here = bytes_from.copy()
    load = np.zeros(len(head))
    for node in np.argsort(-far):
        if here[node] > 0.0 and far[node] > 0.0:
            load[after[node]] += here[node]
            here[head[after[node]]] += here[node]
    return load


def _master(columns: Floats, owner: Ints, receivers: int, near: float) -> tuple[Floats, Floats]:
    """Shares of the columns that keep the fullest link least busy, and the price of each link.

    A primal-dual method of the interior (Mehrotra, 1992): minimise z with columns @ share + slack = z for each link,
    and the shares of a receiver one together.
    """
    links, ways = columns.shape
    scale = columns.max()
    rows = np.zeros((links + receivers, ways + 1 + links))
    rows[:links, :ways], rows[:links, ways], rows[:links, ways + 1 :] = columns / scale, -1.0, np.eye(links)
    rows[links + owner, np.arange(ways)] = 1.0
    right = np.concatenate([np.zeros(links), np.ones(receivers)])
    cost = np.zeros(rows.shape[1])
    cost[ways] = 1.0
    x = np.ones(rows.shape[1])
    x[:ways] = 1.0 / np.bincount(owner)[owner]
    x[ways] = 2.0 * (rows[:links, :ways] @ x[:ways]).max()
    x[ways + 1 :] = x[ways] - rows[:links, :ways] @ x[:ways]
    price = np.zeros(len(right))
    price[:links] = -1.0 / (links + 1.0)
    price[links:] = -np.ones(receivers) * 2.0
    left = cost - rows.T @ price
    for _ in range(100):
        gap = x @ left / len(x)
        missing, off = right - rows @ x, cost - rows.T @ price - left
        if gap * len(x) < near * x[ways] and np.abs(missing).max() < near:
            break
        weight = x / np.maximum(left, 1e-200)
        normal = (rows * weight) @ rows.T
        scaled = 1.0 / np.sqrt(normal.diagonal())
        normal *= scaled * scaled[:, None]
        # near the end some rows are almost in line with others
        inverse = np.linalg.inv(normal) if gap > 1e-5 else np.linalg.pinv(normal, rcond=1e-15, hermitian=True)
        inverse *= scaled * scaled[:, None]

        def step(target: Floats) -> tuple[Floats, Floats, Floats]:
            dy = inverse @ (missing + rows @ (weight * off - target / left))  # noqa: B023
            ds = off - rows.T @ dy  # noqa: B023
            return target / left - weight * ds, dy, ds  # noqa: B023

        dx, dy, ds = step(-x * left)
        reach, back = _room(x, dx), _room(left, ds)
        centre = ((x + reach * dx) @ (left + back * ds) / len(x) / gap) ** 3 * gap
        dx, dy, ds = step(centre - x * left - dx * ds)
        reach, back = 0.9995 * _room(x, dx), 0.9995 * _room(left, ds)
        x, price, left = x + reach * dx, price + back * dy, left + back * ds
    share = np.maximum(x[:ways], 0.0)
    return share / np.bincount(owner, weights=share)[owner], np.maximum(-price[:links], 0.0)


def _room(at: Floats, towards: Floats) -> float:
    """How far ``at`` can go without a part of it below nothing, at most all the way."""
    down = towards < 0
    return min(1.0, float((at[down] / -towards[down]).min(initial=np.inf)))
