"""``taicang trace``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from taicang.app.options import HELP, JSON, echo_json

READING = (
    click.option("--block-tokens", type=click.IntRange(1), help="Tokens behind one hash id of the trace."),
    click.option("--repair", is_flag=True, help="Drop faulty rows, sort by time, and count both."),
)


def _reading(function: Any) -> Any:
    for option in READING:
        function = option(function)
    return function


@click.group(context_settings=HELP)
def trace() -> None:
    """Look at, convert and fetch request traces.

    \b
    Examples:
      taicang trace info trace.jsonl.gz
      taicang trace convert azure.csv.gz trace.jsonl
      taicang trace fetch
      taicang trace fetch mooncake-toolagent --out traces/
    """


@trace.command()
@click.argument("path", type=click.Path(path_type=Path))
@_reading
@JSON
def info(path: Path, block_tokens: int | None, repair: bool, as_json: bool) -> None:
    """Requests, rate, burstiness, lengths and what a prefix cache could save."""
    from taicang.traffic import trace as traces
    from taicang.traffic.read import read

    found = traces.info(read(path, block=block_tokens or 0, repair=repair))
    if as_json:
        echo_json(found)
        return
    for name, value in found.items():
        if value not in (None, {}):
            shown = f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
            click.echo(f"  {name:<18} {shown}")


@trace.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@_reading
def convert(path: Path, out: Path, block_tokens: int | None, repair: bool) -> None:
    """Write the trace as Mooncake JSON lines (.jsonl) or Vidur CSV (.csv)."""
    from taicang.traffic.read import read
    from taicang.traffic.write import write

    found = read(path, block=block_tokens or 0, repair=repair)
    write(found, out)
    click.echo(f"{len(found):,} requests of {path.name} ({found.kind}) written to {out}")
    for what, count in found.repaired.items():
        click.echo(f"repaired: {count:,} {what}")


@trace.command()
@click.argument("name", required=False)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path(), help="Folder.")
def fetch(name: str | None, out: Path) -> None:
    """Download a public trace by NAME and check its sum; without a name, list them."""
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


def download(entry: Any, folder: Path) -> Path:
    """The trace's file in ``folder``; nothing is kept whose SHA-256 is not that of the catalogue."""
    import hashlib
    from urllib.error import URLError
    from urllib.request import urlopen

    from taicang.errors import InvalidInput, TaicangError

    url, wanted = entry.get("url", ""), entry.get("sha256")
    if not wanted or not url:
        raise InvalidInput("no address and checksum are known", where=entry["name"])
    target: Path = folder / url.rsplit("/", 1)[-1]
    try:
        with urlopen(url, timeout=60) as answer:
            data = answer.read()
    except (URLError, OSError, ValueError) as error:
        raise TaicangError(f"{url}: {error}") from None
    found = hashlib.sha256(data).hexdigest()
    if found != wanted:
        raise InvalidInput(f"sha256 {found} is not {wanted} of the catalogue; nothing written", where=url)
    folder.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return target
