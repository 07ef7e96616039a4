"""Ways to run on the whole machine as columns; a ``Choice`` is made only of those that are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from taicang.catalog.trust import Band
from taicang.search.join import Pairs, best_rows, decode_front, front, holding, matched, smallest
from taicang.search.points import Floats, Job, Points
from taicang.search.result import Ask, Choice, Mode, Pool
from taicang.search.trusted import bands_of

COLUMNS = ("ttft_s", "tpot_s", "requests_per_s", "chips")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """Columns of one length; ``pools`` gives the pools of a row."""

    job: Job
    quant: str
    mode: Mode
    least: bool
    """Chips beyond those in use are left away (objective "smallest")."""
    ttft_s: Floats
    tpot_s: Floats
    requests_per_s: Floats
    chips: Floats
    """In use."""
    pools: Callable[[int], tuple[Pool, ...]]
    told: dict[tuple[object, ...], Mapping[str, Band]] = field(default_factory=dict)
    """Bands by what they depend on in one sheet."""

    @property
    def per_chip(self) -> Floats:
        """Output tokens per second over the machine's chips, or those in use."""
        found: Floats = (
            self.requests_per_s * self.job.output_tokens / (self.job.machine.chips * self._share(self.chips))
        )
        return found

    def _share(self, chips: Any) -> Any:
        return chips / self.job.machine.chips if self.least else chips * 0.0 + 1.0

    def choice(self, row: int) -> Choice:
        """A row as the user sees it."""
        job, machine = self.job, self.job.machine
        output, used = float(self.requests_per_s[row] * job.output_tokens), int(self.chips[row])
        share = float(self._share(used))
        pools = self.pools(row)
        last = pools[-1].plan
        if (key := (last.ranks, last.ways, last.quant)) not in self.told:
            self.told[key] = bands_of(job, self.mode, last)

        def over(whole: float | None) -> float | None:
            return None if whole is None else output / (whole * share)

        return Choice(
            machine=machine.name,
            stack=job.stack.name,
            quant=self.quant,
            mode=self.mode,
            pools=pools,
            ttft_s=float(self.ttft_s[row]),
            tpot_s=float(self.tpot_s[row]) if job.goes_on else None,
            requests_per_s=float(self.requests_per_s[row]),
            output_tokens_per_s=output,
            chips=used,
            machine_chips=machine.chips,
            output_tokens_per_s_per_chip=output / (machine.chips * share),
            output_tokens_per_s_per_w=over(machine.power_w),
            output_tokens_per_s_per_usd=over(machine.price_usd),
            output_tokens_per_s_per_cny=over(machine.price_cny),
            bands=self.told[key],
        )


def within(sheet: Sheet, chips: int) -> Sheet:
    """The rows that use no more than ``chips`` chips."""
    rows = np.flatnonzero(sheet.chips <= chips)
    columns: dict[str, Any] = {name: getattr(sheet, name)[rows] for name in COLUMNS}
    return replace(sheet, **columns, pools=lambda i: sheet.pools(int(rows[i])))


def best(sheets: Sequence[Sheet], ask: Ask) -> list[Choice]:
    """The ``ask.top`` best rows of all sheets of one machine, best first.

    On one machine what is best per chip is best per watt and per unit of money.
    """
    if not sheets:
        return []
    score = [-each.chips if ask.objective == "smallest" else each.per_chip for each in sheets]
    keys = [np.concatenate([getattr(each, name) for each in sheets]) for name in ("tpot_s", "ttft_s", "per_chip")]
    order = np.lexsort((keys[0], keys[1], -keys[2], -np.concatenate(score)))
    return _chosen(sheets, order[: ask.top])


def front_of(sheets: Sequence[Sheet]) -> list[Choice]:
    """The front of TPOT against rate over all sheets of one machine."""
    if not sheets:
        return []
    low, high = (np.concatenate([getattr(each, name) for each in sheets]) for name in ("tpot_s", "requests_per_s"))
    return _chosen(sheets, front(low=low, high=high))


def _chosen(sheets: Sequence[Sheet], rows: Any) -> list[Choice]:
    """``rows`` of all sheets one after the other."""
    first = np.cumsum([0, *(each.chips.size for each in sheets)])
    owner = np.searchsorted(first, rows, side="right") - 1
    return [sheets[at].choice(int(row - first[at])) for at, row in zip(owner, rows, strict=True)]


def _pool(points: Points, row: int, role: Any, instances: float, job: Job) -> Pool:
    plan = points.plans[int(points.layout[row])]
    return Pool(
        role=role,
        plan=replace(plan, draft_tokens=int(points.drafts[row]), acceptance_ratio=job.acceptance_ratio),
        instances=int(instances),
        chips=int(points.chips[row]),
        sequences=float(points.sequences[row]),
        chunk_tokens=int(points.chunk[row]),
    )


def _alone(
    points: Points, rows: Any, counts: Any, job: Job, quant: str, *, least: bool, mode: Mode = "aggregated"
) -> Sheet:
    some = np.flatnonzero(counts)
    rows, counts = rows[some], counts[some]
    return Sheet(
        job=job,
        quant=quant,
        mode=mode,
        least=least,
        ttft_s=points.ttft_s[rows],
        tpot_s=points.tpot_s[rows],
        requests_per_s=np.minimum(
            counts * points.requests_per_s[rows], job.asked_per_s(points.ttft_s[rows], points.tpot_s[rows])
        ),
        chips=counts * points.chips[rows],
        pools=lambda i: (_pool(points, int(rows[i]), "both" if mode == "aggregated" else mode, float(counts[i]), job),),
    )


def aggregated(points: Points, job: Job, quant: str, ask: Ask) -> Sheet:
    """The best row of each layout within the limits, on as many instances as fit, or as the load needs."""
    points = _asked(points, job, ask)
    rows = best_rows(points, ttft_s=job.ttft_s, tpot_s=job.tpot_s)
    counts = _instances(points, rows, job, ask)
    return _alone(points, rows, counts, job, quant, least=ask.objective == "smallest")


def _asked(points: Points, job: Job, ask: Ask) -> Points:
    """Those ``points`` of which all instances on the machine hold the users, as fast as these let them be."""
    if job.users is None or ask.objective == "smallest":
        return points
    each = job.asked_per_s(points.ttft_s, points.tpot_s) / np.maximum(job.machine.chips // points.chips, 1.0)
    return replace(points, requests_per_s=each).take(np.flatnonzero(each <= points.requests_per_s))


def _instances(points: Points, rows: Any, job: Job, ask: Ask) -> Any:
    """Instances of each row: those that the load needs, or as many as fit."""
    if ask.objective == "smallest":
        asked = ask.load_per_s or job.asked_per_s(points.ttft_s[rows], points.tpot_s[rows])
        return np.ceil(asked / points.requests_per_s[rows] * (1.0 - 1e-12))
    return np.floor_divide(job.machine.chips, points.chips[rows])


def aggregated_front(points: Points, job: Job, quant: str) -> Sheet:
    """Rows on the front of TPOT against the rate of the machine, TTFT within its limit."""
    ok = np.flatnonzero(points.ttft_s <= job.ttft_s)
    counts = np.floor_divide(job.machine.chips, points.chips[ok])
    keep = front(low=points.tpot_s[ok], high=counts * points.requests_per_s[ok])
    return _alone(points, ok[keep], counts[keep], job, quant, least=False)


def decoding(points: Points, job: Job, quant: str, ask: Ask) -> Sheet:
    """The best row of each decode layout over the chips of its own instances."""
    rows = best_rows(points, ttft_s=np.inf, tpot_s=job.tpot_s)
    counts = _instances(points, rows, job, ask)
    return _alone(points, rows, counts, job, quant, least=True, mode="decode")


def _both(first: Points, second: Points, pairs: Pairs, job: Job, quant: str, *, least: bool) -> Sheet:
    return Sheet(
        job=job,
        quant=quant,
        mode="disaggregated",
        least=least,
        pools=lambda i: (
            _pool(first, int(pairs.prefill_row[i]), "prefill", float(pairs.prefill_instances[i]), job),
            _pool(second, int(pairs.decode_row[i]), "decode", float(pairs.decode_instances[i]), job),
        ),
        **{name: getattr(pairs, name) for name in COLUMNS},
    )


def _paired(first: Points, second: Points, rows: Any, job: Job) -> Pairs:
    limits: dict[str, Any] = {"chips": job.machine.chips, "ttft_s": job.ttft_s, "within_ratio": job.within_ratio}
    if job.users is None:
        return matched(first, second, rows, **limits)
    return holding(first, second, rows, **limits, asked_per_s=job.asked_per_s)


def disaggregated(first: Points, second: Points, job: Job, quant: str, ask: Ask) -> Sheet:
    """The best row of each decode layout within the limits with the prefill instances that suit it."""
    least = ask.objective == "smallest"
    if job.users is None or least:
        rows = best_rows(second, ttft_s=np.inf, tpot_s=job.tpot_s)
    else:  # the fewer users, the smaller the batch that serves them fastest
        rows = decode_front(second)
        rows = rows[second.tpot_s[rows] <= job.tpot_s]
    if not least:
        return _both(first, second, _paired(first, second, rows, job), job, quant, least=False)
    pairs = smallest(
        first, second, rows, load_per_s=ask.load_per_s, ttft_s=job.ttft_s, within_ratio=job.within_ratio,
        asked_per_s=job.asked_per_s,
    )  # fmt: skip
    return _both(first, second, pairs, job, quant, least=True)


def disaggregated_front(first: Points, second: Points, job: Job, quant: str) -> Sheet:
    """Pairs of pools on the front of TPOT against rate."""
    pairs = _paired(first, second, decode_front(second), job)
    return _both(first, second, pairs, job, quant, least=False)
