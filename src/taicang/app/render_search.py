"""Outcome of a search on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from taicang.app.load_options import load_text
from taicang.app.search_cmd import space_of
from taicang.predict.infer import describe
from taicang.search import explain, versus
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
    console.print(f"[bold]{jobs[0].model.name}[/], {load_text(options)}; best by {options['objective']}")
    for job, each in zip(jobs, found, strict=True):
        _machine(console, job, each)
        if explained and each.best:
            _explain(console, job, each, space_of(job, options))
        if options["versus"] and each.best:
            _versus(console, job, each.best[0], options, space_of(job, options))
    _ranking(console, jobs, found, options)


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


def _versus(console: Console, job: Job, winner: Choice, options: dict[str, Any], space: Space) -> None:
    other = versus.versus(job, winner.pools[0].plan.quant, versus.fields(options["versus"]), space)
    if other is None:
        console.print("  --versus: does not fit")
        return
    decode = [next((pool for pool in each.pools if pool.role != "prefill"), each.pools[0]) for each in (winner, other)]
    for name, each, pool in zip(("winner", "versus"), (winner, other), decode, strict=True):
        rate = pool.sequences * pool.plan.dp / each.tpot_s / pool.chips
        over = "" if each.tpot_s <= job.tpot_s else " (over the limit)"
        console.print(
            f"  {name}: {pool_text(pool)}: TPOT {show(each.tpot_s, 's')}{over}, {rate:,.0f} tok/s per decoding chip, "
            f"{each.output_tokens_per_s_per_chip:,.0f} per chip of all"
        )
    console.print(f"  winner against it: {'; '.join(explain.against(job, winner, other))}")


def _ranking(console: Console, jobs: Sequence[Job], found: Sequence[Found], options: dict[str, Any]) -> None:
    """Machines at equal chips, power and money, in order, and where each would draw level with the first."""
    objective = options["objective"]
    pairs = [(job, each.best[0]) for job, each in zip(jobs, found, strict=True) if each.best]
    ranked = sorted(
        (pair for pair in pairs if pair[1].score(objective) is not None),
        key=lambda pair: -(pair[1].score(objective) or 0.0),
    )
    if len(ranked) < 2:
        return
    console.print(f"\n[bold]ranking[/] by {objective}: output tokens/s at equal chips, power and money")
    table = Table(box=None, pad_edge=False)
    for column in ("machine", "a chip", "a kW", "a MUSD", "draws level with the first at"):
        table.add_column(column, justify="left" if column.startswith(("machine", "draws")) else "right")
    first = ranked[0][1]
    for job, choice in ranked:
        watt, dollar = choice.output_tokens_per_s_per_w, choice.output_tokens_per_s_per_usd
        table.add_row(
            choice.machine,
            f"{choice.output_tokens_per_s_per_chip:,.0f}",
            "unknown" if watt is None else f"{watt * 1e3:,.0f}",
            "unknown" if dollar is None else f"{dollar * 1e6:,.0f}",
            "" if choice is first else _level(job, choice, first, objective, space_of(job, options)),
        )
    console.print(table)


def _level(job: Job, choice: Choice, first: Choice, objective: Any, space: Space) -> str:
    mine, theirs = choice.score(objective) or 0.0, first.score(objective) or 0.0
    if objective == "smallest" or mine <= 0.0:
        return ""
    said = []
    if objective in ("per-watt", "per-usd"):
        said.append(f"{mine / theirs:.0%} of its {'power' if objective == 'per-watt' else 'price'}")
    target = choice.output_tokens_per_s * theirs / mine
    for resource in ("link bandwidth", "memory bandwidth", "arithmetic peak"):
        ratio = versus.level_ratio(job, choice, target, resource, space)
        said.append(f"{resource} x {ratio:.2f}" if ratio else f"{resource}: not alone")
    return ", ".join(said)
