"""Fabrics on the terminal."""

from __future__ import annotations

from textwrap import fill
from typing import Any

from taicang.app import terminal
from taicang.app.render_bands import TITLE, band_lines
from taicang.fabric.placement import Axis
from taicang.predict.fabric import Answer, Shape
from taicang.predict.fabric_parts import Breakage, Shares
from taicang.reliability import DAY
from taicang.units import show

console = terminal.console(highlight=False, soft_wrap=True)


def show_any(found: Any) -> None:
    """Whatever was asked."""
    match found:
        case Shape():
            show_shape(found)
        case Answer():
            show_answer(found)
        case Breakage():
            show_breakage(found)
        case Shares():
            show_shares(found)
        case (Breakage(), *_):
            show_breakages(found)
        case _:
            show_axes(found)


def show_breakage(found: Breakage) -> None:
    """What fails, and what is left."""
    console.print(f"[bold]{found.machine}[/], {found.draws:,} looks at its steady state")
    table = terminal.table("part", "number", "failures a day", "down on average")
    for part in found.parts:
        table.add_row(
            part.kind, f"{part.count:,}", f"{part.failures_per_s * DAY:.3g}", f"{part.count * part.down_ratio:.3g}"
        )
    console.print(table)
    nothing, whole = found.whole_ratio, found.fabric_whole_ratio
    console.print(f"nothing broken {nothing:.1%} of the time; full bandwidth {whole:.1%}")
    console.print(
        f"{found.nodes_left_ratio:.2%} of the nodes left on average; "
        f"no more than {found.spares} out {found.enough_nodes_ratio:.1%} of the time"
    )
    console.print("an even exchange among the nodes that are left")
    steps = [found.step] if found.step else []
    table = terminal.table("for this share of the time", "bandwidth at least", *(f"{step} at most" for step in steps))
    for share, value in found.bandwidth.items():
        table.add_row(share, f"{value:.1%}", *(show(found.step_s[share], "s") for _ in steps))
    console.print(table)
    if found.step:
        console.print(
            f"{found.step}: {show(found.step_s['whole'], 's')} whole, {show(found.step_s['mean'], 's')} on average"
        )
    _notes(found.assumptions)


def show_breakages(found: tuple[Breakage, ...]) -> None:
    """Several machines in their steady state, one a line."""
    console.print(f"{found[0].draws:,} looks at each in its steady state: optical modules, faults a day,")
    console.print("share of the time with nothing broken and with a whole bus, nodes left, and the")
    console.print("bandwidth that there is 99.9% of the time")
    table = terminal.table("machine", "modules", "faults", "optical", "whole", "bus", "nodes", "least")
    table.columns[0].no_wrap = True
    for each in found:
        modules = [part for part in each.parts if part.kind.endswith("module")]
        daily, optics = (sum(part.failures_per_s for part in rows) * DAY for rows in (each.parts, modules))
        table.add_row(
            each.machine, f"{sum(part.count for part in modules):,}", f"{daily:.3g}", f"{optics:.3g}",
            f"{each.whole_ratio:.1%}", f"{each.fabric_whole_ratio:.1%}", f"{each.nodes_left_ratio:.2%}",
            f"{each.bandwidth['99.9%']:.1%}",
        )  # fmt: skip
    console.print(table)
    _notes(tuple(dict.fromkeys(note for each in found for note in each.assumptions)))


def show_shares(found: Shares) -> None:
    """Logical machines."""
    table = terminal.table("chips", "nodes", "switch boxes", "ports in use")
    for each in found.logical:
        table.add_row(f"{each.chips:,}", f"{each.nodes:,}", f"{each.switch_boxes:,}", f"{each.used_ratio:.0%}")
    console.print(table)
    if found.allocated_ratio is not None:
        console.print(f"a backlog of jobs of these sizes, in turn, keeps {found.allocated_ratio:.1%} of the nodes busy")


def show_axes(found: tuple[Axis, ...]) -> None:
    """Where each axis lies."""
    table = terminal.table("axis", "ranks", "stride", "partners met at", "on the links", "ranks at random")
    for each in found:
        met = ", ".join(f"{level} {share:.0%}" for level, share in each.reached_ratio.items() if share)
        table.add_row(
            each.name, f"{each.ranks:,}", f"{each.stride:,}", met, show(each.wire_s, "s"), show(each.shuffled_s, "s")
        )
    console.print(table)


def show_shape(found: Shape) -> None:
    """Levels and parts."""
    console.print(f"[bold]{found.machine}[/], {found.plane}: {found.ranks:,} ranks")
    table = terminal.table("level", "ranks", "topology", "one way", "latency")
    for row in found.levels:
        table.add_row(
            str(row["level"]), f"{row['ranks']:,}", str(row["topology"]), show(float(row["bytes_per_s"]), "B/s"),
            show(float(row["latency_s"]), "s"),
        )  # fmt: skip
    console.print(table)
    listed = ", ".join(f"{number:,} {kind}" for kind, number in found.parts.items() if number)
    console.print(fill(listed, 78, break_on_hyphens=False))
    console.print(f"bisection under an even exchange: {show(found.bisection_bytes_per_s, 'B/s')} one way")
    _notes(found.assumptions)


def show_answer(found: Answer) -> None:
    """Headline, then where the bytes went."""
    ask = found.ask
    console.print(
        f"[bold]{ask.kind}[/] of {show(ask.payload_bytes, 'B')} on {found.ranks:,} ranks of [bold]{found.machine}[/], "
        f"{found.algorithm}, {ask.routing}{', ' + ', '.join(ask.failed) + ' failed' if ask.failed else ''}"
    )
    table = terminal.table("", "time")
    table.add_row("on the links", show(found.wire_s, "s"))
    if ask.seeds > 1:
        table.add_row(f"  from and to, over {ask.seeds} seeds", f"{show(found.least_s, 's')} {show(found.most_s, 's')}")
    table.add_row("  the same bytes dealt evenly, nothing broken", show(found.even_s, "s"))
    table.add_row("  latency of messages in a row", show(found.latency_s, "s"))
    if found.library_s is not None:
        table.add_row("with a library's start-up, efficiency and algorithm", show(found.library_s, "s"))
    if found.closed_s is not None:
        table.add_row("  closed form, even and whole", show(found.closed_s, "s"))
    console.print(table)
    if found.beside:
        rivals = terminal.table("at the same time", "bytes", "alone", "together")
        for rival in found.beside:
            sizes = show(rival.payload_bytes, "B"), show(rival.alone_s, "s"), show(rival.together_s, "s")
            rivals.add_row(rival.kind.replace("_", "-"), *sizes)
        console.print(rivals)
    _loads(found)
    if found.lost_ranks:
        console.print(f"{found.lost_ranks:,} ranks are cut off and left out")
    _notes(found.assumptions)
    _trust(found)


def _loads(found: Answer) -> None:
    """Links by level, and the hottest."""
    levels = terminal.table("level", "fullest link", "busy", "mean of links in use")
    for level in found.levels:
        if level.busy_s:
            levels.add_row(level.level, show(level.sent_bytes, "B"), show(level.busy_s, "s"), f"{level.mean_ratio:.0%}")
    console.print(levels)
    links = terminal.table("hottest", "bytes", "busy", "of the time")
    for link in found.hottest:
        alike = f" and {link.alike:,} more" if link.alike else ""
        links.add_row(
            link.link + alike, show(link.carried_bytes, "B"), show(link.busy_s, "s"), f"{link.used_ratio:.0%}"
        )
    console.print(links)


def _trust(found: Answer) -> None:
    times = {"library": found.library_s, "closed form": found.closed_s}
    bands = {name: band for name, band in found.bands.items() if times[name] is not None}
    figures = {name: (seconds, "s") for name, seconds in times.items() if seconds is not None}
    for line in found.sources:
        console.print(fill(f"source: {line}", 78, break_on_hyphens=False))
    if bands:
        console.print(f"[bold]{TITLE}[/]")
    for line in band_lines(bands, figures):
        console.print(fill(line, 78, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False))
    console.print(f"[dim]catalogue {found.digest[:12]}; taicang {found.version}[/]")


def _notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        console.print(fill(f"assumed: {note.removesuffix(' (assumed)')}", 78, break_on_hyphens=False))
