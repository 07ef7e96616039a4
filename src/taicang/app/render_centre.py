"""A centre on the terminal, and the same as a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape

from taicang.app import terminal
from taicang.app.render_bands import money

SHOWN = 8
"""Figures of the list of what matters."""


def band(one: Any) -> str:
    """The middle, and nine draws in ten."""
    low, mid, high = money(one.low), money(one.mid), money(one.high)
    return mid if low == high else f"{mid} ({low} to {high})"


def _ratio(one: Any) -> str:
    if one.low == one.high:
        return f"{one.mid:.0%}"
    return f"{one.mid:.0%} ({one.low:.0%} to {one.high:.0%})"


def show(case: Any, told: Any, rows: Sequence[Any], said: Sequence[str], work: Sequence[Any]) -> None:
    """The report, the cost first."""
    console = terminal.console(highlight=False)
    times = f" ({case.count} of it)" if case.count > 1 else ""
    unit, bought = told.currency, "rented" if told.rented else "bought"
    console.print(f"[bold]{escape(told.name)}[/]{times}, {told.chips:,} chips, {bought}, {unit}; "
                  f"used {_ratio(told.utilisation)} of the time")  # fmt: skip
    table = _table("", "median (nine draws in ten)")
    table.add_row("an installed chip-hour", band(told.chip_hour))
    for name, part in sorted(told.parts.items(), key=lambda item: -item[1].mid):
        table.add_row(f"  {name}", band(part))
    table.add_row("a used chip-hour", band(told.used_chip_hour))
    if told.output_mtoken is not None:
        table.add_row(f"{case.serving.model}: a million output tokens, all in", band(told.output_mtoken))
        for name, each in told.tokens.items():
            table.add_row(f"  of them a million {name} tokens", band(each))
        table.add_row("  million output tokens a month", money((told.monthly_tokens or 0.0) / 1e6))
    if told.run is not None:
        table.add_row(f"{case.training.model}: a run of {case.training.tokens:.3g} tokens", band(told.run))
        table.add_row("  days", f"{told.run_s / 86400.0:.3g}")
    console.print(table)
    console.print("each figure is the median of its own draws, so parts need not add up to the whole")
    if work:
        _mixed(console, work)
    _uses(console, told)
    _choices(console, told)
    _site(console, told)
    _swings(console, case, told)
    if rows:
        _compared(console, rows, unit)
    console.print("[bold]figures[/]")
    for figure in sorted(case.figures.values(), key=lambda each: each.key):
        origin = " ".join(part for part in (figure.source, figure.date) if part)
        note = f"; {figure.note}" if figure.note else ""
        kind = figure.kind or "published"
        console.print(f"  {escape(figure.key)}: {_figure(figure)} ({kind}) {escape(origin + note)}")
    if said:
        console.print("[bold]assumptions[/]")
        for line in said:
            console.print(f"  - {escape(line)}")
    console.print("not counted: building, land, taxes, software licences, fees of a network outside")
    console.print(f"{told.samples:,} draws, seed {told.seed}")


def _figure(figure: Any) -> str:
    units = {"cny": "CNY", "usd": "USD", "cny_per_kwh": "CNY/kWh", "usd_per_kwh": "USD/kWh", "cny_per_h": "CNY/h",
             "usd_per_h": "USD/h", "cny_per_usd": "CNY/USD"}  # fmt: skip
    unit = units.get(figure.dimension, "")
    ends = f"{figure.low:,.4g}" if figure.low == figure.high else f"{figure.low:,.4g} to {figure.high:,.4g}"
    return f"{ends} {unit}".strip()


def _table(*columns: str) -> Any:
    return terminal.table(*columns, options={"overflow": "fold"}, header_style="bold")


def _uses(console: Any, told: Any) -> None:
    what = "a million output tokens" if told.output_mtoken is not None else "a used chip-hour"
    table = _table("by use", *told.at_use)
    table.add_row(what, *(band(each) for each in told.at_use.values()))
    console.print(table)


def _mixed(console: Any, work: Sequence[Any]) -> None:
    """Kinds of work: what each costs, and makes in a month."""
    table = _table("work", "share", "a million output, or a run", "a month", "costs", "earns")
    for each in work:
        made = each.monthly_runs if each.trained else each.monthly_tokens
        table.add_row(
            escape(each.model),
            f"{each.share_ratio:.0%}",
            band(each.run if each.trained else each.output_mtoken),
            f"{money(made.mid)} runs" if each.trained else f"{money(made.mid / 1e6)} M",
            f"{each.monthly_cost.mid / 1e6:.3g} M",
            "-" if each.monthly_income is None else f"{each.monthly_income.mid / 1e6:.3g} M",
        )
    console.print(table)


def _choices(console: Any, told: Any) -> None:
    """Own, rented, or an API."""
    if told.output_mtoken is None and told.even_utilisation is None:
        return
    table = _table("own, rent or call", "a million output tokens")
    if told.output_mtoken is not None:
        table.add_row("rented" if told.rented else "own", band(told.output_mtoken))
    if told.rented_mtoken is not None:
        table.add_row("rented chips, idle hours paid", band(told.rented_mtoken))
    if told.api_mtoken is not None:
        table.add_row("an API's list price, input included", band(told.api_mtoken))
    if told.even_utilisation is not None:
        table.add_row("use from which own chips beat the API", _even(told.even_utilisation))
    console.print(table)


def _even(one: Any) -> str:
    def text(value: float) -> str:
        return f"{value:.0%}" if value <= 1.0 else "never"

    return f"{text(one.mid)} ({text(one.low)} to {text(one.high)})"


def _site(console: Any, told: Any) -> None:
    """Power, bill and carbon by month and hour, what breaks, and money by year."""
    if told.by_month:
        keys = [key for key in told.by_month[0] if key != "month"]
        total = {key: sum(row[key] for row in told.by_month) for key in keys}
        peak = max(told.by_hour, key=lambda row: row["bill"])
        quiet = min(told.by_hour, key=lambda row: row["bill"])
        console.print(
            f"power {band(told.power_kw)} kW; a year {total['energy_kwh'] / 1e6:.3g} GWh, {money(total['bill'])} "
            f"{told.currency}" + (f", {total['carbon_kg'] / 1e3:,.0f} t of CO2" if "carbon_kg" in total else "")
        )
        hours = f"{peak['tariff']:.3g} a kWh at all hours"
        if peak["bill"] != quiet["bill"]:
            hours = (
                f"dearest hour {peak['hour']}:00 {money(peak['bill'])} {told.currency} at {peak['tariff']:.3g} a kWh; "
                f"cheapest {quiet['hour']}:00 {money(quiet['bill'])} at {quiet['tariff']:.3g}"
            )
        console.print(f"{hours}; a chip's month {band(told.bill_per_chip_month)}")
    out = told.outage
    lost = f", and {band(out['lost_income'])} of income" if "lost_income" in out else ""
    wait = out["repair_wait_hours"].mid
    console.print(
        f"a failure every {money(out['hours_between_failures'].mid)} h, {money(out['mean_chips_away'].mid)} chips away "
        f"in the mean, {money(out['chips_away'].high)} in the worst of 20 looks"
        + (f" (a part waits {money(wait)} h for the crew)" if wait else "")
        + f"; an hour of outage costs {band(out['hour'])} {told.currency}{lost}"
    )
    if told.cash:
        table = _table("year", *(str(int(row["year"])) for row in told.cash))
        for key in ("paid", "earned", "total"):
            table.add_row(key, *(f"{row[key] / 1e6:,.3g} M" for row in told.cash))
        console.print(table)


def _swings(console: Any, case: Any, told: Any) -> None:
    table = _table("what matters", "at its low end", "at its high end", "")
    most = max((abs(each.high - each.low) for each in told.tornado), default=1.0)
    for each in told.tornado[:SHOWN]:
        title = case.figures[each.key].title or each.key
        table.add_row(
            escape(title), money(each.low), money(each.high), "█" * max(round(abs(each.high - each.low) / most * 12), 1)
        )
    console.print(table)


def _each(rate: float | None) -> str:
    """Of a million yuan, or a megawatt."""
    return "-" if rate is None else money(rate * 1e6)


def _compared(console: Any, rows: Sequence[Any], unit: str) -> None:
    table = _table("the same load on", "a million output tokens", "tok/s a MCNY", "tok/s a MW", "machines", "a year")
    for row in rows:
        table.add_row(
            escape(row.name) + (" (rented)" if row.rented else ""),
            band(row.output_mtoken),
            _each(row.output_tokens_per_s_per_cny),
            _each(row.output_tokens_per_s_per_w),
            f"{row.machines_ratio:.3g}",
            f"{row.yearly.mid / 1e6:.3g} M {unit}",
        )
    console.print(table)
    later = [row.name for row in rows]
    for row in rows:
        later.remove(row.name)
        if alike := [name for name in row.alike if name in later]:  # each pair once
            console.print(f"the ranges cannot tell {escape(row.name)} from {escape(', '.join(alike))}")
