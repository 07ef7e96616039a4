"""Outcome of a search on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from taicang.predict.infer import describe
from taicang.search import explain
from taicang.search.points import Job
from taicang.search.result import Choice, Found, Pool
from taicang.search.space import Space
from taicang.units import show

WIDTH = 160


def show_search(jobs: Sequence[Job], found: Sequence[Found], options: dict[str, Any], *, explained: bool) -> None:
    """The best layouts of each machine, then why."""
    console = Console(highlight=False)
    if not console.is_terminal or console.width < WIDTH:
        console = Console(highlight=False, width=WIDTH, force_terminal=console.is_terminal)
    limits = ", ".join(f"{name.upper()} <= {show(options[name], 's')}" for name in ("ttft", "tpot") if options[name])
    console.print(
        f"[bold]{jobs[0].model.name}[/], {options['input_tokens']} + {options['output_tokens']} tokens"
        f"{', ' + limits if limits else ''}; best by {options['objective']}"
    )
    from taicang.app.search_cmd import space_of

    for job, each in zip(jobs, found, strict=True):
        _machine(console, job, each)
        if explained and each.best:
            _explain(console, job, each, space_of(job, options))
    _ranking(console, found, options["objective"])


def _machine(console: Console, job: Job, found: Found) -> None:
    counts = found.counts
    console.print(
        f"\n[bold]{found.machine}[/] ({job.machine.chips} chips), {job.stack.name} ({job.stack.epoch}): "
        f"{counts.priced:,} candidates of {counts.layouts:,} layouts ({counts.fitting:,} fit), "
        f"{counts.combinations:,} pairings of pools"
    )
    if not found.best:
        console.print("  [bold]infeasible[/]")
        for line in found.nearest:
            console.print(f"    {line}")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("", "tok/s/chip", "tok/s", "TTFT", "TPOT", "chips", "per W", "pools"):
        table.add_column(column, justify="left" if column in ("", "pools") else "right")
    for rank, choice in enumerate(found.best, 1):
        table.add_row(*_row(rank, choice))
    console.print(table)


def _row(rank: int, choice: Choice) -> tuple[str, ...]:
    return (
        str(rank),
        f"{choice.output_tokens_per_s_per_chip:,.0f}",
        f"{choice.output_tokens_per_s:,.0f}",
        show(choice.ttft_s, "s"),
        show(choice.tpot_s, "s"),
        str(choice.chips),
        "unknown" if choice.output_tokens_per_s_per_w is None else f"{choice.output_tokens_per_s_per_w:.3f}",
        "; ".join(pool_text(pool) for pool in choice.pools),
    )


def pool_text(pool: Pool) -> str:
    """One pool in a line."""
    role = {"both": "", "prefill": "P ", "decode": "D "}[pool.role]
    what = "prompts" if pool.role == "prefill" else "seqs"
    chunk = f", chunk {pool.chunk_tokens}" if pool.chunk_tokens else ""
    return f"{role}{pool.instances} x [{describe(pool.plan)}] {pool.sequences:.0f} {what}{chunk}"


def _explain(console: Console, job: Job, found: Found, space: Space) -> None:
    winner = found.best[0]
    for pool in winner.pools:
        name, share = explain.binding(job, pool)
        console.print(
            f"  {pool.role}: {name} takes {share:.0%} of its time; next batch: {explain.stops(job, pool, space)}"
        )
    if len(found.best) > 1:
        console.print(f"  ahead of 2: {'; '.join(explain.against(job, winner, found.best[1]))}")
    gains = explain.sensitivity(job, winner, space)
    shown = ", ".join(f"{gain.resource} {gain.gain_ratio:+.1%}" for gain in gains)
    console.print(f"  {explain.NUDGE_RATIO:.0%} more of each resource buys: {shown}")


def _ranking(console: Console, found: Sequence[Found], objective: Any) -> None:
    """Machines in order, and where a rival would draw level."""
    ranked = [each.best[0] for each in found if each.best and each.best[0].score(objective) is not None]
    if len(ranked) < 2:
        return
    ranked.sort(key=lambda choice: -(choice.score(objective) or 0.0))
    console.print(f"\n[bold]ranking[/] by {objective}")
    first = ranked[0].score(objective) or 0.0
    for place, choice in enumerate(ranked, 1):
        mine = choice.score(objective) or 0.0
        behind = "" if place == 1 else f" ({mine / first:.0%} of the first)"
        if place > 1 and objective in ("per-watt", "per-usd"):
            what = "power" if objective == "per-watt" else "price"
            behind += f"; draws level at {mine / first:.0%} of its {what}"
        console.print(f"  {place}. {choice.machine}: {abs(mine):.4g}{behind}")
