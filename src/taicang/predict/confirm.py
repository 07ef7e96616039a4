"""A choice of a search confirmed by replay: a short run of the same load through schedulers, queues and caches.

The closed form that a search prices knows the mean of a steady state. Here requests arrive at random (Poisson) at the
rate that the choice promises, or from users who send their next one when an answer has come, for a few times as long as
one stays; those of the first stay are warm-up. A run ends with its requests, its events or its time, or when too many
have broken the limits, whichever comes first: who is not served by then has broken them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, TypeAlias

import numpy as np

from taicang.catalog.profiles import profile
from taicang.catalog.trust import Band
from taicang.errors import TaicangError
from taicang.search.points import Job
from taicang.search.result import Choice, Pool
from taicang.search.trusted import bands_of
from taicang.serve import build
from taicang.serve.clients import ClosedLoop, OpenLoop
from taicang.serve.record import Record, quantiles, spread
from taicang.serve.request import SECOND, Request
from taicang.serve.scheduler import Limits, preset, reserving
from taicang.serve.simulate import EVERY, Stop, serve
from taicang.serve.steptable import StepTable
from taicang.traffic.generate import arriving, fixed, from_profile

STAYS = 1.5
"""How long is measured, over the time that a request stays; one more such time fills the machine."""
SETTLES = 3.0
"""Such times that a closed loop needs: users who come faster than they are to stay would queue for long."""
MEASURED = 4000
"""Requests of which no more are measured."""
LEAST = 400
"""Requests that are measured, whatever the load: chance alone then moves their rate by 5 %."""
STEPS = 20.0
"""Steps that are measured at least: tokens come out a step's worth at a time."""
MOST = 20_000
"""Requests of a run; a larger machine is confirmed on fewer of its instances."""
TOO_MANY = 200_000
"""Requests that one instance of each pool may need; a choice that needs more is not replayed."""
EVENTS = 1_000_000
"""Of a run."""
PATIENCE = 10
"""Stays that a run goes on after the last arrival."""
DELIVERS = 0.85
"""Share of the promised rate that a choice must deliver."""


Tables: TypeAlias = dict[tuple[object, ...], StepTable]
"""Step times by what they are made of: replays of one job share them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What users saw in the replay, and whether it keeps the limits."""

    requests: int = 0
    """That were measured."""
    rate_per_s: float
    """At which requests arrived at the instances that ran."""
    instances: tuple[int, ...]
    """That ran, of each pool: fewer than the choice has where it has many equal ones."""
    ttft_s: float = 0.0
    """Mean."""
    ttft_p99_s: float = 0.0
    tpot_s: float | None = None
    tpot_p99_s: float | None = None
    output_tokens_per_s_per_chip: float = 0.0
    """Over the same chips as the choice's figure."""
    within_ratio: float = 0.0
    """Share of the requests within both limits."""
    delivered_ratio: float = 0.0
    """Output tokens over those promised of the load that ran (over those asked for, where chance made them fewer)."""
    keeps: bool = False
    """Whether enough requests are within the limits and enough tokens are delivered."""
    bands: Mapping[str, Band]
    """How far each figure may be off."""
    load_ratio: float = 1.0
    """Share of the load that ran."""
    stopped: bool = False
    """Whether the run was broken off when too many requests had broken the limits: figures are of those before."""
    refused: str = ""
    """Why there was no run."""

    @property
    def verdict(self) -> str:
        """In words."""
        if self.keeps:
            return "keeps the limits"
        if not self.stopped and self.delivered_ratio < DELIVERS:
            return f"delivers {self.delivered_ratio:.0%} of its rate"
        return "misses the limits"


def confirm(
    job: Job, choice: Choice, *, named: str = "", load_ratio: float = 1.0, seed: int = 0, tables: Tables | None = None
) -> Confirmation:
    """Replay ``choice`` under ``load_ratio`` of its load, or for its users: lengths of the profile ``named``, or equal.

    It keeps the limits if the share of the requests that ``job`` asks for does and ``DELIVERS`` of the rate is
    delivered.
    """
    stay_s = choice.stay_s
    share, pools = _portion(choice, stay_s)
    bands = bands_of(job, choice.mode, choice.pools[-1].plan, replay=True)
    rate = choice.requests_per_s * share * load_ratio
    users = max(round(job.users * share), 1) if job.users else 0
    full = rate * stay_s
    filling = full * (SETTLES if users else 1.0)
    # an answer of one token comes out with the others of its prompt's step, which takes no longer than it waits
    step_s = choice.ttft_s if choice.tpot_s is None else choice.tpot_s * choice.pools[-1].plan.tokens_per_step
    requests = round(filling + max(min(max(full * STAYS, LEAST), MEASURED), STEPS * step_s * rate))
    if requests > TOO_MANY:
        return _none(f"it takes {requests:,} requests to fill", rate, pools, bands)
    warm_s = min(filling / rate, (1.0 - 0.5 / SETTLES) * requests / rate if users else 0.5 * requests / rate)
    load = _load(job, named, requests, users or rate, (SETTLES - 1.0) * stay_s, seed)
    finished = _Seen(job, warm_s, requests)
    try:
        _run(job, pools, load, finished, requests / rate + PATIENCE * stay_s, seed, {} if tables is None else tables)
    except TaicangError as error:
        return _none(str(error), rate, pools, bands)
    table = finished.columns()
    if not (late := table["arrival_s"] >= warm_s).any():
        return _none("no request finished", rate, pools, bands)
    arrived = table["arrival_s"] if users else load.trace.arrival_s
    end_s = float(arrived.max())
    ttft, tpot = table["ttft_s"][late], table["tpot_s"][late]
    gaps = spread(tpot[table["output_tokens"][late] > 1])
    measured = int((arrived >= warm_s).sum())
    kept = float(((ttft <= job.ttft_s) & (tpot <= job.tpot_s)).sum()) / measured
    # tokens come out at a steady rate only when the first have stayed as long as they do here
    filled_s = 0.5 * (warm_s + end_s) if users else max(filling / rate, 0.5 * (warm_s + end_s))
    full_s = float(np.clip(table["e2e_s"][late].mean(), warm_s, filled_s))
    if finished.stopped:
        end_s = float((table["arrival_s"] + table["e2e_s"]).max())
        full_s = min(full_s, 0.5 * end_s)
    tokens = _rate(table, full_s, end_s)
    promised = choice.output_tokens_per_s * share * load_ratio
    asked = float(load.trace.output_tokens.mean()) * measured / max(float(arrived.max()) - warm_s, 1e-9)
    delivered = tokens / (promised if users else min(promised, asked))
    return Confirmation(
        requests=measured,
        rate_per_s=rate,
        instances=tuple(pool.instances for pool in pools),
        ttft_s=float(ttft.mean()),
        ttft_p99_s=quantiles(ttft, (0.99,))[0],
        tpot_s=gaps.mean_s if gaps else None,
        tpot_p99_s=gaps.p99_s if gaps else None,
        output_tokens_per_s_per_chip=tokens / share * choice.output_tokens_per_s_per_chip / choice.output_tokens_per_s,
        within_ratio=kept,
        delivered_ratio=delivered,
        keeps=kept >= job.within_ratio and (delivered >= DELIVERS or bool(users)) and not finished.stopped,
        stopped=finished.stopped,
        load_ratio=load_ratio,
        bands=bands,
    )


def _load(job: Job, named: str, requests: int, much: float, ramp_s: float, seed: int) -> OpenLoop | ClosedLoop:
    """Requests of the profile ``named``, or all equal: from so many users, or so many a second."""
    if named:
        trace = from_profile(named, profile(named), requests, seed=seed)
    else:
        trace = fixed(requests, round(job.input_tokens), round(job.output_tokens))
    if job.users:
        return ClosedLoop(trace, int(much), ramp_s=ramp_s)
    return OpenLoop(arriving(trace, much, seed=seed))


class _Seen(Record):
    """Finished requests, until more have broken the limits than may."""

    __slots__ = ("_left", "_limits", "_warm", "stopped")

    def __init__(self, job: Job, warm_s: float, requests: int) -> None:
        super().__init__()
        self._limits = job.ttft_s * SECOND, job.tpot_s * SECOND
        self._warm = warm_s * SECOND
        self._left = (1.0 - job.within_ratio) * requests
        self.stopped = False
        """Whether the run was broken off for that."""

    def append(self, r: Request) -> None:
        """Note a request that ended."""
        super().append(r)
        if r.arrival >= self._warm:
            ttft, tpot = self._limits
            if r.first - r.arrival > ttft or r.end - r.first > tpot * max(r.output - 1, 1):
                self._left -= 1.0
                if self._left < 0.0:
                    self.stopped = True
                    raise Stop


def _none(reason: str, rate_per_s: float, pools: tuple[Pool, ...], bands: Mapping[str, Band]) -> Confirmation:
    ran = tuple(pool.instances for pool in pools)
    return Confirmation(rate_per_s=rate_per_s, instances=ran, refused=reason, bands=bands)


def _portion(choice: Choice, stay_s: float) -> tuple[float, tuple[Pool, ...]]:
    """The share of the load that is run, and the pools that run it: equal instances are alike, a few stand for many.

    Of two pools the smaller is cut to what bounds the requests, the other in proportion; the share is what both carry.
    """
    counts = np.array([pool.instances for pool in choice.pools])
    few = int(counts.min())
    kept = 1 if len(counts) == 1 else max(1, min(few, int(few * MOST / max(choice.requests_per_s * stay_s, 1.0))))
    run = np.maximum(np.round(counts * (kept / few)), 1).astype(np.int64)
    pools = zip(choice.pools, run.tolist(), strict=True)
    return float((run / counts).min()), tuple(replace(pool, instances=count) for pool, count in pools)


def _run(
    job: Job, pools: tuple[Pool, ...], load: OpenLoop | ClosedLoop, finished: Record, end_s: float, seed: int,
    tables: Tables,
) -> None:  # fmt: skip
    made = []
    for each in pools:
        pool = build.Pool(setup=job.setup(each.plan), instances=each.instances, limits=_limits(job, each))
        key = each.plan, pool.limits.sequences, pool.limits.tokens
        if key not in tables:
            tables[key] = build.step_table(pool)
        made.append(replace(pool, table=tables[key]))
    system = build.cluster(made[0], made[1] if len(made) > 1 else None, context=job.context_tokens, seed=seed)
    end, calls = end_s * SECOND, count()

    def bounded(_: int, now: int) -> None:
        if now > end or next(calls) > EVENTS // EVERY:
            raise Stop

    after = load.after if isinstance(load, ClosedLoop) else None
    serve(system, load.arrivals(), finished, after=after, progress=bounded)


def _limits(job: Job, pool: Pool) -> Limits:
    if pool.role == "both":
        limits = preset(job.stack, tokens=pool.chunk_tokens, sequences=int(pool.sequences))
        return reserving(limits) if pool.plan.draft_tokens else limits
    if pool.role == "prefill":
        budget = int(np.ceil(pool.sequences * job.input_tokens))
        if pool.sequences == 1:  # the one prompt that may be longer than a step
            budget = min(budget, job.stack.chunk_tokens * (pool.plan.tp if pool.plan.sp else 1))
        return replace(preset(job.stack, policy="mixed", tokens=budget), reserve=False)
    batch = int(pool.sequences)
    limits = preset(job.stack, policy="mixed", sequences=batch, tokens=batch * (1 + int(pool.plan.draft_tokens)))
    return reserving(limits)


def _rate(table: dict[str, Any], start_s: float, end_s: float) -> float:
    """Output tokens per second between two times, each answer's spread from its first to its last."""
    first, last = table["arrival_s"] + table["ttft_s"], table["arrival_s"] + table["e2e_s"]
    inside = np.clip(np.minimum(last, end_s) - np.maximum(first, start_s), 0.0, None) / np.maximum(last - first, 1e-9)
    at_once = (last <= first) & (first >= start_s) & (first <= end_s)
    return float((table["output_tokens"] * (inside + at_once)).sum()) / max(end_s - start_s, 1e-9)
