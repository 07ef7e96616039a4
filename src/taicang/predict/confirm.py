"""A choice of a search confirmed by replay: a short run of the same load through schedulers, queues and caches.

The closed form that a search prices knows the mean of a steady state. Here requests arrive at random (Poisson) at the
rate that the choice promises, for a few times as long as one stays; those of the first stay are warm-up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from taicang.catalog.profiles import profile
from taicang.errors import TaicangError
from taicang.search.points import Job
from taicang.search.result import Choice, Pool
from taicang.serve import build
from taicang.serve.clients import OpenLoop
from taicang.serve.record import Record
from taicang.serve.scheduler import Limits, preset
from taicang.serve.simulate import serve
from taicang.traffic.generate import arriving, fixed, from_profile
from taicang.traffic.trace import Trace

STAYS = 1.5
"""How long is measured, over the time that a request stays; one more such time fills the machine."""
MEASURED = 4000
"""Requests of which no more are measured."""
LEAST = 40
"""Requests of a run, whatever the load."""
MOST = 20_000
"""Requests of a run; a larger machine is confirmed on fewer of its instances."""


LOADS = (0.9, 0.8, 0.65, 0.5, 0.3)
"""Shares of the load that are tried where all of it breaks the limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What users saw in the replay, and whether it keeps the limits."""

    requests: int
    """That were measured."""
    rate_per_s: float
    """At which requests arrived at the instances that ran."""
    instances: tuple[int, ...]
    """That ran, of each pool: fewer than the choice has where it has many equal ones."""
    ttft_s: float
    """Mean."""
    ttft_p99_s: float
    tpot_s: float
    tpot_p99_s: float
    output_tokens_per_s_per_chip: float
    """Over the same chips as the choice's figure."""
    within_ratio: float
    """Share of the requests within both limits."""
    keeps: bool
    load_ratio: float = 1.0
    """Share of the load that ran."""
    refused: str = ""
    """Why there was no run."""


def confirm(
    job: Job, choice: Choice, *, named: str = "", within_ratio: float = 0.5, load_ratio: float = 1.0, seed: int = 0
) -> Confirmation:
    """Replay ``choice`` under ``load_ratio`` of the load of ``job``: lengths of the profile ``named``, or all equal.

    It keeps the limits if at least ``within_ratio`` of the requests do.
    """
    stay_s = choice.ttft_s + max(job.output_tokens - 1, 0.0) * choice.tpot_s
    share, pools = _portion(choice, stay_s)
    rate = choice.requests_per_s * share * load_ratio
    filling = rate * stay_s
    count = max(round(filling + min(filling * STAYS, MEASURED)), LEAST)
    if named:
        trace = from_profile(named, profile(named), count, seed=seed)
    else:
        trace = fixed(count, round(job.input_tokens), round(job.output_tokens))
    try:
        table = _run(job, pools, arriving(trace, rate, seed=seed), seed)
    except TaicangError as error:
        return _none(str(error), rate, pools)
    late = table["arrival_s"] >= min(stay_s, 0.5 * count / rate)
    if not late.any():
        return _none("no request finished", rate, pools)
    ttft, tpot = table["ttft_s"][late], table["tpot_s"][late]
    kept = float(((ttft <= job.ttft_s) & (tpot <= job.tpot_s)).mean())
    return Confirmation(
        requests=int(late.sum()),
        rate_per_s=rate,
        instances=tuple(pool.instances for pool in pools),
        ttft_s=float(ttft.mean()),
        ttft_p99_s=float(np.quantile(ttft, 0.99)),
        tpot_s=float(tpot.mean()),
        tpot_p99_s=float(np.quantile(tpot, 0.99)),
        output_tokens_per_s_per_chip=_rate(table, late)
        / share
        * choice.output_tokens_per_s_per_chip
        / choice.output_tokens_per_s,
        within_ratio=kept,
        keeps=kept >= within_ratio,
        load_ratio=load_ratio,
    )


def sustained(job: Job, choice: Choice, *, named: str = "", within_ratio: float = 0.5) -> Confirmation | None:
    """The replay at the largest of ``LOADS`` that keeps the limits; ``None`` if none does."""
    for ratio in LOADS:
        found = confirm(job, choice, named=named, within_ratio=within_ratio, load_ratio=ratio)
        if found.keeps:
            return found
    return None


def _none(reason: str, rate_per_s: float, pools: tuple[Pool, ...]) -> Confirmation:
    return Confirmation(
        requests=0,
        rate_per_s=rate_per_s,
        instances=tuple(pool.instances for pool in pools),
        ttft_s=0.0,
        ttft_p99_s=0.0,
        tpot_s=0.0,
        tpot_p99_s=0.0,
        output_tokens_per_s_per_chip=0.0,
        within_ratio=0.0,
        keeps=False,
        refused=reason,
    )


def _portion(choice: Choice, stay_s: float) -> tuple[float, tuple[Pool, ...]]:
    """The share of the machine that is run, and its pools: equal instances are alike, a few stand for many."""
    counts = [pool.instances for pool in choice.pools]
    whole = int(np.gcd.reduce(counts))
    parts = min(whole, max(1, int(np.ceil(choice.requests_per_s * stay_s / MOST))))
    while whole % parts:
        parts += 1
    if len(counts) == 1:
        parts = whole
    return 1.0 / parts, tuple(replace(pool, instances=pool.instances // parts) for pool in choice.pools)


def _run(job: Job, pools: tuple[Pool, ...], trace: Trace, seed: int) -> dict[str, Any]:
    made = [build.Pool(setup=job.setup(p.plan), instances=p.instances, limits=_limits(job, p)) for p in pools]
    system = build.cluster(made[0], made[1] if len(made) > 1 else None, context=job.context_tokens, seed=seed)
    finished = Record()
    serve(system, OpenLoop(trace).arrivals(), finished)
    return finished.columns()


def _limits(job: Job, pool: Pool) -> Limits:
    if pool.role == "both":
        limits = preset(job.stack, tokens=pool.chunk_tokens, sequences=int(pool.sequences))
        return replace(limits, reserve=True, reserve_ratio=1.0 if limits.reserve else 0.5) if _drafts(pool) else limits
    if pool.role == "prefill":
        budget = int(np.ceil(pool.sequences * job.input_tokens))
        if pool.sequences == 1:  # the one prompt that may be longer than a step
            budget = min(budget, job.stack.chunk_tokens * (pool.plan.tp if pool.plan.sp else 1))
        return replace(preset(job.stack, policy="mixed", tokens=budget), reserve=False)
    batch = int(pool.sequences)
    limits = preset(job.stack, policy="mixed", sequences=batch, tokens=batch * (1 + int(pool.plan.draft_tokens)))
    return replace(limits, reserve=True, reserve_ratio=1.0 if limits.reserve else 0.5)


def _drafts(pool: Pool) -> bool:
    return bool(pool.plan.draft_tokens)


def _rate(table: dict[str, Any], late: Any) -> float:
    """Output tokens per second from the end of the warm-up to the last arrival, each answer spread over its time."""
    first, end = table["arrival_s"] + table["ttft_s"], table["arrival_s"] + table["e2e_s"]
    start, stop = float(table["arrival_s"][late].min()), float(table["arrival_s"].max())
    inside = np.clip(np.minimum(end, stop) - np.maximum(first, start), 0.0, None) / np.maximum(end - first, 1e-9)
    return float((table["output_tokens"] * inside).sum()) / max(stop - start, 1e-9)
