"""``taicang sweep`` and ``taicang sweep query``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from taicang.app import terminal
from taicang.app.options import HELP, command, give
from taicang.units import digits

EVERY_S = 2.0
"""Between two lines of progress."""


class _Study(click.Group):
    """A group whose first word may be a study: ``taicang sweep study.yaml`` runs it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command's name before a study or an option of it."""
        if args and args[0] not in self.commands and args[0] not in HELP["help_option_names"]:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@command("sweep", _Study, context_settings=HELP)
def sweep() -> None:
    """Studies: axes over catalogue fields, plan fields and the load, evaluated in parallel and queried with SQL."""


@command("sweep.run", sweep.command)
def run(study: str, out: str | None, workers: str, address: str | None, fresh: bool) -> None:
    """Evaluate a STUDY: axes over catalogue fields (chip.memory.bandwidth), plan fields and the load."""
    from taicang.app.study_points import ASKED
    from taicang.errors import InvalidInput
    from taicang.search.journal import Journal
    from taicang.search.study import read_study, size
    from taicang.search.sweep import run as evaluate
    from taicang.search.sweep import sampling
    from taicang.search.workers import cluster, local, on_ray

    if not (workers in ("auto", "ray") or (digits(workers) and int(workers) > 0)):
        raise InvalidInput(f"a number of processes, auto or ray, not {workers!r}", where="--workers")
    plan = read_study(study, ASKED)
    total = size(plan)
    if plan.kind == "bayesian":
        sampling()  # an extra that is missing is said before anything is written
    if workers == "ray":
        cluster()
    journal = Journal(Path(out) if out else Path(study).with_suffix(""), plan.inputs, fresh=fresh)
    before = len(journal.done)
    click.echo(f"{total} points, {before} done before", err=True)
    count = (os.cpu_count() or 1) if workers == "auto" else 1 if workers == "ray" else int(workers)

    def rows_of(tasks: list[Any]) -> Any:
        return on_ray(tasks, address, answers) if workers == "ray" else local(tasks, min(count, len(tasks)), answers)

    answers = plan.asks.evaluate
    start = said = time.monotonic()
    for finished, _ in enumerate(evaluate(plan, journal, rows_of), 1):
        now = time.monotonic()
        if now - said > EVERY_S:
            said, left = now, (total - before - finished) * (now - start) / finished
            click.echo(f"{before + finished} of {total}, {left:.0f} s left", err=True)
    for path in journal.finish(total):
        click.echo(str(path))


@command("sweep.query", sweep.command)
def query(study: str, sql: str, as_csv: bool, as_json: bool, page: Path | None) -> int:
    """Ask the results of STUDY (its folder or YAML file), also while it runs: SQL over the table results."""
    from taicang.search.journal import rows_of
    from taicang.search.study_results import query as ask

    folder = Path(study).with_suffix("") if study.endswith((".yaml", ".yml")) else Path(study)
    names, rows = ask(folder, sql, rows_of(folder))

    def show() -> None:
        if as_csv:
            import csv

            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerows([names, *rows])
            return
        from rich.table import Table

        table = Table(*names, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*(f"{v:.6g}" if isinstance(v, float) else str(v) for v in row))
        terminal.console(highlight=False).print(table)

    found = [dict(zip(names, row, strict=True)) for row in rows]
    return give("query", found, show, as_json=as_json, page=page, title=f"{folder.name}: {sql}")
