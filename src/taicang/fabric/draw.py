"""A fabric and its load as a picture: a row of cells per tier, one cell per port or unit, red where it is full."""

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

WIDTH, ROW, LEFT, TOP = 960, 74, 150, 60
MOST_CELLS = 512
"""In a row; beyond, neighbours share a cell, which shows the fuller."""
INK, GRID = "#2c3e50", "#d5d8dc"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """Cells side by side: how busy each is, whether it has failed, and what it is."""

    busy: Floats
    dead: Flags
    name: Callable[[int], str]


def svg(net: Net, carried_bytes: Floats, seconds: float, title: str) -> str:
    """The picture as SVG text; ``seconds`` is the time on the wires, which a full link is busy for."""
    rows = _rows(net, used(net, carried_bytes, seconds))
    height = TOP + ROW * len(rows) + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="16" y="28" font-size="17" fill="{INK}">{escape(title)}</text>',
    ]
    for number, (label, lines) in enumerate(rows):
        y = TOP + ROW * number
        parts.append(f'<text x="16" y="{y + 22}" font-size="12" fill="{INK}">{escape(label)}</text>')
        if number + 1 < len(rows):
            parts.append(_fan(len(lines[0].busy), len(rows[number + 1][1][0].busy), y))
        parts += [_cells(line, y + 18 * place) for place, line in enumerate(lines)]
    parts.append(_legend(height - 34))
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
    cells = []
    for index, (top, full, broken) in enumerate(_bins(line)):
        colour = "#111111" if broken else f"rgb(255,{int(250 - 190 * full)},{int(250 - 215 * full)})"
        said = f"{line.name(top)}: {'failed' if broken else f'{full:.0%}'}"
        cells.append(
            f'<rect x="{LEFT + index * wide:.2f}" y="{y + 10:.1f}" width="{max(wide - 0.4, 0.6):.2f}" height="14" '
            f'fill="{colour}" stroke="{GRID}" stroke-width="0.3"><title>{escape(said)}</title></rect>'
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


def _legend(y: float) -> str:
    cells = "".join(
        f'<rect x="{LEFT + 14 * i}" y="{y}" width="14" height="12" fill="rgb(255,{250 - 19 * i},{250 - 21 * i})"/>'
        for i in range(11)
    )
    words = "idle to busy all the time; black: failed; upper line up, lower line down"
    return f'{cells}<text x="{LEFT + 170}" y="{y + 11}" font-size="12" fill="{INK}">{words}</text>'
