"""A comparison of machines on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table

from taicang.app import terminal
from taicang.app.load_options import load_text
from taicang.app.render_bands import span
from taicang.centre.quote import Quote
from taicang.plans import describe
from taicang.predict.prediction import Infeasible, Served
from taicang.units import show

WIDTH = 80
NAMES = 20
"""Width that the names of machines have before they wrap."""
LEGEND = """
TTFT: under this load, without queueing; users: requests under way at a time;
each: tokens/s that one of them sees; decode and prefill: tokens/s per chip of one instance in each phase; a chip, a
kW, a MUSD, a MCNY: output tokens/s of the whole instances that fit the machine,
over all its chips, power (IT, under load) and money, and how many times the
first machine's; may be off: where nine measurements in ten of runs as near as
any lie (unvalidated: none was measured near); a million tokens: nine draws in
ten of what taicang centre says with the figures that it has, idle hours paid;
plan: R redundant experts, S ranks of the shared expert, x2 microbatches."""


def show_comparison(
    names: Sequence[str],
    results: Sequence[Served | Infeasible],
    options: dict[str, Any],
    bought: Mapping[str, Mapping[str, Any]],
    costs: Mapping[str, Quote | str],
) -> None:
    """One row per machine, then what they assume and how far such predictions were off.

    The price in yuan has a column where a machine has such a price.
    """
    console = terminal.wide(WIDTH, piped=True)
    first = next((r for r in results if isinstance(r, Served)), None)
    if first:
        console.print(f"[bold]{first.model}[/], {load_text(options)}")
    priced = any(isinstance(each, Served) and each.output_tokens_per_s_per_cny for each in results)
    for title, figures in TABLES:
        shown = [(name, of) for name, of in figures if name != "a MCNY" or priced]
        table = Table(box=None, pad_edge=False, title=title, title_justify="left")
        table.add_column("machine", min_width=min(max(map(len, names), default=0), NAMES))
        for name, _ in shown:
            words = name in ("binds", "decode plan")
            table.add_column(name, justify="left" if words else "right", no_wrap=name != "decode plan")
        for machine, result in zip(names, results, strict=True):
            cells = [of(result, first or result) if isinstance(result, Served) else "-" for _, of in shown]
            table.add_row(machine, *cells)
        console.print()
        console.print(table)
    _costs(console, costs)
    for budget in options["budgets"]:
        console.print(f"  {budget}: {'; '.join(_buys(name, bought[name].get(budget, {})) for name in names)}")
    console.print(LEGEND)
    for name, result in zip(names, results, strict=True):
        if isinstance(result, Infeasible):
            console.print(f"  {name}: {result.reason}")
    for name, result in zip(names, results, strict=True):
        if isinstance(result, Served):
            said = [line for line in result.assumptions if "not measured" in line or "not shipping" in line]
            for line in said:
                console.print(f"  {name}: {line}")


COST = ("machine", "input", "output", "all over output", "", "chips")


def _costs(console: Console, costs: Mapping[str, Quote | str]) -> None:
    """Per million tokens, of the machines whose price or rent is published."""
    known = {name: each for name, each in costs.items() if not isinstance(each, str)}
    if not known:
        return
    table = terminal.table(*COST, words=("machine", "", "chips"), title="a million tokens", title_justify="left")
    for name, each in costs.items():
        table.add_row(*((name, "unknown", "", "", "", "") if isinstance(each, str) else _cost(name, each)))
    console.print()
    console.print(table)


def _cost(name: str, each: Quote) -> tuple[str, ...]:
    assert each.tokens is not None
    assert each.output_mtoken is not None
    shown = (span(band, "") for band in (each.tokens["input"], each.tokens["output"], each.output_mtoken))
    return (name, *shown, each.currency, "rented" if each.rented else "bought")


def _buys(name: str, found: Mapping[str, Any] | None) -> str:
    if not found:
        return f"{name} {'serves nothing' if found is not None else 'unknown'}"
    return f"{found['machines']} x {name}: {found['output_tokens_per_s']:,.0f} tok/s"


def _over(mine: float | None, first: float | None, scale: float) -> str:
    """A figure and how many times the first machine's it is."""
    if mine is None:
        return "unknown"
    return f"{mine * scale:,.0f}" + (f" ({mine / first:.2f}x)" if first else "")


def _off(p: Served, figure: str) -> str:
    return p.bands[figure].said if figure in p.bands else "-"


Figures: TypeAlias = Sequence[tuple[str, Callable[[Served, Served], str]]]
TABLES: Sequence[tuple[str | None, Figures]] = (
    (None, (
        ("TTFT", lambda p, _: show(p.loaded_ttft_s, "s")),
        ("TPOT", lambda p, _: show(p.tpot_s, "s")),
        ("req/s", lambda p, _: f"{p.requests_per_s:.3g}"),
        ("users", lambda p, _: f"{p.users:,.0f}"),
        ("each", lambda p, _: "-" if p.user_tokens_per_s is None else f"{p.user_tokens_per_s:.3g}"),
    )),
    (None, (
        ("chips", lambda p, _: str(p.decode.chips)),
        ("decode", lambda p, _: f"{p.decode.tokens_per_s_per_chip:,.0f}"),
        ("binds", lambda p, _: p.decode.binds),
        ("prefill", lambda p, _: f"{p.prefill.tokens_per_s_per_chip:,.0f}"),
        ("binds", lambda p, _: p.prefill.binds),
    )),
    (None, (
        ("a chip", lambda p, first: _over(p.output_tokens_per_s_per_chip, first.output_tokens_per_s_per_chip, 1.0)),
        ("a kW", lambda p, first: _over(p.output_tokens_per_s_per_w, first.output_tokens_per_s_per_w, 1e3)),
        ("a MUSD", lambda p, first: _over(p.output_tokens_per_s_per_usd, first.output_tokens_per_s_per_usd, 1e6)),
        ("a MCNY", lambda p, first: _over(p.output_tokens_per_s_per_cny, first.output_tokens_per_s_per_cny, 1e6)),
    )),
    ("may be off by", (
        ("TTFT", lambda p, _: _off(p, "ttft")),
        ("TPOT", lambda p, _: _off(p, "tpot")),
        ("tok/s", lambda p, _: _off(p, "throughput")),
        ("decode plan", lambda p, _: describe(p.decode.plan)),
    )),
)  # fmt: skip
"""Title, and what each column beside the machine's says of it (and of the first one)."""
