"""A run of a program on virtual devices, on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from taicang.app import terminal
from taicang.units import show
from taicang.virtual.report import RankReport, Report

console = terminal.console(highlight=False)
TOP = 12
"""Operators that are listed."""


def show_run(r: Report, calls: Sequence[Mapping[str, Any]] = ()) -> None:
    """One page: headline, memory, operators, what was assumed and what invented."""
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
    _memory(r, max(r.ranks, key=lambda each: each.memory.reserved_bytes))
    console.print(f"[bold]operators[/] of rank {worst.rank} (time of their kernels, overlapped or not)")
    for line in worst.lines[:TOP]:
        console.print(f"  {line.name[:30]:30s} {line.phase:9s} {line.launches:6d} x {show(line.seconds, 's'):>8s}")
    if len(worst.lines) > TOP:
        rest = sum(line.seconds for line in worst.lines[TOP:])
        console.print(
            f"  {'others':30s} {'':9s} {sum(w.launches for w in worst.lines[TOP:]):6d} x {show(rest, 's'):>8s}"
        )
    if calls:
        console.print("[bold]CUDA on Ascend[/] (what became of each call: --log)")
        for kind in dict.fromkeys(each["kind"] for each in calls):
            mine = [each for each in calls if each["kind"] == kind]
            took = {
                each["operator"]: f" ({show(each['seconds'], 's')} in all)" if "seconds" in each else ""
                for each in mine
            }
            names = ", ".join(name + time for name, time in took.items()) if kind != "mapped" else ""
            console.print(f"  - {kind}: {len(mine)} {'operators' if 'path' not in mine[0] else 'places'}"
                          f"{': ' if names else ''}{names}", markup=False)  # fmt: skip
    if r.invented:
        console.print("[bold]invented[/] (the program read what nobody computed)")
        for what, often in r.invented.items():
            console.print(f"  - {what}: {often:,} times")
    for title, texts in (("notes", r.notes), ("assumptions", r.assumptions)):
        if texts:
            console.print(f"[bold]{title}[/]")
        for text in texts:
            console.print(f"  - {text}")
    console.print(f"[bold]error band[/] {r.band}")
    console.print(f"[dim]catalogue {r.digest[:12]}; taicang {r.version}[/]")


def _memory(r: Report, full: RankReport) -> None:
    top = full.memory
    console.print(f"[bold]memory[/] of rank {full.rank} at its peak ({show(r.capacity_bytes, 'B')})")
    for name, size in top.kinds_bytes.items():
        console.print(f"  {name:28s} {show(float(size), 'B'):>8s}")
    console.print(f"  {'allocated':28s} {show(float(top.allocated_bytes), 'B'):>8s}")
    short = "" if full.fits else ": more than there is"
    console.print(f"  {'reserved':28s} {show(float(top.reserved_bytes), 'B'):>8s}{short}")
