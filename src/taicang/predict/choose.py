"""Which plan of a ranking to run: of those that differ in structure, the one with the most goodput under replay.

A search ranks by the closed form, which knows no single requests. Here its best plans of each layout are replayed: at
all of their rate, and where that breaks the limits at less and less of it. The goodput of a plan is what it delivers at
the largest load that keeps the limits. The last of the replayed plans is the best one of a mode not tried yet, so that
a few replays see both aggregated and disaggregated plans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from taicang.predict.confirm import DELIVERS, Confirmation, Tables, confirm
from taicang.search.points import Job
from taicang.search.result import Choice

DEPTH = 1000
"""Ranks that are worth walking down."""
LOADS = (1.0, 0.9, 0.8, 0.65, 0.5, 0.3)
"""Shares of a plan's rate that are tried until one keeps the limits."""
LEVEL_RATIO = 0.03
"""Goodputs that are so near to each other are level, for chance moves them as much: the ranking decides."""
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
    load_ratio: float = 1.0
    """Share of its rate at which it does."""
    goodput_tokens_per_s_per_chip: float | None = None
    """Output tokens per second at that load, of which enough requests keep the limits."""
    passed: tuple[Passed, ...] = ()
    replayed: tuple[Replayed, ...] = ()
    """The last replay of each plan: the one that keeps the limits, if one does."""

    @property
    def warning(self) -> str:
        """What to warn of, if anything."""
        return self.why if self.keeps is False else ""


def choose(
    job: Job, ranked: Sequence[Choice], *, most: int, named: str = "", load_per_s: float | None = None
) -> Chosen:
    """Replay at most ``most`` plans of ``ranked`` (best first) and choose the one with the most goodput.

    ``load_per_s`` is the load that all plans carry, where that is what was asked: the first that does is chosen.
    """
    if not most or ranked[0].mode == "decode":
        why = "the best by the closed form" + (": decode alone is not replayed" if most else ", none was replayed")
        return Chosen(rank=1, choice=ranked[0], keeps=None, why=why)
    tried: dict[int, Confirmation] = {}
    good: dict[int, float] = {}
    tables: Tables = {}
    for rank in walk(ranked, most):
        choice = ranked[rank - 1]
        promised = choice.output_tokens_per_s_per_chip
        share = min((load_per_s or choice.requests_per_s) / choice.requests_per_s, 1.0)
        for ratio in (1.0,) if load_per_s or job.users else LOADS:
            if promised * ratio <= max(good.values(), default=0.0):
                break  # what it promises is less than what another delivers
            tried[rank] = confirm(job, choice, named=named, load_ratio=share * ratio, tables=tables)
            if tried[rank].keeps:
                good[rank] = promised * share * ratio * min(tried[rank].delivered_ratio, 1.0)
            if tried[rank].keeps or tried[rank].refused:
                break
        if load_per_s and good:
            break
    replayed = tuple(
        Replayed(
            rank=rank, ran=ran,
            promised_tokens_per_s_per_chip=ranked[rank - 1].output_tokens_per_s_per_chip * ran.load_ratio,
        )
        for rank, ran in sorted(tried.items())
    )  # fmt: skip
    if not good:
        none = f"none of the {len(tried)} replayed plans keeps" if len(tried) > 1 else "the replayed plan does not keep"
        why = f"{none} its limits and {DELIVERS:.0%} of its rate under replay; chosen by the closed form alone"
        return Chosen(rank=1, choice=ranked[0], keeps=False, why=why, replayed=replayed)
    rank = min(each for each, much in good.items() if much >= max(good.values()) * (1.0 - LEVEL_RATIO))
    return Chosen(
        rank=rank, choice=ranked[rank - 1], keeps=True, why=_why(rank, tried, job.within_ratio),
        load_ratio=tried[rank].load_ratio, goodput_tokens_per_s_per_chip=good[rank],
        passed=_passed(ranked, tried, good, rank), replayed=replayed,
    )  # fmt: skip


def _why(rank: int, tried: Mapping[int, Confirmation], within_ratio: float) -> str:
    ran = tried[rank]
    best = "the best by the closed form" if rank == 1 else "the closed form has it behind"
    most = f"the most goodput of {len(tried)} replayed plans; {best}" if len(tried) > 1 else best
    load = f" at {ran.load_ratio:.0%} of its rate" if ran.load_ratio < 1.0 else ""
    return f"{most}; under replay {within_ratio:.0%} of the requests keep its limits{load}"


def walk(ranked: Sequence[Choice], most: int) -> Iterator[int]:
    """At most ``most`` ranks to replay in turn, each of a layout of its own, the last of a mode of its own if there is
    one."""
    tried: set[tuple[object, ...]] = set()
    modes: set[str] = set()
    several = {each.mode for each in ranked}
    for rank, choice in enumerate(ranked, 1):
        if len(tried) == most:
            return
        last = len(tried) == most - 1 and bool(tried) and bool(several - modes)
        if (last and choice.mode in modes) or (kind := _kind(choice)) in tried:
            continue
        tried.add(kind)
        modes.add(choice.mode)
        yield rank


def _kind(choice: Choice) -> tuple[object, ...]:
    """The layout of a plan, whatever its instances, batches, spare experts and drafts."""
    pools = tuple((pool.role, *(getattr(pool.plan, name) for name in ALIKE)) for pool in choice.pools)
    return (choice.mode, choice.quant, *pools)


def _passed(
    ranked: Sequence[Choice], tried: Mapping[int, Confirmation], good: Mapping[int, float], kept: int
) -> tuple[Passed, ...]:
    """Ranks above ``kept`` by why they were passed over."""
    reasons: dict[str, list[int]] = {}
    for rank, choice in enumerate(ranked[: kept - 1], 1):
        if rank in good:
            why = f"{good[rank]:,.0f} tok/s/chip within the limits"
        elif rank in tried:
            why = f"the replay refuses it: {tried[rank].refused}" if tried[rank].refused else tried[rank].verdict
        else:
            why = "like another" if any(_kind(choice) == _kind(ranked[each - 1]) for each in tried) else "not replayed"
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
