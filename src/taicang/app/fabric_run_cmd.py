"""``taicang fabric run``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from taicang.app.options import HELP, JSON, echo_json

SHOWN = 8
"""Ranks in the table."""


@click.command(
    "run",
    context_settings=HELP,
    epilog="""\b
Examples:
  taicang fabric run all_reduce --network network.yml --system system.json       (all_reduce.0.et, all_reduce.1.et...)
  taicang fabric run workload.txt --network hgx_h100.yml --json
  taicang fabric run workload.txt --on "hgx-h100 x 4" --perfetto trace.json
""",
)
@click.argument("workload", type=click.Path(path_type=Path))
@click.option(
    "--network", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="ASTRA-sim's network file."
)
@click.option("--system", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="ASTRA-sim's system file.")
@click.option("--on", "machine", help="A machine of the catalogue in place of a network file.")
@click.option(
    "--perfetto", type=click.Path(path_type=Path, dir_okay=False), help="Also a timeline, for ui.perfetto.dev."
)
@JSON
def run(
    workload: Path, network: Path | None, system: Path | None, machine: str | None, perfetto: Path | None, as_json: bool
) -> None:
    """Run WORKLOAD of another simulator: Chakra traces (protobuf 0.0.4 or JSON), or a workload of SimAI.

    WORKLOAD is a file, or the prefix of files PREFIX.RANK.et.
    """
    from taicang.output import check_file, write_file
    from taicang.predict.workload import on_machine, on_network

    if (network is None) == (machine is None):
        raise click.UsageError("give --network (and --system), or --on")
    if system is not None and network is None:
        raise click.UsageError("--system goes with --network")
    if perfetto is not None:
        check_file(perfetto, "--perfetto")
    found = on_network(workload, network, system) if network is not None else on_machine(workload, str(machine))
    if as_json:
        echo_json({name: getattr(found, name) for name in found.__slots__ if name != "spans"})
    else:
        _shown(found)
    if perfetto is not None:
        write_file(perfetto, json.dumps(_trace(found.spans)), "--perfetto")


def _shown(found: Any) -> None:
    from taicang.units import show

    click.echo(f"{found.workload} on {found.network}: {found.tasks:,} tasks, {found.ranks:,} ranks, "
               f"{show(found.seconds, 's')}")  # fmt: skip
    click.echo(f"{'rank':>6}{'done':>12}{'computing':>12}{'exchanging':>12}{'exposed':>12}")
    for rank, one in list(found.by_rank.items())[:SHOWN]:
        cells = (one.seconds, one.compute_s, one.communication_s, one.exposed_s)
        click.echo(f"{rank:>6}" + "".join(f"{show(each, 's') if each else '0 s':>12}" for each in cells))
    if len(found.by_rank) > SHOWN:
        click.echo(f"   ... and {len(found.by_rank) - SHOWN:,} more")
    for note in found.notes:
        click.echo(f"  - {note}")


BINS = 400
"""Steps of the counters over the whole run."""


def _trace(spans: Any) -> dict[str, Any]:
    """The run as trace events: a process for each rank, computing and exchanging on threads of their own, and counters
    of the ranks that do either over time."""
    ranks = sorted({each.rank for each in spans})
    named = [
        {"name": what, "ph": "M", "pid": rank, "tid": thread, "args": {"name": name}}
        for rank in ranks
        for what, thread, name in (("process_name", 0, f"rank {rank}"), ("thread_name", 0, "computing"),
                                   ("thread_name", 1, "exchanging"))
    ]  # fmt: skip
    events = [
        {"name": each.name, "cat": each.kind, "ph": "X", "pid": each.rank, "tid": int(each.kind != "compute"),
         "ts": each.begin_s * 1e6, "dur": (each.end_s - each.begin_s) * 1e6}
        for each in spans
    ]  # fmt: skip
    return {"traceEvents": [*named, *events, *_used(spans, len(ranks))], "displayTimeUnit": "ns"}


def _used(spans: Any, ranks: int) -> list[dict[str, Any]]:
    """Share of the ranks that compute, and that exchange, in each bin of the run."""
    end = max((each.end_s for each in spans), default=0.0)
    if not end:
        return []
    wide = end / BINS
    busy = {"computing": [0.0] * BINS, "exchanging": [0.0] * BINS}
    for each in spans:
        row = busy["computing" if each.kind == "compute" else "exchanging"]
        first, last = int(each.begin_s / wide), min(int(each.end_s / wide), BINS - 1)
        for at in range(first, last + 1):
            row[at] += max(min(each.end_s, (at + 1) * wide) - max(each.begin_s, at * wide), 0.0)
    return [
        {"name": "ranks in use", "ph": "C", "pid": ranks, "ts": at * wide * 1e6,
         "args": {name: row[at] / wide / ranks for name, row in busy.items()}}
        for at in range(BINS)
    ]  # fmt: skip
