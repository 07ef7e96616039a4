"""``taicang check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taicang.app.options import command, give
from taicang.app.system_options import system_from

if TYPE_CHECKING:
    from taicang.predict.check import Check, Compared

SHOWN = 5
"""Causes in the table."""


@command("check")
def check(path: Path, model: str, machine: str, page: Path | None, as_json: bool, **options: Any) -> None:
    """Replay the load of a benchmark and compare what it measured with what is predicted, figure by figure."""
    from taicang.traffic.read import runs_in

    one = not (options["instances"] or options["prefill"] or options["decode"])
    if one:
        options["instances"] = 1
    said = ("one instance: --instances says otherwise",) if one else ()
    several = runs_in(path)
    picked = list(range(1, several + 1)) if options["run"] is None and several > 1 else [options["run"]]
    alone = len(picked) == 1
    told = [(run, _checked(path, model, machine, options | {"run": run}, causes=alone)) for run in picked]
    fields = [_fields(found, (*said, *found.notes)) | ({"run": run} if run else {}) for run, found in told]

    def show() -> None:
        for run, found in told:
            if not alone:
                click.echo(f"run {run} of {several}" + (f", {found.clients} clients" if found.clients else ""))
            _show(found, (*said, *found.notes))
            if not alone:
                click.echo("")
        if not alone:
            click.echo("--run N compares one of them, and looks for what may explain its gap")

    give("check", fields[0] if alone else {"runs": fields}, show, as_json=as_json, page=page,
         title=f"{path.name}: {model} on {machine}")  # fmt: skip


def _checked(path: Path, model: str, machine: str, options: dict[str, Any], *, causes: bool) -> Check:
    from taicang.app.replay_output import progress_bar
    from taicang.app.trace_options import load
    from taicang.predict.check import check as compare

    trace = load([path], options)
    with progress_bar(len(trace)) as progress:
        return compare(
            model,
            machine,
            trace,
            system_from(options, model),
            clients=options["clients"] or 0,
            causes=causes and not options["no_causes"],
            seed=options["seed"],
            progress=progress,
        )


def _figure(each: Compared) -> dict[str, Any]:
    return {
        "name": each.metric,
        "measured": each.measured,
        "predicted": each.predicted,
        "error_ratio": each.error_ratio,
    }


def _fields(found: Check, notes: tuple[str, ...]) -> dict[str, Any]:
    from taicang.records import plain

    run = found.replay
    return {
        "model": run.model,
        "machine": run.machine,
        "stack": run.stack,
        "pools": run.pools,
        "clients": found.clients,
        "figures": [_figure(each) for each in found.figures],
        "tried": found.tried,
        "causes": [
            {"change": cause.change, "gap_ratio": cause.gap_ratio, "figures": [_figure(each) for each in cause.figures]}
            for cause in found.causes
        ],
        "notes": notes,
        "bands": plain(run.bands),
        "digest": run.digest,
        "version": run.version,
    }


def _show(found: Check, notes: tuple[str, ...]) -> None:
    from taicang.app.render_bands import TITLE, band_lines

    run = found.replay
    click.echo(f"{run.trace} on {run.machine}: {run.model}, {', '.join(run.pools)}")
    click.echo(f"  {run.stack}, scheduler {run.scheduler}\n")
    click.echo(f"{'':<22}{'measured':>12}{'predicted':>12}{'error':>9}")
    for each in found.figures:
        name = each.metric.replace("_s ", " ").replace("_", " ").replace("tokens per s", "tokens/s")
        name = name.replace("ttft", "TTFT").replace("tpot", "TPOT").replace("e2e", "whole")
        click.echo(
            f"  {name:<20}{_value(each, each.measured):>12}{_value(each, each.predicted):>12}{each.error_ratio:>+9.1%}"
        )
    if found.tried:
        click.echo(f"\nwhat may explain the gap ({found.tried} changes tried, one by one)")
        for cause in found.causes[:SHOWN]:
            click.echo(f"  {cause.gap_ratio:>5.0%} of the gap is left with {cause.change}")
        if not found.causes:
            click.echo("  none of them brings the figures nearer")
    click.echo(f"\n{TITLE}")
    for line in band_lines(run.bands, {}):
        click.echo(f"  {line}")
    click.echo("")
    for note in notes:
        click.echo(f"  - {note}")


def _value(each: Compared, value: float) -> str:
    from taicang.units import show

    return f"{value:,.0f}" if each.metric.endswith("per_s") else show(value, "s")
