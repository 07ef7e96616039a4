"""``taicang trace``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from taicang.app.options import HELP, command, echo_json, give
from taicang.app.trace_options import load
from taicang.output import check_file


@command("trace", click.Group, context_settings=HELP)
def trace() -> None:
    """Look at, convert and fetch request traces."""


@command("trace.info", trace.command)
def info(path: Path, as_json: bool, page: Path | None, **options: Any) -> int:
    """Requests, rate, burstiness, lengths, sessions and what a prefix cache could save."""
    import numpy as np

    from taicang.app.terminal import sparkline
    from taicang.traffic import trace as traces

    made = load([path], options)
    found = traces.info(made)
    counts, edges = np.histogram(made.arrival_s, 48)
    rates = counts / max(edges[1] - edges[0], 1e-30)

    def show() -> None:
        for name, value in found.items():
            if value not in (None, {}, [], ""):
                whole = f"{value:,}" if isinstance(value, int) else value
                click.echo(f"  {name:<18} {f'{value:,.4g}' if isinstance(value, float) else whole}")
        if made.span_s:
            click.echo(f"  {'arrivals':<18} {sparkline(counts)}  up to {rates.max():.3g}/s")

    arrivals = {"arrivals": np.stack([edges[:-1], rates], axis=1)} if made.span_s else {}
    return give("trace", found, show, as_json=as_json, page=page, title=made.name, shown=found | arrivals)


@command("trace.convert", trace.command)
def convert(paths: tuple[Path, ...], overlay: bool, gap_s: float, requests: int | None, **options: Any) -> None:
    """Write traces, cut, thinned, scaled and joined, as Mooncake JSON lines (.jsonl) or Vidur CSV (.csv)."""
    from taicang.traffic import change
    from taicang.traffic.servegen import is_client_set
    from taicang.traffic.write import write

    if len(paths) < 2:
        raise click.UsageError("expected TRACE... OUT")
    *sources, out = paths
    check_file(out, "OUT")
    made = load(sources, options, overlay=overlay, gap_s=gap_s)
    if options["rate"] and not all(map(is_client_set, sources)):
        made = change.to_rate(made, options["rate"])
    made = change.take(made, requests) if requests else made
    lost = write(made, out)
    click.echo(f"{len(made):,} requests of {made.name} ({made.kind}) written to {out}")
    for what, count in made.repaired.items():
        click.echo(f"repaired: {count:,} {what}")
    for note in (*made.notes, *lost):
        click.echo(f"note: {note}")


@command("trace.profiles", trace.command)
def profiles(as_json: bool) -> None:
    """Profiles of public traces that the package carries, for replay --profile."""
    from taicang.catalog import profiles as known

    if as_json:
        echo_json(known.profiles())
        return
    for name, entry in known.profiles().items():
        click.echo(f"  {known.line(name, entry)}")


@command("trace.fetch", trace.command)
def fetch(name: str | None, out: Path) -> None:
    """Download a public trace by NAME and check its sum; without a name, list them."""
    from taicang.app.download import download
    from taicang.catalog.profiles import downloads
    from taicang.errors import UnknownName

    known = downloads()
    if name is None:
        for each, entry in known.items():
            checked = "" if entry.get("sha256") else "  (no checksum known: not fetched)"
            click.echo(f"  {each:<28} {entry.get('licence', ''):<12} {entry.get('rows', '')}{checked}")
        return
    if name not in known:
        raise UnknownName("trace", name, known)
    click.echo(f"{download(known[name], out)}")
