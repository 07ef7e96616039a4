"""What no collective library can beat: the bytes that must cross each tier, at its bandwidth, with zero latency.

Tiers are counted from the innermost out. Of a group of ``n`` ranks, ``c[l]`` lie in one unit of tier l. Counting
arguments (Chan et al., "Collective communication: theory, practice, and experience", 2007), applied per rank and per
unit: a rank must take in B (n-1)/n for an all-gather, and a unit of c ranks B (n-c)/n, over c ranks' ports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from taicang.hardware import chained
from taicang.ops import Collective

if TYPE_CHECKING:
    from taicang.hardware import Level, Machine
    from taicang.units import Count, Num


def members(levels: tuple[Level, ...], ranks: Count, stride: Count) -> list[Num]:
    """Ranks of the group in one unit of each tier, plus a leading 1 (the rank itself); the last tier holds them all."""
    group: Num = ranks * 1.0
    held: list[Num] = [group * 0.0 + 1.0]
    for level in levels[:-1]:
        held.append(np.maximum(1.0, np.minimum(group, level.ranks / stride)))
    held.append(group)
    return held


def usable_bytes_per_s(level: Level, units: int, joined: Num) -> Num:
    """One rank's bandwidth when ``joined`` of a tier's ``units`` units talk: a mesh has a link per pair of units."""
    if level.topology != "mesh" or units <= 2:
        return level.bandwidth_bytes_per_s
    links = np.maximum(1.0, np.minimum(joined - 1.0, units - 1.0))
    return level.bandwidth_bytes_per_s * (links / (units - 1.0))


def pair_bytes_per_s(level: Level, inner_ranks: int) -> float:
    """What one rank can send to one other: on a mesh its link to that one, of those to all partners."""
    if level.topology != "mesh":
        return level.bandwidth_bytes_per_s
    links = sum(size - 1 for size in level.dims) if level.dims else level.ranks // inner_ranks - 1
    return level.bandwidth_bytes_per_s / max(links, 1)


def _extents(level: Level, op: Collective, unit: int) -> list[Num]:
    """How far the group of ``op`` extends in each dimension of a level of units of ``unit`` ranks."""
    found: list[Num] = []
    below = 1.0
    for size in level.dims:
        span = np.minimum(op.ranks * op.stride / unit, below * size)
        found.append(np.clip(span / np.maximum(op.stride / unit, below), 1.0, size))
        below *= size
    return found


def mesh_ratio(level: Level, op: Collective, unit: int) -> Num:
    """Share of the links to all partners (``usable_bytes_per_s``) that an all-to-all can use on a mesh of several
    dimensions, each a full mesh.

    One place of dimension d against the others: each of its ranks sends payload x (1 - 1/d) by d - 1 of its links, of
    which it has sum(d - 1) in all. The shortest dimension binds.
    """
    extents = _extents(level, op, unit)
    joined: Num = 1.0
    shortest: Num = np.inf
    for extent in extents:
        joined, shortest = joined * extent, np.minimum(shortest, np.where(extent > 1.0, extent, np.inf))
    links = sum(size - 1.0 for size in level.dims)
    return np.minimum(1.0, np.minimum(shortest, joined) * (np.prod(level.dims) - 1.0) / (joined * links))


def torus_ratio(level: Level, op: Collective, unit: int) -> Num:
    """Share of a rank's bandwidth that ``op`` can use on a torus of units of ``unit`` ranks.

    Links of dimensions in which the group does not extend stand idle. In an all-to-all half of what the halves of its
    longest dimension e send crosses the two cuts between them: payload x e / 4 through one rank's links of it.
    """
    count = len(level.dims)
    used: Num = 0.0
    longest: Num = 1.0
    joined: Num = 1.0
    for extent in _extents(level, op, unit):
        used, longest, joined = used + (extent > 1.0), np.maximum(longest, extent), joined * extent
    share = np.maximum(used, 1.0) / count
    if op.kind != "all_to_all":
        return share
    halves = np.floor(longest / 2.0) * np.ceil(longest / 2.0) / longest**2
    sent = (joined - 1.0) / joined
    return np.minimum(share, sent / np.maximum(halves * longest * count, 1e-9))


def joins(ranks: Num, inner: Num) -> Num:
    """Units of ``inner`` ranks that ``ranks`` of a group lie in, the last of which may not be full."""
    return np.ceil(ranks / inner - 1e-9)


def rest_ratio(op: Collective, inner: Num, outer: Num) -> Num:
    """Share of its adapters' (or a package's ports') bandwidth that a group can use whose units do not all hold
    ``inner`` ranks: the last one may hold fewer, and some do where its stride does not divide a unit.

    What such a unit takes in, and sends, passes the ports of the few ranks there, its ``rest``. An all-to-all sends
    (ranks - rest) / ranks of a rank's buffer out of there, not (ranks - inner) / ranks.
    """
    ranks = op.ranks * 1.0
    rest = ranks - inner * np.floor(ranks / inner + 1e-9)
    rest = np.where(np.abs(inner - np.round(inner)) > 1e-9, np.floor(inner), np.where(rest < 0.5, inner, rest))
    rest = np.where(outer > inner, rest, inner)
    if op.kind == "all_to_all":
        return ((ranks - inner) / np.maximum(ranks - rest, 1e-9) * (outer > inner) + (outer <= inner))[()]
    return (rest / inner)[()]


def rows_of(op: Collective, levels: tuple[Level, ...]) -> list[tuple[Level, Num, Num, Num]]:
    """``tiers`` that the ranks of ``op`` join."""
    found: list[tuple[Level, Num, Num, Num]] = []
    unit = 1
    for level, inner, outer, bandwidth in tiers(levels, members(levels, op.ranks, op.stride)):
        part: Num = 1.0
        if level.topology == "torus" and level.dims:
            part = torus_ratio(level, op, unit)
        elif level.topology == "mesh" and len(level.dims) > 1 and op.kind == "all_to_all":
            part = mesh_ratio(level, op, unit)
        if level.topology == "mesh" and op.kind != "all_to_all":  # few in the last unit have few links of their own
            rest = joins(op.ranks - outer * np.floor(op.ranks / outer + 1e-9), inner)
            part = (
                part
                * np.where((rest > 1.5) & (rest < outer / inner), (rest - 1.0) / (outer / inner - 1.0 + 1e-30), 1.0)[()]
            )
        below = found[-1][0] if found else level
        if level.topology in ("switch", "clos") and (
            below.topology in ("mesh", "torus") or below.behind_adapters != level.behind_adapters
        ):  # through ports that only what leaves the unit uses
            part = part * rest_ratio(op, inner, outer)
        found.append((level, inner, outer, bandwidth * part))
        unit = level.ranks
    return found


def tiers(levels: tuple[Level, ...], held: list[Num]) -> list[tuple[Level, Num, Num, Num]]:
    """Per tier: the level, ranks per inner unit, ranks per unit and usable bandwidth of one rank."""
    rows = []
    inner_ranks = 1
    for level, inner, outer in zip(levels, held, held[1:], strict=False):
        bandwidth = usable_bytes_per_s(level, max(1, level.ranks // inner_ranks), outer / inner)
        rows.append((level, inner, outer, bandwidth))
        inner_ranks = level.ranks
    return rows


def sent_ratio(op: Collective, rows: list[tuple[Level, Num, Num, Num]]) -> Num:
    """Share of the payload that each rank must put on its links; a switch that reduces saves the second pass."""
    ranks = rows[-1][2]
    share = (ranks - 1.0) / ranks
    if op.kind != "all_reduce":
        return share
    return np.minimum(2.0 * share, 1.0) if any(row[0].reduces for row in rows) else 2.0 * share


def met_ratios(kind: str, rows: list[tuple[Level, Num, Num, Num]]) -> list[Num]:
    """Of what a rank sends, the share that meets its receiver at each of the rows of ``tiers``; they sum to one.

    In an exchange receivers are all others alike. A ring visits one unit after the other, so that of the ranks of a
    unit one has its next in another.
    """
    ranks = np.maximum(rows[-1][2], 2.0)
    found: list[Num] = []
    for at, (_, inner, outer, _) in enumerate(rows):
        if kind == "all_to_all":
            found.append((outer - inner) / (ranks - 1.0))
            continue
        leaving = 0.0 if at + 1 == len(rows) else (outer < rows[-1][2]) / outer
        found.append(((outer > inner) * 1.0) * (1.0 / inner - leaving))
    return found


def reaches(rows: list[tuple[Level, Num, Num, Num]], dies: int) -> list[Num]:
    """Members that the ports of each of the rows of ``tiers`` lead to, through it and the tiers built on it."""
    found: list[Num] = []
    for last in range(len(rows) - 1, -1, -1):
        further = last + 1 < len(rows) and chained(rows[last][0], rows[last + 1][0], dies)
        found.append(found[-1] if further else rows[last][2])
    return found[::-1]


def bound_over(op: Collective, rows: list[tuple[Level, Num, Num, Num]], dies: int) -> Num:
    """``lower_bound_s`` over the rows of ``tiers``."""
    ranks = rows[-1][2]
    payload = op.payload_bytes
    exits = _exits(rows, dies)
    worst: Num = payload * sent_ratio(op, rows) / np.maximum(exits[0], 1.0)
    for (level, inner, outer, bandwidth), reach, left in zip(rows, reaches(rows, dies), exits, strict=True):
        crossed = (outer > inner) * 1.0
        units = joins(ranks, inner)
        if op.kind == "all_to_all":
            worst = np.maximum(worst, crossed * payload * (reach - inner) / ranks / bandwidth)
            continue
        moved = (units - 1.0) / units / inner
        if op.kind == "all_reduce":
            moved = np.minimum(2.0 * moved, 1.0 / inner) if level.reduces else 2.0 * moved
        if level is not rows[0][0]:  # of the innermost, a switch that adds anywhere saves the second pass: see above
            worst = np.maximum(worst, crossed * payload * moved / np.maximum(left, 1.0))
    return worst * (ranks > 1.0)


def _exits(rows: list[tuple[Level, Num, Num, Num]], dies: int) -> list[Num]:
    """One rank's bandwidth out of a unit of each tier: ports of its own, and of all that do not build on these."""
    found: list[Num] = []
    ports: Num = 0.0
    beyond: Num = 0.0
    for at in range(len(rows) - 1, -1, -1):
        level, inner, outer, bandwidth = rows[at]
        if at + 1 < len(rows) and not chained(level, rows[at + 1][0], dies):
            ports, beyond = 0.0, found[-1]
        ports = np.maximum(ports, bandwidth * (outer > inner))
        found.append(ports + beyond)
    return found[::-1]


def lower_bound_s(op: Collective, machine: Machine) -> Num:
    """Seconds that the wires alone need: injection, ejection and capacity of each tier that the group crosses.

    Ports of tiers that do not build on each other may feed a rank at once, so their bandwidths add. What an exchange
    sends out of a unit crosses each tier from there outward as far as these build on each other: what adapters carry
    leaves by them. Where switches reduce, an all-reduce sends and takes in its buffer once. Float or array like the
    operator's fields; ``NotModelled`` if the machine lacks the plane.
    """
    levels = machine.plane(op.plane).levels
    return bound_over(op, rows_of(op, levels), machine.chip.dies)
