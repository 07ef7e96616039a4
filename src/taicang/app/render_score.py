"""The scoreboard on the terminal."""

from __future__ import annotations

from rich.table import Table

from taicang.app import terminal
from taicang.evidence.score import Score

WIDTH = 130


def show_scores(scores: list[Score], *, drifts: list[str], alone: bool) -> None:
    """Scores with their errors, then what drifted from the frozen scoreboard."""
    console = terminal.console(highlight=False)
    if console.width < WIDTH:
        console = terminal.console(highlight=False, width=WIDTH, force_terminal=console.is_terminal)
    table = Table(box=None, pad_edge=False)
    for column in ("suite", "group", "part", "rows", "coverage", "MAPE", "median", "bias", "p90"):
        table.add_column(column, justify="left" if column in ("suite", "group", "part") else "right")
    for one in scores:
        cells = (one.coverage_ratio, one.mape_ratio, one.median_ratio, one.bias_ratio, one.p90_ratio)
        table.add_row(one.suite, one.group, one.part, str(one.rows), *(f"{cell:.1%}" for cell in cells))
    console.print(table)
    if alone:
        console.print("[dim]the tables that the package carries; --evidence DIR scores a folder of measured rows[/]")
    for line in drifts:
        console.print(f"[yellow]drift[/] {line}")
