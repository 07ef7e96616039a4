"""Fabrics on the terminal."""

from __future__ import annotations

from rich.table import Table

from taicang.app import terminal
from taicang.predict.fabric import Answer, Shape
from taicang.units import show

console = terminal.console(highlight=False, soft_wrap=True)


def _table(*columns: str) -> Table:
    table = Table(show_header=True, box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def show_shape(found: Shape) -> None:
    """Levels and parts."""
    console.print(f"[bold]{found.machine}[/], {found.plane}: {found.ranks:,} ranks")
    table = _table("level", "ranks", "topology", "one way", "latency")
    for row in found.levels:
        table.add_row(
            str(row["level"]), f"{row['ranks']:,}", str(row["topology"]), show(float(row["bytes_per_s"]), "B/s"),
            show(float(row["latency_s"]), "s"),
        )  # fmt: skip
    console.print(table)
    console.print(", ".join(f"{number:,} {kind}" for kind, number in found.parts.items()))
    console.print(f"bisection under an even exchange: {show(found.bisection_bytes_per_s, 'B/s')} one way")
    _notes(found.assumptions)


def show_answer(found: Answer) -> None:
    """Headline, then where the bytes went."""
    ask = found.ask
    console.print(
        f"[bold]{ask.kind}[/] of {show(ask.payload_bytes, 'B')} on {found.ranks:,} ranks of [bold]{found.machine}[/], "
        f"{found.algorithm}, {ask.routing}{', ' + ', '.join(ask.failed) + ' failed' if ask.failed else ''}"
    )
    spread = f" ({show(found.least_s, 's')} to {show(found.most_s, 's')} over {ask.seeds} seeds)" if ask.seeds > 1 else ""
    table = _table("", "time", "")
    table.add_row("on the links", show(found.wire_s, "s"), spread)
    table.add_row("  the same bytes dealt evenly, nothing broken", show(found.even_s, "s"), "")
    table.add_row("  latency of messages in a row", show(found.latency_s, "s"), "")
    if found.library_s is not None and found.closed_s is not None:
        table.add_row("with a library's start-up and efficiency", show(found.library_s, "s"), "")
        table.add_row("  closed form, even and whole", show(found.closed_s, "s"), "")
    console.print(table)
    levels = _table("level", "fullest link", "busy", "mean of links in use")
    for level in found.levels:
        if level.busy_s:
            levels.add_row(level.level, show(level.sent_bytes, "B"), show(level.busy_s, "s"), f"{level.mean_ratio:.0%}")
    console.print(levels)
    links = _table("hottest", "bytes", "busy", "of the time")
    for link in found.hottest:
        links.add_row(link.link, show(link.carried_bytes, "B"), show(link.busy_s, "s"), f"{link.used_ratio:.0%}")
    console.print(links)
    if found.lost_ranks:
        console.print(f"{found.lost_ranks:,} ranks are cut off and left out")
    _notes(found.assumptions)


def _notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        console.print(f"assumed: {note}")
