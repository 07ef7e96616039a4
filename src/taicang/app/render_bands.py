"""What every answer ends with on the terminal: assumptions, sources, how far each figure may be off, what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from taicang.catalog.trust import NINE_IN_TEN, Band
from taicang.errors import MissingFigure, NotModelled
from taicang.search.trusted import Prediction
from taicang.units import show

if TYPE_CHECKING:
    from taicang.centre import draw
    from taicang.centre.quote import Costs, Quote
    from taicang.predict.prediction import Served


TITLE = "error band: where nine measurements in ten lie"
NAMES = {
    "tpot": "TPOT", "itl": "ITL", "ttft": "TTFT", "e2e": "E2E", "mfu": "MFU", "step_time": "step",
    "throughput": "tokens/s",
}  # fmt: skip


def band_lines(bands: Mapping[str, Band], figures: Mapping[str, tuple[float | None, str]]) -> list[str]:
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
            for name in names if name in figures for value, unit in (figures[name],) if value is not None
        ]  # fmt: skip
        lines.append(f"{titles}: {band.said}" + (f": {'; '.join(ends)}" if ends else ""))
        lines.append(f"  half within {band.typical_ratio:.0%}; {band.basis}, {band.rows:,} rows")
    return lines


def listed(console: Any, title: str, lines: Iterable[str], mark: str = "- ") -> None:
    """Lines under a title."""
    console.print(f"[bold]{title}[/]")
    for line in lines:
        console.print(f"  {mark}{line}")


def closing(console: Any, p: Prediction, figures: Mapping[str, tuple[float | None, str]], first: str = "") -> None:
    """What ``p`` assumes, where it comes from and how far it may be off; ``first`` begins the last line."""
    listed(console, "assumptions", p.assumptions)
    listed(console, "sources", p.sources)
    listed(console, TITLE, band_lines(p.bands, figures), "")
    console.print(f"[dim]{first}catalogue {p.digest[:12]}; taicang {p.version}[/]")


def quoted(
    spec: str, sets: Sequence[str], of: Callable[[Costs], Quote | None], *, rent_usd: float = 0.0
) -> Quote | str:
    """The quote that ``of`` makes of a machine's costs, or why there is none; ``rent_usd``: of a chip and hour."""
    from taicang import catalog
    from taicang.centre.figures import given
    from taicang.centre.quote import Costs

    stated = {"rent": given("rent", f"{rent_usd!r} USD/h")} if rent_usd else {}
    try:
        costs = Costs(spec, catalog.machine(spec, sets), sets, stated=stated)
        return of(costs) or costs.why
    except (MissingFigure, NotModelled) as error:
        return str(error)


def of_tokens(found: Served, costs: Costs) -> Quote | None:
    """For ``quoted``: tokens served so."""
    return costs.tokens(found)


def cost_fields(quote: Quote | str) -> dict[str, Any]:
    """A quote, or why there is none, for JSON."""
    from taicang.records import plain

    known = not isinstance(quote, str)
    return {"cost": plain(quote) if known else None} | ({} if known else {"cost_unknown": quote})


def cost_line(quote: Quote | str) -> str:
    """A quote in a line or two."""
    if isinstance(quote, str):
        return f"cost: unknown ({quote})"
    low, high = quote.utilisation
    way = "rented" if quote.rented else "bought"
    said = (
        f"  chips {way}, in use {low:.0%} to {high:.0%} of the time; 5th to 95th percentile; your own: taicang centre"
    )
    if quote.run is not None:
        return f"cost of the run: {span(quote.run, quote.currency)}\n{said}"
    if quote.output_mtoken is not None and quote.tokens is None:
        return f"cost per million output tokens, all over them: {span(quote.output_mtoken, quote.currency)}\n{said}"
    if quote.tokens is None or quote.output_mtoken is None:
        return f"cost: {span(quote.used_chip_hour, quote.currency)} per chip-hour in use\n{said}"
    parts = [f"{name} {span(quote.tokens[name], '')}" for name in ("input", "output")]
    whole = f"(all over output: {span(quote.output_mtoken, '')})"
    return f"cost per million tokens, {quote.currency}: {', '.join(parts)} {whole}\n{said}"


def span(band: draw.Band, unit: str) -> str:
    """A band: "3.5 to 9.2 CNY"."""
    return f"{money(band.low)} to {money(band.high)} {unit}".rstrip()


def money(value: float) -> str:
    """Three digits, or whole units."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
