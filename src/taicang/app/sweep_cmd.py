"""``taicang sweep``."""

from __future__ import annotations

import os
from pathlib import Path

import click


@click.command(
    epilog="""\b
Example of a study:
  base: {model: deepseek-r1, on: hgx-h200 x 4, input: 4000, output: 1000, tpot: 50ms}
  axes:
    chip.memory.bandwidth: {from: 3 TB/s, to: 12 TB/s, scale: log, steps: 5}
    quant: [auto, bf16]
  sample: {kind: grid}            # or: {kind: latin, points: 1000, seed: 1}
"""
)
@click.argument("study", type=click.Path(dir_okay=False))
@click.option("--out", type=click.Path(file_okay=False), help="Folder of the results (default: beside the study).")
@click.option("--workers", default="auto", show_default=True, help="Processes, or ray (an extra).")
@click.option("--address", help="Ray cluster to join (default: a local one).")
def sweep(study: str, out: str | None, workers: str, address: str | None) -> None:
    """Evaluate a STUDY: axes over catalogue fields (chip.memory.bandwidth), plan fields and the load.

    Keys of base and axes: model, on, input, output, ttft, tpot, stack, quant, mode, batch, mtp, acceptance, skew,
    chunk, tp, dp, pp, ep, moe_tp, redundant, shared_ranks, microbatches, exchange, and any catalogue field with a dot.
    Stopped or killed, it goes on where it was when it is started again.
    """
    from taicang.errors import InvalidInput
    from taicang.search.journal import Journal
    from taicang.search.study import points, read
    from taicang.search.workers import local, on_ray

    if not (workers in ("auto", "ray") or (workers.isdigit() and int(workers) > 0)):
        raise InvalidInput(f"a number of processes, auto or ray, not {workers!r}", where="--workers")
    plan = read(study)
    every = points(plan)
    folder = Path(out) if out else Path(study).with_suffix("")
    journal = Journal(folder, plan.digest)
    left = [(i, point) for i, point in enumerate(every) if i not in journal.done]
    click.echo(f"{len(every)} points, {len(every) - len(left)} done before", err=True)
    count = (os.cpu_count() or 1) if workers == "auto" else 1 if workers == "ray" else int(workers)
    rows = on_ray(left, address) if workers == "ray" else local(left, min(count, max(len(left), 1)))
    for finished, row in enumerate(rows, 1):
        journal.add(row)
        if finished % 100 == 0:
            click.echo(f"{finished} of {len(left)}", err=True)
    for path in journal.finish(len(every)):
        click.echo(str(path))
