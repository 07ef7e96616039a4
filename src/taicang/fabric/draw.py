"""A fabric and its load as a picture: a row of cells per tier, one cell per port; meshes, tori and graphs as such."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np

from taicang.fabric.even import Net
from taicang.fabric.names import name
from taicang.fabric.shapes import MOST_LINKS, Shape, direct, graph
from taicang.fabric.topology import Direct, Flags, Floats, Stage, Wired

WIDTH, ROW, LEFT, TOP = 960, 74, 236, 60
MOST_CELLS = 512
"""In a row; beyond, neighbours share a cell, which shows the fuller."""
INK, GRID, DEAD = "#2c3e50", "#c5cad0", "#111111"
SCALE = ((244, 246, 248), (255, 224, 138), (252, 166, 54), (228, 87, 46), (142, 27, 27))
"""Colours from idle to busy all the time."""
WIDE = 3
"""Pixels of a graph's link."""
MOST_NAMED = 160
"""Places of a graph; beyond, only its links are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """Cells side by side: how busy each is, whether it has failed, and what it is."""

    busy: Floats
    dead: Flags
    name: Callable[[int], str]


def svg(net: Net, carried_bytes: Floats, seconds: float, title: str) -> str:
    """The picture as SVG text; ``seconds`` is the time on the wires, which a full link is busy for."""
    busy = used(net, carried_bytes, seconds)
    rows, drawn = _rows(net, busy), shapes(net, busy)
    tall = ROW * len(rows) + sum(shape.tall for shape in drawn)
    height = TOP + tall + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="16" y="28" font-size="17" fill="{INK}">{escape(title)}</text>',
    ]
    for number, (label, lines) in enumerate(rows):
        y = TOP + ROW * number
        top, mean = max(float(line.busy.max()) for line in lines), np.mean([line.busy.mean() for line in lines])
        parts.append(f'<text x="16" y="{y + 22}" font-size="12" fill="{INK}">{escape(label)}</text>')
        parts.append(f'<text x="16" y="{y + 37}" font-size="10" fill="{INK}">{len(lines[0].busy):,}: '
                     f'busy {mean:.0%} on average, {top:.0%} at most</text>')  # fmt: skip
        if number + 1 < len(rows):
            parts.append(_fan(len(lines[0].busy), len(rows[number + 1][1][0].busy), y))
        parts += [_cells(line, y + 18 * place) for place, line in enumerate(lines)]
    y = TOP + ROW * len(rows)
    for shape in drawn:
        parts.append(_shape(shape, y))
        y += shape.tall
    parts.append(_legend(height - 40, "; upper line up, lower line down" if rows else ""))
    return "\n".join([*parts, "</svg>\n"])


def used(net: Net, carried_bytes: Floats, seconds: float) -> Floats:
    """Share of ``seconds`` that each link is busy for with what it carries."""
    busy: Floats = carried_bytes / np.maximum(net.found.capacity_bytes_per_s, 1e-30) / (seconds or 1.0)
    return busy


def shapes(net: Net, busy: Floats) -> list[Shape]:
    """Meshes, tori and graphs of a fabric, from outside in."""
    dead = net.found.capacity_bytes_per_s <= 0
    found = []
    for network, bases in zip(net.fabric.networks, net.found.base, strict=True):
        if isinstance(network, Wired):
            mine = slice(bases[0][0], bases[0][0] + len(network.tail))
            found.append(graph(network, busy[mine], dead[mine]))
        elif isinstance(network, Direct):
            mine = slice(bases[0][0], bases[0][0] + network.units * sum(network.widths))
            found.append(direct(network, net.fabric.levels[network.levels[0]].name, busy[mine], dead[mine]))
    return found[::-1]


def tiers(net: Net, busy: Floats) -> tuple[dict[str, Any], ...]:
    """The same rows as plain data, for a page that draws them."""

    def told(line: _Line) -> dict[str, Any]:
        bins = list(_bins(line))
        return {
            "busy": [round(full, 3) for _, full, _ in bins],
            "dead": [number for number, (_, _, broken) in enumerate(bins) if broken],
            "count": len(line.busy),
        }

    return tuple({"label": label, "lines": [told(line) for line in lines]} for label, lines in _rows(net, busy))


def _rows(net: Net, busy: Floats) -> list[tuple[str, list[_Line]]]:
    """Label and cells of each tier, from above: the topmost switches, then the links of each tier (up, and down)."""
    dead = net.found.capacity_bytes_per_s <= 0

    def line(first: int, count: int) -> _Line:
        mine = slice(first, first + count)
        return _Line(busy=busy[mine], dead=dead[mine], name=lambda index: name(net, first + index))

    rows: list[tuple[str, list[_Line]]] = []
    for network, bases in zip(net.fabric.networks, net.found.base, strict=True):
        if isinstance(network, Wired):
            rows.append(("links", [line(bases[0][0], len(network.tail))]))
            continue
        if isinstance(network, Direct):
            label = f"{net.fabric.levels[network.levels[0]].name} links"
            rows.append((label, [line(bases[0][0], network.units * sum(network.widths))]))
            continue
        below = "adapters" if network.adapters else "ranks"
        for stage, (up, down, each) in zip(network.stages, bases, strict=True):
            rows.append((f"{below} to {stage.switch}", [line(first, stage.things * each) for first in (up, down)]))
            below = f"{stage.switch}es"
        rows.append((below, [_switches(net, network.stages[-1], busy)]))
    return rows[::-1]


def _switches(net: Net, stage: Stage, busy: Floats) -> _Line:
    """The topmost switches: as busy as the fullest of their links."""
    count = stage.units * stage.switches
    switch = (stage.unit[:, None] * stage.switches + stage.above[None, :]).ravel()
    full, left = np.zeros(count), np.zeros(count)
    for first in (stage.up, stage.down):
        links = slice(first, first + len(switch))
        np.maximum.at(left, switch, net.fabric.alive_ratio[links])
        np.maximum.at(full, switch, busy[net.found.group[links]] * (net.fabric.alive_ratio[links] > 0))
    return _Line(busy=full, dead=left <= 0, name=lambda index: f"{stage.switch} {index}")


def _bins(line: _Line) -> Iterator[tuple[int, float, bool]]:
    """The fullest of each cell, how busy it is (at most always), and whether one of the cell has failed."""
    edges = np.linspace(0, len(line.busy), min(len(line.busy), MOST_CELLS) + 1).astype(int).tolist()
    for start, end in pairwise(edges):
        top = start + int(np.argmax(line.busy[start:end]))
        yield top, min(float(line.busy[top]), 1.0), bool(line.dead[start:end].any())


def _cells(line: _Line, y: float) -> str:
    wide = (WIDTH - LEFT - 20) / min(len(line.busy), MOST_CELLS)
    edge = f'stroke="{GRID}" stroke-width="0.4"' if wide > 3.0 else ""
    cells = []
    for index, (top, full, broken) in enumerate(_bins(line)):
        said = f"{line.name(top)}: {'failed' if broken else f'{full:.0%}'}"
        cells.append(
            f'<rect x="{LEFT + index * wide:.2f}" y="{y + 10:.1f}" width="{wide - 0.6 * (wide > 3):.2f}" height="14" '
            f'fill="{DEAD if broken else _colour(full)}" {edge}><title>{escape(said)}</title></rect>'
        )
    return "".join(cells)


def _fan(above: int, below: int, y: float) -> str:
    """Lines from a tier to the one below it."""
    span = WIDTH - LEFT - 20
    lines = min(max(above, below), 96)
    at = (np.arange(lines) + 0.5) / lines
    top = LEFT + (np.floor(at * min(above, lines)) + 0.5) / min(above, lines) * span
    return "".join(
        f'<line x1="{a:.1f}" y1="{y + 44}" x2="{LEFT + b * span:.1f}" y2="{y + ROW + 10}" '
        f'stroke="{GRID}" stroke-width="0.7"/>'
        for a, b in zip(top.tolist(), at.tolist(), strict=True)
    )


def _colour(full: float) -> str:
    at = min(max(full, 0.0), 1.0) * (len(SCALE) - 1)
    low = min(int(at), len(SCALE) - 2)
    mixed = (round(a + (b - a) * (at - low)) for a, b in zip(SCALE[low], SCALE[low + 1], strict=True))
    return f"rgb({','.join(map(str, mixed))})"


def _shape(shape: Shape, y: float) -> str:
    """A mesh, torus or graph, the busiest links last; too many of them: its places, as busy as their links."""
    parts = [f'<text x="16" y="{y + 14}" font-size="12" fill="{INK}">{escape(shape.label)}</text>']
    where = shape.where + np.array([0.0, y])
    if len(shape.ends) > MOST_LINKS:
        wide = max(float(np.abs(np.diff(shape.where[:2, 0]))[0]) - 0.6, 1.0)
        parts += [
            f'<rect x="{x - wide / 2:.1f}" y="{v - wide / 2:.1f}" width="{wide:.1f}" height="{wide:.1f}" '
            f'fill="{_colour(full)}"><title>{escape(named)}: {full:.0%}</title></rect>'
            for (x, v), full, named in zip(where.tolist(), shape.fullest.tolist(), shape.names, strict=True)
        ]
        return "".join(parts)
    thick = float(np.clip(600.0 / max(len(shape.ends), 1), 0.4, WIDE))
    for at in np.argsort(shape.busy, kind="stable").tolist():
        (a, b), full, broken = shape.ends[at].tolist(), float(shape.busy[at]), bool(shape.dead[at])
        (x, v), (u, w) = where[a].tolist(), where[b].tolist()
        far = max(float(np.hypot(u - x, w - v)), 1e-9)
        aside = 2 * float(shape.bend[at]) / far
        middle = f"{(x + u) / 2 + (w - v) * aside / 2:.1f} {(v + w) / 2 - (u - x) * aside / 2:.1f}"
        said = f"{shape.names[a]} - {shape.names[b]}: {'failed' if broken else f'{full:.0%}'}"
        parts.append(
            f'<path d="M{x:.1f} {v:.1f}Q{middle} {u:.1f} {w:.1f}" fill="none" stroke-width="{thick}" '
            f'stroke-linecap="round" stroke="{DEAD if broken else _colour(0.08 + 0.92 * full)}">'
            f"<title>{escape(said)}</title></path>"
        )
    return "".join([*parts, *(_named(shape, node, y) for node in range(len(where)))])


def _named(shape: Shape, node: int, y: float) -> str:
    """A place: a dot, and its name where there is room."""
    x, v = float(shape.where[node, 0]), float(shape.where[node, 1]) + y
    rank = bool(shape.ranks[node])
    dot = f'<circle cx="{x:.1f}" cy="{v:.1f}" r="{5 if len(shape.where) <= MOST_NAMED else 2}" ' + (
        f'fill="{INK if rank else "white"}" stroke="{INK}"><title>{escape(shape.names[node])}</title></circle>'
    )
    if len(shape.where) > MOST_NAMED or (shape.ranks.all() and len(shape.where) > 64):
        return dot
    left, down, anchor = (0.0, 18.0 + 12 * (node % 2), "middle") if rank else (9.0, -7.0, "start")
    if shape.ranks.all() and shape.bend.any():  # a grid
        left, down, anchor = 6.0, 13.0, "start"
    elif shape.ranks.all():
        left, down, anchor = 0.11 * (x - WIDTH / 2), 4 + 0.08 * (v - y - shape.tall / 2), "middle"
    return (
        f'{dot}<text x="{x + left:.1f}" y="{v + down:.1f}" font-size="10" fill="{INK}" text-anchor="{anchor}">'
        f"{escape(shape.names[node].removeprefix('unit '))}</text>"
    )


def _legend(y: float, more: str) -> str:
    cells = "".join(
        f'<rect x="{LEFT + 14 * i}" y="{y}" width="14" height="12" fill="{_colour(i / 10)}" stroke="{GRID}" '
        'stroke-width="0.4"/>' for i in range(11)
    )  # fmt: skip
    marks = "".join(
        f'<text x="{LEFT + 7 + 14 * i}" y="{y + 25}" font-size="10" text-anchor="middle" fill="{INK}">{10 * i}%</text>'
        for i in (0, 5, 10)
    )
    words = f"of the time busy; black: failed{more}"
    return f'{cells}{marks}<text x="{LEFT + 170}" y="{y + 11}" font-size="12" fill="{INK}">{words}</text>'
