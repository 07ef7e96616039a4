"""Outcome of a search on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from taicang.app import terminal
from taicang.app.load_options import load_text
from taicang.app.render_bands import TITLE, band_lines, cost_line
from taicang.app.search_jobs import Outcome, ranking
from taicang.app.terminal import hang
from taicang.plans import describe
from taicang.predict.choose import Chosen, spans
from taicang.predict.confirm import Confirmation
from taicang.search.explain import NUDGE_RATIO, Explanation
from taicang.search.points import Job
from taicang.search.result import Choice, Pool
from taicang.search.versus import Flip, Versus
from taicang.units import show

WIDTH = 80
LEGEND = """a chip: output tokens/s over all chips of the machine; req/s, users, each:
requests per second, those under way at a time, tokens/s that each of them sees"""
FIGURES = ("", "a chip", "tok/s", "req/s", "users", "each", "TTFT", "TPOT", "chips", "per W")


def show_search(
    done: Sequence[Outcome],
    options: dict[str, Any],
    more: Mapping[str, Mapping[str, Any]],
    flipped: Sequence[Flip],
) -> None:
    """The best layouts of each machine, then why (``more``: by machine, what was asked about its outcome)."""
    console = terminal.wide(WIDTH, piped=True)
    hang(console, f"[bold]{done[0].job.model.name}[/], {load_text(options)}; best by {options['objective']}", 0)
    for each in done:
        _machine(console, each)
        if not each.chosen:
            continue
        console.print(f"  {TITLE}")
        for line in band_lines(each.chosen.choice.bands, {}):
            hang(console, line.strip(), 4 + len(line) - len(line.lstrip()))
        extra = more[each.found.machine]
        _chosen(console, each.chosen)
        for line in cost_line(extra["quote"]).splitlines():
            hang(console, line.strip(), 2 + len(line) - len(line.lstrip()))
        for note in extra.get("notes", ()):
            hang(console, f"assumed: {note}")
        if "explanation" in extra:
            _explain(console, each.chosen.rank, extra["explanation"])
        _replayed(console, each.chosen)
        if "versus" in extra:
            _versus(console, each.job, each.chosen.choice, extra["versus"])
    if any(each.chosen for each in done):
        console.print(f"[dim]{LEGEND}[/]")
    show_ranking(console, ranking(done, options["objective"]), options["objective"], flipped)


def _machine(console: Console, each: Outcome) -> None:
    job, found = each.job, each.found
    counts = found.counts
    console.print()
    hang(
        console,
        f"[bold]{found.machine}[/] ({job.machine.chips} chips), {job.stack.name} ({job.stack.epoch}): "
        f"{counts.priced:,} candidates of {counts.layouts:,} layouts ({counts.fitting:,} fit), "
        f"{counts.combinations:,} pairings of pools",
        0,
    )
    if not found.best:
        console.print("  [bold]infeasible[/]")
        for line in found.nearest:
            hang(console, line, 4)
        return
    table = terminal.table(*FIGURES, words=(), options={"no_wrap": True})
    shown = list(enumerate(found.best, 1))
    if each.chosen.rank > len(found.best):
        shown.append((each.chosen.rank, each.chosen.choice))
    for rank, choice in shown:
        table.add_row(*_row(rank, choice))
    console.print(table)
    for rank, choice in shown:
        hang(console, f"{rank}: " + "; ".join(pool_text(pool) for pool in choice.pools))


def _chosen(console: Console, chosen: Chosen) -> None:
    """The plan to run and what was passed over, in a line; nothing where the first stands and nothing was replayed."""
    if chosen.keeps is None:
        return
    line = f"[bold]{'warning, ' if chosen.warning else ''}chosen: {chosen.rank}[/], {chosen.why}"
    if chosen.goodput_tokens_per_s_per_chip is not None:
        line += f": {chosen.goodput_tokens_per_s_per_chip:,.0f} tok/s/chip"
    passed = "; ".join(f"{spans(each.ranks)} ({each.why})" for each in chosen.passed)
    hang(console, line + (f"; passed over: {passed}" if passed else ""))


def _row(rank: int, choice: Choice) -> tuple[str, ...]:
    alone = choice.mode == "decode"
    return (
        str(rank),
        f"{choice.output_tokens_per_s_per_chip:,.0f}",
        f"{choice.output_tokens_per_s:,.0f}",
        f"{choice.requests_per_s:.3g}",
        f"{choice.users:,.0f}",
        "-" if choice.user_tokens_per_s is None else f"{choice.user_tokens_per_s:.3g}",
        "-" if alone else show(choice.ttft_s, "s"),
        show(choice.tpot_s, "s"),
        str(choice.chips),
        "unknown" if choice.output_tokens_per_s_per_w is None else f"{choice.output_tokens_per_s_per_w:.3f}",
    )


def pool_text(pool: Pool) -> str:
    """One pool in a line."""
    role = {"both": "", "prefill": "P ", "decode": "D "}[pool.role]
    what = "prompts" if pool.role == "prefill" else "seqs"
    chunk = f", chunk {pool.chunk_tokens}" if pool.chunk_tokens else ""
    return f"{role}{pool.instances} x [{describe(pool.plan)}] {pool.sequences:.0f} {what}{chunk}"


def _explain(console: Console, rank: int, found: Explanation) -> None:
    for bound in found.bounds:
        taken = f"{bound.resource} takes {bound.share_ratio:.0%} of its time"
        hang(console, f"{bound.role}: {taken}; next batch: {bound.next_batch}")
    if found.beside:
        where = "ahead of" if found.beside_rank > rank else "against"
        hang(console, f"{where} {found.beside_rank}: {'; '.join(found.beside)}")
    shown = ", ".join(f"{gain.resource} {gain.gain_ratio:+.1%}" for gain in found.gains)
    hang(console, f"{NUDGE_RATIO:.0%} more of each resource buys: {shown}")


def _replayed(console: Console, chosen: Chosen) -> None:
    for each in chosen.replayed:
        ran = each.ran
        if ran.refused:
            hang(console, f"replay of {each.rank}: {ran.refused}")
            continue
        verdict = ran.verdict if ran.keeps else f"[bold]{ran.verdict}[/]"
        load = f" at {ran.load_ratio:.0%} of its rate" if ran.load_ratio < 1.0 else ""
        promised = f"{each.promised_tokens_per_s_per_chip:,.0f}"
        hang(console, f"replay of {each.rank}{load}: {_ran(ran)} against {promised}: {verdict}")


def _ran(ran: Confirmation) -> str:
    return (
        f"TTFT {show(ran.ttft_s, 's')} (p99 {show(ran.ttft_p99_s, 's')}), TPOT {show(ran.tpot_s, 's')} "
        f"(p99 {show(ran.tpot_p99_s, 's')}), {ran.within_ratio:.0%} of {ran.requests:,} requests within, "
        f"{ran.output_tokens_per_s_per_chip:,.0f} tok/s/chip{' until it was broken off' * ran.stopped}"
    )


def _versus(console: Console, job: Job, winner: Choice, found: Versus | None) -> None:
    if found is None:
        hang(
            console,
            "--versus: does not fit: too large for the memory with its batch, or leaves no chips that prefill in time",
        )
        return
    rows = [("winner", winner, winner.pools[-1]), ("versus", found.given, found.given.pools[-1])]
    if found.best_alone:
        rows.append(("best decode", found.best_alone, found.best_alone.pools[0]))
    for name, each, pool in rows:
        rate = pool.sequences * pool.plan.dp * (each.user_tokens_per_s or 0.0) / pool.chips
        over = "" if each.tpot_s is None or each.tpot_s <= job.tpot_s else " (over the limit)"
        whole = (
            ""
            if each is found.best_alone or each.mode == "decode"
            else f", {each.output_tokens_per_s_per_chip:,.0f} per chip of all"
        )
        speed = f"TPOT {show(each.tpot_s, 's')}{over}, {rate:,.0f} tok/s per decoding chip"
        hang(console, f"{name}: {pool_text(pool)}: {speed}{whole}")
    for line in found.said:
        hang(console, line)


WORDS = {"power.load": "power", "price.usd": "price", "price.cny": "price in yuan"}
MONEY = (("a kW", "output_tokens_per_s_per_w", 1e3), ("a MUSD", "output_tokens_per_s_per_usd", 1e6))
YUAN = ("a MCNY", "output_tokens_per_s_per_cny", 1e6)


def show_ranking(console: Console, ranked: Sequence[Outcome], objective: Any, flipped: Sequence[Flip]) -> None:
    """Machines at equal chips, power and money, in order, and where each would draw level with the first."""
    if len(ranked) < 2:
        return
    console.print(f"\n[bold]ranking[/] by {objective}: output tokens/s at equal chips, power and money")
    # few machines have a price in yuan: a column only where it says something
    yuan = any(each.chosen.choice.output_tokens_per_s_per_cny is not None for each in ranked)
    figures = (*MONEY, YUAN) if yuan else MONEY
    level = {flip.machine: flip for flip in flipped}
    last = "draws level with the first at"
    table = terminal.table("machine", "a chip", *(name for name, _, _ in figures), last, words=("machine", last))
    for each in ranked:
        choice = each.chosen.choice
        values = [(getattr(choice, field), scale) for _, field, scale in figures]
        shown = ["unknown" if value is None else f"{value * scale:,.0f}" for value, scale in values]
        flip = level.get(choice.machine)
        first = each is ranked[0]
        table.add_row(
            choice.machine,
            f"{choice.output_tokens_per_s_per_chip:,.0f}",
            *shown,
            "" if flip is None else _level(flip, first),
        )
    console.print(table)


def _level(flip: Flip, first: bool) -> str:
    said = []
    for change in flip.changes:
        if change.what in WORDS:
            said.append(f"{change.level_ratio:.0%} of its {WORDS[change.what]}")
        else:
            said.append(
                f"{change.what} x {change.level_ratio:.2f}" if change.level_ratio else f"{change.what}: not alone"
            )
    return (f"the second draws level at {', '.join(said)}" if said else "") if first else ", ".join(said)
