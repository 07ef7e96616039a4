"""The scoreboard on the terminal."""

from __future__ import annotations

import math

from rich.console import Console

from taicang.app import terminal
from taicang.catalog.trust import left_out
from taicang.evidence.score import Score

WIDTH = 130
LEFT_OUT = ("model", "sibling", "nothing")
"""What was left out of the fits, in the order of the columns."""


def show_scores(scores: list[Score], *, drifts: list[str], alone: bool) -> None:
    """Scores with their errors, then what drifted from the frozen scoreboard."""
    console = terminal.console(highlight=False)
    if console.width < WIDTH:
        console = terminal.console(highlight=False, width=WIDTH, force_terminal=console.is_terminal)
    _show_left_out(console, {one.suite for one in scores})
    named = ("suite", "group", "part")
    table = terminal.table(*named, "rows", "coverage", "MAPE", "median", "bias", "p90", words=named)
    for one in scores:
        cells = (one.coverage_ratio, one.mape_ratio, one.median_ratio, one.bias_ratio, one.p90_ratio)
        table.add_row(one.suite, one.group, one.part, str(one.rows), *map(_share, cells))
    console.print(table)
    if alone:
        console.print("[dim]the tables that the package carries; --evidence DIR scores a folder of measured rows[/]")
    for line in drifts:
        console.print(f"[yellow]drift[/] {line}")


def _show_left_out(console: Console, suites: set[str]) -> None:
    """Mean errors and coverage of bands where models and chips were left out whole, as frozen."""
    parts = ("unseen model", "in band", "unseen chip", "in band", "interpolation", "in band")
    table = terminal.table("left out of the fits", "rows", *parts)
    for suite, axes in left_out().items():
        if suite not in suites:
            continue
        cells = [str(max(one["rows"] for one in axes.values()))]
        for axis in LEFT_OUT:
            one = axes.get(axis, {})
            cells += [_share(one.get("mape_ratio")), _share(one.get("covered_ratio"))]
        table.add_row(suite, *cells)
    if table.row_count:
        console.print(table)
        console.print("[dim]as `taicang fit bands` recorded; nine in ten is what a band says[/]\n")


def _share(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.1%}"
