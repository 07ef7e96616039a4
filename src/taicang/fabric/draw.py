"""A fabric and its load as a picture: a row of cells per tier, one cell per port or unit; a user's graph as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np

from taicang.fabric.even import Net
from taicang.fabric.names import name
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
"""Nodes of a graph; beyond, only its links are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """Cells side by side: how busy each is, whether it has failed, and what it is."""

    busy: Floats
    dead: Flags
    name: Callable[[int], str]


def svg(net: Net, carried_bytes: Floats, seconds: float, title: str) -> str:
    """The picture as SVG text; ``seconds`` is the time on the wires, which a full link is busy for."""
    busy = used(net, carried_bytes, seconds)
    graph = next((each for each in net.fabric.networks if isinstance(each, Wired)), None)
    rows = [] if graph else _rows(net, busy)
    drawn, tall = _graph(graph, busy, net.found.capacity_bytes_per_s <= 0) if graph else ("", ROW * len(rows))
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
    parts += [drawn, _legend(height - 40, "" if graph else "; upper line up, lower line down")]
    return "\n".join([*parts, "</svg>\n"])


def used(net: Net, carried_bytes: Floats, seconds: float) -> Floats:
    """Share of ``seconds`` that each link is busy for with what it carries."""
    busy: Floats = carried_bytes / np.maximum(net.found.capacity_bytes_per_s, 1e-30) / (seconds or 1.0)
    return busy


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


def _graph(graph: Wired, busy: Floats, dead: Flags) -> tuple[str, int]:
    """Ranks below, other nodes above them by how far they are from a rank, and every link by its busier direction."""
    far = np.full(len(graph.names), -1)
    far[graph.node] = 0
    for step in range(1, len(far)):  # breadth first
        reached = np.unique(graph.head[far[graph.tail] == step - 1])
        reached = reached[far[reached] < 0]
        if not len(reached):
            break
        far[reached] = step
    depth = int(far.max())
    beside = bool((far[graph.tail] == far[graph.head]).any())
    tall = TOP + 110 * (depth + 1 + beside)
    where = np.zeros((len(far), 2))
    for step in range(depth + 1):
        row = np.flatnonzero(far == step)
        where[row, 0] = 40 + (np.arange(len(row)) + 0.5) / len(row) * (WIDTH - 80)
        where[row, 1] = tall - 40 - 110 * step
    if not depth:  # ranks alone: around a circle
        tall, turn = TOP + 440, np.arange(len(far)) / len(far) * 2 * np.pi
        where = np.stack([WIDTH / 2 + 200 * np.sin(turn), TOP + 215 - 200 * np.cos(turn)], axis=1)
    ends = np.sort(np.stack([graph.tail, graph.head], axis=1), axis=1)
    parts = []
    for a, b in np.unique(ends, axis=0).tolist():
        mine = np.flatnonzero((ends == (a, b)).all(axis=1))
        full, broken = float(busy[mine].max()), bool(dead[mine].all())
        (x, y), (u, v) = where[a], where[b]
        said = f"{graph.names[a]} - {graph.names[b]}: {'failed' if broken else f'{full:.0%}'}"
        bent = (
            0.22 * abs(u - x) if depth and far[a] == far[b] else 0.0
        )  # side by side: an arc, above the nodes between them
        parts.append(
            f'<path d="M{x:.1f} {y:.1f}Q{(x + u) / 2:.1f} {(y + v) / 2 - bent:.1f} {u:.1f} {v:.1f}" fill="none" '
            f'stroke-width="{WIDE}" stroke-linecap="round" stroke="{DEAD if broken else _colour(0.08 + 0.92 * full)}">'
            f"<title>{escape(said)}</title></path>"
        )
    for node in range(len(far)) if len(far) <= MOST_NAMED else ():
        x, y = where[node]
        rank = far[node] == 0
        left, up, anchor = (0.0, -18.0 - 12 * (node % 2), "middle") if rank else (9.0, 7.0, "start")
        if not depth:
            left, up = 0.11 * (x - WIDTH / 2), -4 - 0.08 * (y - TOP - 215)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{INK if rank else "white"}" stroke="{INK}"/>'
            f'<text x="{x + left:.1f}" y="{y - up:.1f}" font-size="10" fill="{INK}" text-anchor="{anchor}">'
            f"{escape(graph.names[node])}</text>"
        )
    return "".join(parts), tall - TOP


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
