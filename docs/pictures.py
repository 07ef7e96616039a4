"""Pictures of the documentation, drawn from the program's own results as SVG, without further packages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import claims_page
import numpy as np

from taicang.app.compare_cmd import DEMO_MACHINES
from taicang.predict import Infeasible, Prediction, infer
from taicang.timeline import Slice

LIMITS_S = (0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1)
"""TPOT limits of the curve."""
COLOURS = ("#c0392b", "#e08e0b", "#2471a3", "#7d3c98", "#148f77", "#566573")
WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 76, 220, 52, 56
INK, PALE = "#2c3e50", "#d5d8dc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One machine: TPOT that was reached and tokens per second per chip."""

    name: str
    tpot_s: tuple[float, ...]
    tokens_per_s_per_chip: tuple[float, ...]


def draw_all(folder: Path) -> list[Path]:
    """Draw every picture into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {"frontier.svg": frontier(curves()), "waterfall.svg": waterfall(_headline())} | claims_page.pictures()
    for name, text in pictures.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in pictures]


def curves() -> list[Curve]:
    """The demo's machines over a range of TPOT limits; limits that a machine cannot meet are left out."""
    found = []
    for name in DEMO_MACHINES:
        points: dict[float, float] = {}
        for limit_s in LIMITS_S:
            result = infer("deepseek-r1", name, input_tokens=4096, output_tokens=256, tpot_s=limit_s)
            if isinstance(result, Prediction):
                points[result.tpot_s] = result.decode.tokens_per_s_per_chip
        found.append(Curve(name=name, tpot_s=tuple(points), tokens_per_s_per_chip=tuple(points.values())))
    return found


def _headline() -> Prediction:
    result = infer("deepseek-r1", "cloudmatrix384", input_tokens=4096, output_tokens=256, tpot_s=0.05)
    if isinstance(result, Infeasible):
        raise ValueError(result.reason)
    return result


def _document(width: int, height: int, title: str, told: str, body: Sequence[str]) -> str:
    style = "text{font:13px sans-serif;fill:" + INK + "}.t{font-size:16px;font-weight:bold}.s{font-size:12px}"
    box = f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box}>',
        f"<desc>{escape(told)}</desc>",
        f"<style>{style}</style>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *body,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _text(x: float, y: float, words: str, *, anchor: str = "start", css: str = "", turn: bool = False) -> str:
    extra = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
    kind = f' class="{css}"' if css else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}{extra}>{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="2 4"' if dashed else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dash}/>'


def frontier(found: Sequence[Curve]) -> str:
    """Decode tokens per second per chip against TPOT, logarithmic upwards."""
    rates = [rate for curve in found for rate in curve.tokens_per_s_per_chip]
    low, high = np.log10(min(rates)) - 0.05, np.log10(max(rates)) + 0.05
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(tpot_s: float) -> float:
        return LEFT + wide * tpot_s / max(LIMITS_S)

    def y(rate: float) -> float:
        return TOP + tall * (high - float(np.log10(rate))) / (high - low)

    body = [
        _text(LEFT, 24, "DeepSeek-R1, 4,096 + 256 tokens: decode throughput per chip", css="t"),
        _text(
            LEFT,
            42,
            "best plan and batch at each limit; a curve ends where memory is full or at 100 ms; a 910C is two dies",
            css="s",
        ),
    ]
    for tpot_ms in range(0, 101, 20):
        at = x(tpot_ms / 1e3)
        body += [_line(at, TOP, at, TOP + tall, PALE), _text(at, TOP + tall + 18, f"{tpot_ms}", anchor="middle")]
    ticks = [m * 10.0**e for e in range(1, 6) for m in (1, 2, 5)]
    for rate in (tick for tick in ticks if low <= np.log10(tick) <= high):
        body += [
            _line(LEFT, y(rate), LEFT + wide, y(rate), PALE),
            _text(LEFT - 8, y(rate) + 4, f"{rate:,.0f}", anchor="end"),
        ]
    body += [
        _text(LEFT + wide / 2, HEIGHT - 14, "time per output token (TPOT), ms", anchor="middle"),
        _text(20, TOP + tall / 2, "output tokens/s per chip", anchor="middle", turn=True),
    ]
    ends = []
    for curve, colour in zip(found, COLOURS, strict=False):
        points = list(zip(curve.tpot_s, curve.tokens_per_s_per_chip, strict=True))
        if not points:
            continue
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in points)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.2"/>')
        body += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3" fill="{colour}"/>' for a, b in points]
        ends.append((y(points[-1][1]), x(points[-1][0]), curve.name, colour))
    last = -1e9
    for at, start, name, colour in sorted(ends):
        label = max(at, last + 17)
        last = label
        body += [
            _line(start + 4, at, LEFT + wide + 14, label, colour, dashed=True),
            _text(LEFT + wide + 18, label + 4, name),
        ]
    told = "; ".join(
        f"{c.name}: "
        + ", ".join(f"{a * 1e3:.1f} ms {b:.0f}/s" for a, b in zip(c.tpot_s, c.tokens_per_s_per_chip, strict=True))
        for c in found
    )
    return _document(WIDTH, HEIGHT, "Decode throughput per chip against TPOT", told, body)


def _named(piece: Slice, last: int) -> str:
    """The operator, and of which part it is where that is not the model's most frequent layer."""
    if piece.part == "draft":
        return f"{piece.label} (draft)"
    return f"{piece.label} (first layers)" if 0 <= piece.block < last else piece.label


KINDS = {"compute": "#c0392b", "memory": "#2471a3", "network": "#148f77", "latency": "#b7950b"}


def waterfall(result: Prediction, most: int = 16) -> str:
    """Busy time of the decode step by operator, coloured by what binds it, one below the other."""
    slices = [piece for piece in result.decode.step.slices if float(piece.seconds) > 0]
    chosen = sorted(slices, key=lambda piece: -float(piece.seconds))[:most]
    shown = [piece for piece in slices if any(piece is one for one in chosen)]
    busy = float(result.decode.step.busy_s)
    last = max(piece.block for piece in slices)
    row, left, wide = 22, 250, 470
    height = TOP + row * len(shown) + 54
    body = [
        _text(20, 24, f"One decode step, {result.decode.step_s * 1e3:.1f} ms, on {result.machine}", css="t"),
        _text(20, 42, f"{result.model}; {busy * 1e3:.1f} ms of busy time, {result.decode.step.schedule}", css="s"),
    ]
    before = 0.0
    for i, piece in enumerate(shown):
        seconds = float(piece.seconds)
        top = TOP + row * i
        colour = KINDS[piece.cost.binds]
        start, width = left + wide * before / busy, max(wide * seconds / busy, 1.0)
        body += [
            _text(left - 8, top + 15, _named(piece, last), anchor="end"),
            f'<rect x="{start:.1f}" y="{top + 4}" width="{width:.1f}" height="{row - 7}" fill="{colour}"/>',
            _text(start + width + 6, top + 15, f"{seconds * 1e3:.2f} ms", css="s"),
        ]
        before += seconds
    at = float(left)
    for name, colour in KINDS.items():
        y = height - 24
        body += [
            f'<rect x="{at:.0f}" y="{y - 10}" width="12" height="12" fill="{colour}"/>',
            _text(at + 18, y, name, css="s"),
        ]
        at += 96
    told = "; ".join(f"{p.label} {float(p.seconds) * 1e3:.3f} ms {p.cost.binds}" for p in shown)
    return _document(WIDTH, height, "Waterfall of a decode step", told, body)
