"""Machines side by side on the terminal, and what would flip the choice between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from taicang.app.search_jobs import Outcome
from taicang.search.flips import Flip

WORDS = {"power.load": "power", "price.usd": "price", "price.cny": "price in yuan"}
MONEY = (("a kW", "output_tokens_per_s_per_w", 1e3), ("a MUSD", "output_tokens_per_s_per_usd", 1e6))
YUAN = ("a MCNY", "output_tokens_per_s_per_cny", 1e6)


def show_ranking(console: Console, ranked: Sequence[Outcome], objective: Any, flipped: Sequence[Flip]) -> None:
    """Machines at equal chips, power and money, in order, and where each would draw level with the first."""
    if len(ranked) < 2:
        return
    console.print(f"\n[bold]ranking[/] by {objective}: output tokens/s at equal chips, power and money")
    # few machines have a price in yuan: a column only where it says something
    yuan = any(each.chosen.choice.output_tokens_per_s_per_cny is not None for each in ranked)
    figures = (*MONEY, YUAN) if yuan else MONEY
    level = {flip.machine: flip for flip in flipped}
    table = Table(box=None, pad_edge=False)
    for column in ("machine", "a chip", *(name for name, _, _ in figures), "draws level with the first at"):
        table.add_column(column, justify="left" if column.startswith(("machine", "draws")) else "right")
    for each in ranked:
        choice = each.chosen.choice
        values = [(getattr(choice, field), scale) for _, field, scale in figures]
        shown = ["unknown" if value is None else f"{value * scale:,.0f}" for value, scale in values]
        flip = level.get(choice.machine)
        first = each is ranked[0]
        table.add_row(
            choice.machine,
            f"{choice.output_tokens_per_s_per_chip:,.0f}",
            *shown,
            "" if flip is None else _level(flip, first),
        )
    console.print(table)


def _level(flip: Flip, first: bool) -> str:
    said = []
    for change in flip.changes:
        if change.what in WORDS:
            said.append(f"{change.level_ratio:.0%} of its {WORDS[change.what]}")
        else:
            said.append(
                f"{change.what} x {change.level_ratio:.2f}" if change.level_ratio else f"{change.what}: not alone"
            )
    return (f"the second draws level at {', '.join(said)}" if said else "") if first else ", ".join(said)
