"""Which plan of a ranking to run: the best-ranked one that keeps its limits and most of its rate under replay.

A search ranks by the closed form, which knows no queues. Here the ranking is walked down: a plan is replayed, and one
that breaks its limits, delivers too little, or that the replay refuses, is passed over. Plans whose layout is that of
one that failed, but for spare experts, drafts or microbatches, would fail alike, as would those that prefill as the one
did whose prompts queued; they are skipped. The last replay goes to the best plan of a mode not tried yet, so that a few
replays see both aggregated and disaggregated plans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from taicang.predict.confirm import DELIVERS, Confirmation, confirm, sustained
from taicang.search.points import Job
from taicang.search.result import Choice

DEPTH = 1000
"""Ranks that are worth walking down."""
AS_BUSY = 0.97
"""Share of another's rate from which a pool counts as busy as that."""
ALIKE = ("tp", "pp", "dp", "ep", "moe_tp", "sp")
"""Plan fields of which layouts that are alike differ in none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A rank and what its replay saw."""

    rank: int
    """From 1."""
    promised_tokens_per_s_per_chip: float
    """Output tokens per second that the closed form says of the load that ran."""
    ran: Confirmation


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """Ranks above the chosen one, and why it is none of them."""

    ranks: tuple[int, ...]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The plan to run, and why."""

    rank: int
    choice: Choice
    keeps: bool | None
    """Whether it keeps its limits under replay; ``None`` where nothing was replayed."""
    why: str
    passed: tuple[Passed, ...] = ()
    replayed: tuple[Replayed, ...] = ()
    sustained: Confirmation | None = None
    """Where no plan keeps its limits: the load at which the chosen one does, if one was found."""

    @property
    def warning(self) -> str:
        """What to warn of, if anything."""
        return self.why if self.keeps is False else ""


def choose(
    job: Job,
    ranked: Sequence[Choice],
    *,
    most: int,
    named: str = "",
    within_ratio: float = 0.5,
    load_per_s: float | None = None,
) -> Chosen:
    """Replay plans of ``ranked`` (best first) until one keeps its limits or ``most`` have been replayed.

    ``load_per_s`` is the load that all plans carry, where that is what was asked; else each runs at its own best rate.
    """
    if not most or ranked[0].mode == "decode":
        why = "the best by the closed form" + (": decode alone is not replayed" if most else ", none was replayed")
        return Chosen(rank=1, choice=ranked[0], keeps=None, why=why)
    tried: dict[int, Confirmation] = {}

    def alike(choice: Choice, failed: Choice) -> bool:
        return any(_would_fail(job, choice, failed, ran) for rank, ran in tried.items() if ranked[rank - 1] is failed)

    for rank in walk(ranked, most, alike):
        choice = ranked[rank - 1]
        share = min((load_per_s or choice.requests_per_s) / choice.requests_per_s, 1.0)
        tried[rank] = confirm(job, choice, named=named, within_ratio=within_ratio, load_ratio=share)
        if tried[rank].keeps:
            break
    replayed = tuple(_replayed(rank, ranked[rank - 1], tried[rank]) for rank in sorted(tried))
    kept = next((rank for rank, ran in tried.items() if ran.keeps), None)
    if kept is not None:
        rate = f"delivers {tried[kept].delivered_ratio:.0%} of its rate"
        why = f"the best by the closed form: under replay it keeps its limits and {rate}"
        if kept > 1:
            why = f"the best-ranked replayed plan that keeps its limits and {rate}"
        passed = _passed(job, ranked, tried, kept)
        return Chosen(rank=kept, choice=ranked[kept - 1], keeps=True, why=why, passed=passed, replayed=replayed)
    best = None if tried[1].refused else sustained(job, ranked[0], named=named, within_ratio=within_ratio)
    count = f"none of the {len(tried)} replayed plans keeps" if len(tried) > 1 else "the replayed plan does not keep"
    why = f"{count} its limits and {DELIVERS:.0%} of its rate under replay; chosen by the closed form alone"
    return Chosen(rank=1, choice=ranked[0], keeps=False, why=why, replayed=replayed, sustained=best)


def walk(ranked: Sequence[Choice], most: int, alike: Callable[[Choice, Choice], bool] | None = None) -> Iterator[int]:
    """At most ``most`` ranks to replay in turn, none like one before; the last of a mode of its own if there is one.

    Whoever asks for the next rank says by it that those before failed; ``alike`` tells whether a plan would fail like
    another (by default, whether they are of one layout).
    """
    similar, tried = alike or one_layout, [ranked[0]]
    yield 1
    for rank, choice in enumerate(ranked, 1):
        if len(tried) == most:
            return
        modes = {each.mode for each in tried}
        last = len(tried) == most - 1 and any(each.mode not in modes for each in ranked)
        if (last and choice.mode in modes) or any(similar(choice, each) for each in tried):
            continue
        tried.append(choice)
        yield rank


def one_layout(choice: Choice, other: Choice) -> bool:
    """Whether two plans are of one layout, whatever their instances, batches and drafts."""
    return _kind(choice) == _kind(other)


def _would_fail(job: Job, choice: Choice, failed: Choice, ran: Confirmation) -> bool:
    """Whether ``choice`` would fail like ``failed``: one layout, or the prefill pool that queued, as busy as there."""
    if one_layout(choice, failed):
        return True
    if len(choice.pools) == 1 or len(failed.pools) == 1 or ran.refused or ran.ttft_s <= job.ttft_s:
        return False
    mine, theirs = choice.pools[0], failed.pools[0]
    busy = [each.requests_per_s / each.pools[0].instances for each in (choice, failed)]
    return (mine.plan, mine.sequences) == (theirs.plan, theirs.sequences) and busy[0] > AS_BUSY * busy[1]


def _replayed(rank: int, choice: Choice, ran: Confirmation) -> Replayed:
    promised = choice.output_tokens_per_s_per_chip * ran.load_ratio
    return Replayed(rank=rank, promised_tokens_per_s_per_chip=promised, ran=ran)


def _kind(choice: Choice) -> tuple[object, ...]:
    pools = tuple((pool.role, *(getattr(pool.plan, name) for name in ALIKE)) for pool in choice.pools)
    return (choice.mode, choice.quant, *pools)


def _passed(job: Job, ranked: Sequence[Choice], tried: Mapping[int, Confirmation], kept: int) -> tuple[Passed, ...]:
    """Ranks above ``kept`` by why they were passed over."""
    failed = [(ranked[rank - 1], ran) for rank, ran in tried.items() if not ran.keeps]
    reasons: dict[str, list[int]] = {}
    for rank, choice in enumerate(ranked[: kept - 1], 1):
        if rank in tried:
            why = f"the replay refuses it: {tried[rank].refused}" if tried[rank].refused else tried[rank].verdict
        else:
            why = "like one that failed" if any(_would_fail(job, choice, *each) for each in failed) else "not replayed"
        reasons.setdefault(why, []).append(rank)
    return tuple(Passed(ranks=tuple(ranks), why=why) for why, ranks in reasons.items())


def spans(ranks: Sequence[int]) -> str:
    """Ranks in a few words: "1, 3 to 5"."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)
