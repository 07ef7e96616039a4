"""``taicang run``, ``taicang reprice`` and ``taicang doctor``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taicang.app import terminal
from taicang.app.options import (
    HELP,
    command,
    echo_json,
    give,
    named,
    write_chakra,
)
from taicang.output import check_file, check_folder, scratch, write_file
from taicang.units import show

if TYPE_CHECKING:
    from taicang.virtual.capture import Capture
    from taicang.virtual.report import RankReport, Report


@command("run", context_settings=HELP | {"ignore_unknown_options": True, "allow_interspersed_args": False})
def run(
    script: Path, arguments: tuple[str, ...], machine: str, out: Path | None, as_json: bool, page: Path | None,
    **options: Any,
) -> None:  # fmt: skip
    """Run a PyTorch SCRIPT, unchanged, on devices of a machine that are not there: its time, memory and kernels."""

    from taicang import catalog
    from taicang.virtual import launch

    for path, where in ((options["perfetto"], "--perfetto"), (options["log"], "--log")):
        if path is not None:
            check_file(path, where)
    if out is not None:
        check_folder(out, "--out")
    on = catalog.machine(machine, options["sets"])
    ranks, world = launch.world_of(on, options["ranks"], options["world"] or 0)
    wish = launch.Wish(
        script=script, arguments=arguments, ranks=ranks, world=world, names=launch.names_of(script, options["names"]),
        steps=options["steps"], real=options["functional"], skew=options["skew"], clock=not options["host_clock"],
        stack=options["stack"] or "", issue_s=options["issue_s"], sets=options["sets"],
    )  # fmt: skip
    with scratch() as work:
        found, status = launch.run(wish, on, machine, work)
    from taicang.catalog import porting
    from taicang.virtual import capture as captures
    from taicang.virtual import fusion, report, translation

    raw, found = found, fusion.fuse(found) if options["fuse"] else found
    done = report.schedule(found, on, options["stack"], options["issue_s"])
    calls = []
    if on.chip.ascend and wish.names == "cuda":
        spent_s = {rank: priced.seconds for rank, priced in done.priced.items()}
        calls = translation.rows(found.ranks, porting.rules("ascend"), spent_s)
    made = report.report(found, on, scheduled=done)
    fields = {"status": status, "run": made, "translated": calls}
    give(
        "runs", fields, lambda: show_run(made, calls), as_json=as_json, page=page, title=f"{made.program} on {machine}"
    )
    if out is not None:
        captures.save(raw, out)
    if options["log"] is not None:
        write_file(options["log"], json.dumps({"taicang_log": 1, "calls": calls}, indent=1) + "\n", "--log")
    if options["perfetto"] is not None:
        from taicang.virtual.trace import events

        write_file(options["perfetto"], json.dumps(events(found, done)), "--perfetto")
    if options["chakra"] is not None:
        from taicang.virtual.trace import workload

        write_chakra(workload(found, done), options["chakra"])
    raise SystemExit(status)


@command("run.reprice", context_settings=HELP)
def reprice(
    folder: Path, machines: str, issue_s: float | None, stack: str | None, sets: tuple[str, ...], fuse: bool,
    as_json: bool, page: Path | None,
) -> int:  # fmt: skip
    """A run that was captured with --out, on other machines: no PyTorch, no program, the same kernels."""
    from taicang import catalog, reading
    from taicang.virtual import fusion
    from taicang.virtual.capture import load
    from taicang.virtual.report import report

    capture = fusion.fuse(load(folder)) if fuse else load(folder)
    on = [catalog.machine(name, sets) for name in named(machines)]
    with reading.expected("a capture of a run", str(folder)):
        made = [report(capture, machine, stack, issue_s) for machine in on]
    title = f"{' '.join(capture.command)} on {machines}"
    return give("runs", {"runs": made}, lambda: _show_priced(capture, made), as_json=as_json, page=page, title=title)


def _show_priced(capture: Capture, made: Sequence[Report]) -> None:
    """A line for each machine."""
    console = terminal.console(highlight=False)
    console.print(f"[bold]{' '.join(capture.command)}[/], captured on {capture.machine}: {len(capture.ranks)} of "
                  f"{capture.world} ranks")  # fmt: skip
    console.print(f"  {'machine':28s} {'step':>9s} {'MFU':>7s} {'host':>6s} {'memory':>9s} {'of':>9s}")
    for each in made:
        worst = max(each.ranks, key=lambda rank: rank.step_s)
        size = max(rank.memory.reserved_bytes for rank in each.ranks)
        console.print(
            f"  {each.machine[:28]:28s} {show(worst.step_s, 's'):>9s} {worst.mfu_ratio:7.1%} "
            f"{worst.host_s / max(worst.step_s, 1e-30):6.1%} {show(float(size), 'B'):>9s} "
            f"{show(each.capacity_bytes, 'B'):>9s}{'' if size <= each.capacity_bytes else '  does not fit'}"
        )
    for text in dict.fromkeys(text for each in made for text in each.assumptions):
        console.print(f"  - {text}")
    console.print(f"  - the program chose its shapes on {capture.machine}: it is not asked again")
    for text in dict.fromkeys(each.band for each in made):
        console.print(f"[bold]error band[/] {text}")


@command("run.doctor", context_settings=HELP)
def doctor(as_json: bool) -> None:
    """Whether this Python's PyTorch and C++ compiler work with run, and which libraries are modelled."""
    from taicang.virtual.doctor import examine

    found = examine()
    if as_json:
        echo_json({"well": all(each.well for each in found if each.needed), "checks": found})
    else:
        for each in found:
            mark = "ok" if each.well else "MISSING" if each.needed else "-"
            click.echo(f"{mark:8s} {each.name}: {each.said}")
    raise SystemExit(0 if all(each.well for each in found if each.needed) else 2)


TOP = 12
"""Operators that are listed."""


def show_run(r: Report, calls: Sequence[Mapping[str, Any]] = ()) -> None:
    """One page: headline, memory, operators, what was assumed and what invented."""
    console = terminal.console(highlight=False)
    console.print(f"[bold]{r.program}[/] on [bold]{r.machine}[/], {r.stack}: {len(r.ranks)} of {r.world} ranks ran")
    worst = max(r.ranks, key=lambda each: each.step_s)
    if r.failure:
        console.print("  [bold]out of memory[/]: the program ended there")
    if r.step_s is None:
        console.print(f"  time             {show(worst.whole_s, 's')} in all (no optimizer step)")
    else:
        first = (
            f"; the first {show(worst.steps_s[0] * (1.0 + r.straggler_ratio), 's')}" if len(worst.steps_s) > 1 else ""
        )
        console.print(f"  step             {show(r.step_s, 's')}, the last of {len(worst.steps_s)}{first}")
    console.print(
        f"  MFU              {worst.mfu_ratio:.1%} of {show(r.peak_flop_per_s, 'FLOP/s')} (bf16); "
        f"{show(worst.flop, 'FLOP')} per rank, recompute not counted"
    )
    console.print(f"  computing        {worst.compute_s / max(worst.step_s, 1e-30):.1%} of the step")
    for name, seconds in worst.exposed_s.items():
        console.print(f"  exposed          {seconds / max(worst.step_s, 1e-30):.1%}: communication of group {name}")
    if worst.slowed_s:
        console.print(f"  slowed           {worst.slowed_s / worst.step_s:.1%}: kernels beside communication")
    console.print(f"  host-bound       {worst.host_s / max(worst.step_s, 1e-30):.1%}: no kernel is there to run")
    if r.straggler_ratio and r.step_s is not None:
        console.print(
            f"  stragglers       {r.straggler_ratio:.1%} more: the slowest of {r.world} chips, in the step above"
        )
    _memory(console, r, max(r.ranks, key=lambda each: each.memory.reserved_bytes))
    console.print(f"[bold]operators[/] of rank {worst.rank} (launches, and the time of all of them, overlapped or not)")
    for line in worst.lines[:TOP]:
        console.print(f"  {line.name[:30]:30s} {line.phase:9s} {line.launches:6d} x {show(line.seconds, 's'):>8s}")
    if len(worst.lines) > TOP:
        rest = sum(line.seconds for line in worst.lines[TOP:])
        console.print(
            f"  {'others':30s} {'':9s} {sum(w.launches for w in worst.lines[TOP:]):6d} x {show(rest, 's'):>8s}"
        )
    invented = [f"{what}: {often:,} times" for what, often in r.invented.items()]
    for title, beside, texts in (
        ("CUDA on Ascend", " (what became of each call: --log)", _translated(calls)),
        ("invented", " (the program read what nobody computed)", invented),
        ("notes", "", r.notes),
        ("assumptions", "", r.assumptions),
    ):
        if texts:
            console.print(f"[bold]{title}[/]{beside}")
        for text in texts:
            console.print(f"  - {text}", markup=False)
    console.print(f"[bold]error band[/] {r.band}")
    console.print(f"[dim]catalogue {r.digest[:12]}; taicang {r.version}[/]")


def _translated(calls: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each kind of call: how many, and how long each operator took."""
    lines = []
    for kind in dict.fromkeys(each["kind"] for each in calls):
        mine = [each for each in calls if each["kind"] == kind]
        took = {each["operator"]: f" ({show(each['seconds'], 's')} in all)" if "seconds" in each else ""
                for each in mine}  # fmt: skip
        names = ", ".join(name + time for name, time in took.items()) if kind != "mapped" else ""
        what = "operators" if "path" not in mine[0] else "places"
        lines.append(f"{kind}: {len(mine)} {what}{': ' if names else ''}{names}")
    return lines


def _memory(console: Any, r: Report, full: RankReport) -> None:
    top = full.memory
    console.print(f"[bold]memory[/] of rank {full.rank} at its peak ({show(r.capacity_bytes, 'B')})")
    for name, size in top.kinds_bytes.items():
        console.print(f"  {name:28s} {show(float(size), 'B'):>8s}")
    console.print(f"  {'allocated':28s} {show(float(top.allocated_bytes), 'B'):>8s}")
    short = "" if full.fits else ": more than there is"
    console.print(f"  {'reserved':28s} {show(float(top.reserved_bytes), 'B'):>8s}{short}")
