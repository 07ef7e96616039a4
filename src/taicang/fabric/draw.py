"""A fabric and its load as a picture: a row of cells per tier, one cell per port or unit, red where it is full."""

from __future__ import annotations

from html import escape

import numpy as np

from taicang.fabric.even import Net
from taicang.fabric.names import name
from taicang.fabric.topology import Direct, Flags, Floats, Ints

WIDTH, ROW, LEFT, TOP = 960, 74, 150, 60
MOST_CELLS = 512
"""In a row; beyond, neighbours share a cell, which shows the fuller."""
INK, GRID = "#2c3e50", "#d5d8dc"


def svg(net: Net, carried_bytes: Floats, seconds: float, title: str) -> str:
    """The picture as SVG text; ``seconds`` is the time on the wires, which a full link is busy for."""
    busy = carried_bytes / np.maximum(net.found.capacity_bytes_per_s, 1e-30) / (seconds or 1.0)
    dead = net.found.capacity_bytes_per_s <= 0
    rows = _rows(net)
    height = TOP + ROW * len(rows) + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="16" y="28" font-size="17" fill="{INK}">{escape(title)}</text>',
    ]
    for number, (label, ways) in enumerate(reversed(rows)):
        y = TOP + ROW * number
        parts.append(f'<text x="16" y="{y + 22}" font-size="12" fill="{INK}">{escape(label)}</text>')
        if number + 1 < len(rows):
            parts.append(_fan(len(ways[0]), len(rows[len(rows) - 2 - number][1][0]), y))
        for line, resources in enumerate(ways):
            parts.append(_cells(net, resources, busy, dead, y + 18 * line))
    parts.append(_legend(height - 34))
    return "\n".join([*parts, "</svg>\n"])


def _rows(net: Net) -> list[tuple[str, list[Ints]]]:
    """Label and resources of each tier, from the ranks up; switched tiers have two lines, up and down."""
    rows: list[tuple[str, list[Ints]]] = []
    for network, bases in zip(net.fabric.networks, net.found.base, strict=True):
        if isinstance(network, Direct):
            first, count = bases[0][0], network.units * sum(network.widths)
            rows.append((f"{net.fabric.levels[network.levels[0]].name} links", [first + np.arange(count)]))
            continue
        for depth, (stage, (up, down, each)) in enumerate(zip(network.stages, bases, strict=True)):
            below = (
                ("adapters" if network.adapters else "ranks") if depth == 0 else f"{network.stages[depth - 1].switch}es"
            )
            count = stage.things * each
            rows.append((f"{below} to {stage.switch}", [up + np.arange(count), down + np.arange(count)]))
    return rows


def _cells(net: Net, resources: Ints, busy: Floats, dead: Flags, y: float) -> str:
    bins = min(len(resources), MOST_CELLS)
    edges = np.linspace(0, len(resources), bins + 1).astype(int)
    wide = (WIDTH - LEFT - 20) / bins
    cells = []
    for index in range(bins):
        mine = resources[edges[index] : edges[index + 1]]
        top = mine[np.argmax(busy[mine])]
        broken = bool(dead[mine].any())
        full = min(float(busy[top]), 1.0)
        colour = "#111111" if broken else f"rgb(255,{int(250 - 190 * full)},{int(250 - 215 * full)})"
        said = f"{name(net, int(top))}: {'failed' if broken else f'{full:.0%}'}"
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
