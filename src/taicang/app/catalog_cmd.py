"""``taicang catalog``: the chips, machines and stacks that are known, and where every figure comes from."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from taicang.app import terminal
from taicang.app.options import HELP, command, echo_json

if TYPE_CHECKING:
    from taicang.catalog import Entry, Figure

_KINDS = ("chip", "machine", "stack")


@command("catalog", click.Group, context_settings=HELP)
def catalog() -> None:
    """Chips, machines and software stacks, every figure with its source."""


@command("catalog.list", partial(catalog.command, "list"))
def list_(kind: str | None, as_json: bool) -> None:
    """List what is known by name."""
    from taicang.catalog import entry, names, own

    found = [entry(k, name) for k in _KINDS if kind in (None, k) for name in (*names(k), *own.names(k))]
    rows = [
        {
            "kind": e.kind,
            "name": e.name,
            "title": e.title,
            "status": e.status,
            "about": f"{_about(e)} (yours)" if e.name in own.names(e.kind) else _about(e),
            "unknowns": len(e.unknowns),
            "conflicts": len(e.conflicts),
        }
        for e in found
    ]
    if as_json:
        echo_json(rows)
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("kind", "name", "title", "status", "about"):
        table.add_column(column, no_wrap=column == "name", overflow="fold")
    for row in rows:
        table.add_row(*(str(row[column]) for column in ("kind", "name", "title", "status", "about")))
    terminal.console().print(table)


def _about(entry: Entry) -> str:
    given = {figure.key: figure.text for figure in entry.figures}
    wanted = {
        "chip": ("peak.bf16", "memory.capacity", "memory.bandwidth"),
        "machine": ("chips", "chip"),
        "stack": ("epoch",),
    }[entry.kind]
    return (
        " x ".join(given[key] for key in wanted if key in given)
        if entry.kind == "machine"
        else ", ".join(given[key] for key in wanted if key in given)
    )


@command("catalog.show", catalog.command)
def show(name: str, kind: str | None, sets: tuple[str, ...], as_json: bool) -> None:
    """Show every figure of NAME (or of a YAML file) with its source, and where sources disagree."""
    from taicang.catalog import digest, entry, find, sources
    from taicang.records import plain

    found = entry(kind or find(name), name, sets)
    used = {figure.source for figure in found.figures} | {
        other.source for figure in found.figures for other in figure.conflicts
    }
    cited = [source for key, source in sources().items() if key in used]
    if as_json:
        record = plain(found) | {
            "unknowns": list(found.unknowns),
            "sources": [plain(source) for source in cited],
            "digest": digest(),
        }
        echo_json(record)
        return
    from rich.markup import escape
    from rich.table import Table

    console = terminal.console()
    status = f"  ({found.status})" if found.status else ""
    console.print(f"[bold]{escape(found.title)}[/bold]  {found.kind} {escape(found.name)}{status}\n", highlight=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("key", no_wrap=True)
    for column in ("value", "kind", "source and note"):
        table.add_column(column, overflow="fold")
    for figure in found.figures:
        style = {"unknown": "red", "assumed": "yellow"}.get(figure.kind, "")
        table.add_row(figure.key, escape(figure.text), figure.kind, escape(_origin(figure)), style=style)
        for other in figure.conflicts:
            note = ", ".join(part for part in (other.source, other.note) if part)
            table.add_row("", escape(f"or {other.text}"), "", escape(note), style="dim")
    console.print(table)
    for word, said in found.fitted.items():
        if word != "bands":
            console.print(f"{escape(word)}: {escape(str(said))}", highlight=False)
    console.print("\n[bold]Sources[/bold]")
    for source in cited:
        told = f"{source.key}: {source.title} [{source.tier}] {source.url}".rstrip()
        console.print(f"  {escape(told)}", highlight=False, soft_wrap=True)


def _origin(figure: Figure) -> str:
    place = f"{figure.source}, {figure.place}" if figure.source and figure.place else figure.source or figure.place
    return f"{place}; {figure.note}" if place and figure.note else place or figure.note


@command("catalog.check", catalog.command)
@click.pass_context
def check(ctx: click.Context, name: str | None, as_json: bool) -> None:
    """Check the whole catalogue, or NAME or a YAML file of yours: keys, units, sources, laws between figures."""
    from taicang.catalog import check as find_faults
    from taicang.catalog import digest, names
    from taicang.records import plain

    findings = find_faults(name)
    if as_json:
        echo_json({"digest": digest(), "findings": plain(findings)})
    else:
        for finding in findings:
            key = f" {finding.key}:" if finding.key else ""
            where = "" if finding.problem.startswith(f"{finding.entry}:") else f"{finding.entry}:{key} "
            click.echo(terminal.clean(f"{where}{finding.problem}"))
        if not findings:
            counts = ", ".join(f"{len(names(kind))} {kind}s" for kind in _KINDS)
            click.echo(f"sound: {name or counts} (data digest {digest()[:12]})")
    ctx.exit(2 if findings else 0)
