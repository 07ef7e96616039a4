"""What every prediction ends with on the terminal: assumptions, sources, and how far each figure may be off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from taicang.catalog.trust import NINE_IN_TEN, Band
from taicang.search.trusted import Prediction
from taicang.units import show

TITLE = "error band: where nine measurements in ten lie"
NAMES = {
    "tpot": "TPOT", "itl": "ITL", "ttft": "TTFT", "e2e": "E2E", "mfu": "MFU", "step_time": "step",
    "throughput": "tokens/s",
}  # fmt: skip


def band_lines(bands: Mapping[str, Band], figures: Mapping[str, tuple[float, str]]) -> list[str]:
    """A line for each figure; ``figures`` gives values and units of some. What is alike is said once."""
    lines: list[str] = []
    groups: dict[Band, list[str]] = {}
    for name, band in bands.items():
        groups.setdefault(band, []).append(name)
    for band, names in sorted(groups.items(), key=lambda item: item[0].verdict != NINE_IN_TEN):
        titles = ", ".join(NAMES.get(name, name) for name in names)
        if band.verdict != NINE_IN_TEN or band.low_ratio is None or band.high_ratio is None:
            lines.append(f"{titles}: {band.verdict} ({band.basis})")
            continue
        ends = [
            f"{NAMES.get(name, name)} {show(band.low_ratio * value, unit)} to {show(band.high_ratio * value, unit)}"
            for name in names if name in figures for value, unit in (figures[name],)
        ]  # fmt: skip
        lines.append(f"{titles}: {band.said}" + (f": {'; '.join(ends)}" if ends else ""))
        lines.append(f"  half within {band.typical_ratio:.0%}; {band.basis}, {band.rows:,} rows")
    return lines


def listed(console: Any, title: str, lines: Iterable[str], mark: str = "- ") -> None:
    """Lines under a title."""
    console.print(f"[bold]{title}[/]")
    for line in lines:
        console.print(f"  {mark}{line}")


def closing(console: Any, p: Prediction, figures: Mapping[str, tuple[float, str]], first: str = "") -> None:
    """What ``p`` assumes, where it comes from and how far it may be off; ``first`` begins the last line."""
    listed(console, "assumptions", p.assumptions)
    listed(console, "sources", p.sources)
    listed(console, TITLE, band_lines(p.bands, figures), "")
    console.print(f"[dim]{first}catalogue {p.digest[:12]}; taicang {p.version}[/]")
