"""A comparison of machines on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from taicang.predict.infer import describe
from taicang.predict.prediction import Infeasible, Prediction
from taicang.units import show

WIDTH = 150
LEGEND = """
decode and prefill: each phase on its own instances at the best batch and plan; output: over all chips, both phases in
step; per watt: IT power of the whole machine under load; error: mean error of the nearest held-out suite (a machine
that never shipped has no measurements of its own); plan: R redundant experts, S ranks of the shared expert, x2
microbatches."""


def show_comparison(names: Sequence[str], results: Sequence[Prediction | Infeasible], options: dict[str, Any]) -> None:
    """One row per machine, then what they assume and how far such predictions were off."""
    console = Console(highlight=False)
    if not console.is_terminal or console.width < WIDTH:
        console = Console(highlight=False, width=WIDTH, force_terminal=console.is_terminal)
    limit = f", TPOT <= {show(options['tpot'], 's')}" if options["tpot"] else ""
    first = next((r for r in results if isinstance(r, Prediction)), None)
    if first:
        console.print(f"[bold]{first.model}[/], {options['input_tokens']} + {options['output_tokens']} tokens{limit}\n")
    table = Table(box=None, pad_edge=False)
    for column in (
        "machine",
        "chips",
        "TPOT",
        "decode tok/s/chip",
        "binds",
        "prefill tok/s/chip",
        "binds",
        "output tok/s/chip",
        "per watt",
        "error",
        "decode plan",
    ):
        table.add_column(column, justify="left" if column in ("machine", "binds", "decode plan") else "right")
    for name, result in zip(names, results, strict=True):
        table.add_row(
            *(_row(name, result) if isinstance(result, Prediction) else (name, *["-"] * 9, "none: see below"))
        )
    console.print(table)
    console.print(LEGEND)
    for name, result in zip(names, results, strict=True):
        if isinstance(result, Infeasible):
            console.print(f"  {name}: {result.reason}")
    for name, result in zip(names, results, strict=True):
        if isinstance(result, Prediction):
            said = [line for line in result.assumptions if "not measured" in line or "not shipping" in line]
            for line in said:
                console.print(f"  {name}: {line}")


def _row(name: str, p: Prediction) -> tuple[str, ...]:
    band = f"±{p.bands[0].mape_ratio:.0%}" if p.bands else "-"
    return (
        name,
        str(p.decode.chips),
        show(p.tpot_s, "s"),
        f"{p.decode.tokens_per_s_per_chip:,.0f}",
        p.decode.binds,
        f"{p.prefill.tokens_per_s_per_chip:,.0f}",
        p.prefill.binds,
        f"{p.output_tokens_per_s_per_chip:,.0f}",
        "unknown" if p.output_tokens_per_s_per_w is None else f"{p.output_tokens_per_s_per_w:.3f}",
        band,
        describe(p.decode.plan),
    )
