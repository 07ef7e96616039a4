"""Meshes, tori and graphs as they are: places in the plane and the links between them, for whoever draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taicang.fabric.topology import Direct, Flags, Floats, Ints, Wired

MOST_LINKS = 3000
"""Of a picture; beyond, a place is a cell as busy as the fullest of its links."""
WIDE, LOW, ARC = 960.0, 110, 0.22
"""Of a picture in its own pixels, the height of a row of a graph, and how far a line that passes places is bent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Places and the links between them; a link is named by its places and as busy as its busier direction."""

    label: str
    tall: int
    """Pixels."""
    where: Floats
    """x and y of each place."""
    names: Sequence[str]
    ranks: Flags
    """Places that are ranks, or units of a mesh."""
    ends: Ints
    bend: Floats
    """How far the middle of each link is moved aside: across it, to the left of its way."""
    busy: Floats
    dead: Flags
    fullest: Floats
    """Of each place's links."""


def _shape(label: str, tall: int, where: Floats, names: Sequence[str], ranks: Flags, tail: Ints, head: Ints,
           busy: Floats, dead: Flags) -> Shape:  # fmt: skip
    ends, back = np.unique(np.sort(np.stack([tail, head], axis=1), axis=1), axis=0, return_inverse=True)
    full, broken, most = np.zeros(len(ends)), np.ones(len(ends), dtype=bool), np.zeros(len(where))
    np.maximum.at(full, back.ravel(), busy)
    np.logical_and.at(broken, back.ravel(), dead)
    np.maximum.at(most, ends.ravel(), np.repeat(full, 2))
    return Shape(label=label, tall=tall, where=where, names=names, ranks=ranks, ends=ends, bend=np.zeros(len(ends)),
                 busy=full, dead=broken, fullest=most)  # fmt: skip


def _circle(count: int) -> tuple[Floats, int]:
    """Places around a circle, and how tall it is."""
    turn = np.arange(count) / count * 2 * np.pi
    radius = 60 if count < 5 else 140 if count < 24 else 200
    tall = 2 * radius + 50
    return np.stack([WIDE / 2 + radius * np.sin(turn), tall / 2 - radius * np.cos(turn)], axis=1), tall


def direct(network: Direct, name: str, busy: Floats, dead: Flags) -> Shape:
    """A mesh or torus whose links are as ``busy``; of several, the one with the fullest link."""
    places, width = int(np.prod(network.dims)), sum(network.widths)
    copies = network.units // places
    load, lost = busy.reshape(copies, -1), dead.reshape(copies, -1)
    copy = int(np.argmax(load.max(axis=1) + lost.any(axis=1)))
    unit, stride, heads = np.arange(places)[:, None], 1, []
    for size, links in zip(network.dims, network.widths, strict=True):
        step = np.array([1, size - 1][:links]) if network.torus else np.arange(1, size)
        here = unit // stride % size
        heads.append(unit + ((here + step) % size - here) * stride)
        stride *= size
    where, tall = _circle(places) if len(network.dims) == 1 else _grid(network.dims)
    what = "torus" if network.torus else "full mesh"
    each = f"one of {copies:,}, with the fullest link" if copies > 1 else ""
    label = f"{name}: {'x'.join(map(str, network.dims))} {what}" + (f" ({each})" if each else "")
    found = _shape(
        label, tall, where, [f"unit {copy * places + index}" for index in range(places)], np.ones(places, dtype=bool),
        np.repeat(np.arange(places), width), np.concatenate(heads, axis=1).ravel(), load[copy], lost[copy],
    )  # fmt: skip
    if len(network.dims) > 1:
        _bent(found, _pitch(network.dims))
    return found


def _axes(dims: tuple[int, ...]) -> tuple[Ints, Ints]:
    """Column and row of each place: dimensions go across and down in turn, the later ones around the earlier."""
    places = np.arange(int(np.prod(dims)))
    axes, stride, step = [places * 0, places * 0], 1, [1, 1]
    for number, size in enumerate(dims):
        axes[number % 2] = axes[number % 2] + places // stride % size * step[number % 2]
        step[number % 2] *= size + (number < len(dims) - 2)
        stride *= size
    return axes[0], axes[1]


def _pitch(dims: tuple[int, ...]) -> float:
    return float(min(70.0, (WIDE - 60.0) / (int(_axes(dims)[0].max()) + 1)))


def _grid(dims: tuple[int, ...]) -> tuple[Floats, int]:
    column, row = _axes(dims)
    pitch = _pitch(dims)
    left = (WIDE - pitch * (int(column.max()) + 1)) / 2
    where = np.stack([left + (column + 0.5) * pitch, 30.0 + (row + 0.5) * pitch], axis=1)
    return where, round(60.0 + pitch * (int(row.max()) + 1))


def _bent(found: Shape, pitch: float) -> None:
    """Links that pass other places go around them."""
    reach = np.hypot(*(found.where[found.ends[:, 1]] - found.where[found.ends[:, 0]]).T)
    found.bend[:] = np.where(reach > 1.5 * pitch, ARC * reach, 0.0)


def graph(network: Wired, busy: Floats, dead: Flags) -> Shape:
    """Ranks below, other nodes above them by how far they are from a rank."""
    far = np.full(len(network.names), -1)
    far[network.node] = 0
    for step in range(1, len(far)):  # breadth first
        reached = np.unique(network.head[far[network.tail] == step - 1])
        reached = reached[far[reached] < 0]
        if not len(reached):
            break
        far[reached] = step
    depth = int(far.max())
    if depth:
        tall = 60 + LOW * (depth + 1 + bool((far[network.tail] == far[network.head]).any()))
        where: Floats = np.zeros((len(far), 2))
        for step in range(depth + 1):
            row = np.flatnonzero(far == step)
            where[row, 0] = 40 + (np.arange(len(row)) + 0.5) / len(row) * (WIDE - 80)
            where[row, 1] = tall - 100 - LOW * step
    else:  # ranks alone
        where, tall = _circle(len(far))
    found = _shape("links", tall, where, network.names, far == 0, network.tail, network.head, busy, dead)
    if depth:  # side by side: an arc, above the nodes between them
        level = far[found.ends[:, 0]] == far[found.ends[:, 1]]
        reach = found.where[found.ends[:, 1], 0] - found.where[found.ends[:, 0], 0]
        found.bend[:] = np.where(level, ARC * reach, 0.0)
    return found
