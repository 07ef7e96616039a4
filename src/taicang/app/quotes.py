"""What things cost, beside the predictions of them: one line, from ``taicang centre`` with the figures it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from taicang.errors import MissingFigure, NotModelled

if TYPE_CHECKING:
    from taicang.centre.draw import Band
    from taicang.centre.quote import Costs, Quote
    from taicang.predict.prediction import Served


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


def span(band: Band, unit: str) -> str:
    """A band: "3.5 to 9.2 CNY"."""
    return f"{money(band.low)} to {money(band.high)} {unit}".rstrip()


def money(value: float) -> str:
    """Three digits, or whole units."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
