"""What users of a serving system saw: latencies, their tails, goodput, and how busy the instances were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.serve.cluster import Cluster
from taicang.serve.log import token_gaps
from taicang.serve.record import QUANTILES, Spread, spread
from taicang.serve.request import SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What users were promised: limits (None: no limit) that ``within_ratio`` of the requests must keep."""

    name: str = ""
    ttft_s: float | None = None
    tpot_s: float | None = None
    within_ratio: float | None = None

    def __bool__(self) -> bool:
        return self.ttft_s is not None or self.tpot_s is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """What memory beside the instances did."""

    name: str
    plane: str
    hit_ratio: float
    """Share of all prompt tokens that came from here."""
    loads: int
    load_s: float
    """Mean time from asking for a prompt's blocks to having them, waiting for the link included."""
    blocks: int
    """Held at the end."""
    evicted: int
    expired: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Losses:
    """What failures did."""

    failures: int
    """Of instances."""
    down_s: float
    """Time that instances were down, summed over them."""
    retries: int
    """Times that a request started over because its cache was lost."""
    lost_tokens: int
    """Of cache, computed in vain."""
    given_up: int
    """Requests that started over too often."""
    stranded: int
    """Requests that still wait, for an instance that nothing brings back."""
    switches: int
    """Times that an instance went over to the other pool."""

    def __bool__(self) -> bool:
        return any((self.failures, self.retries, self.given_up, self.stranded, self.switches))


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the users of one of several models saw."""

    model: str
    requests: int
    """That were served."""
    ttft: Spread | None
    tpot: Spread | None
    goodput_ratio: float | None
    """Share within the limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loads:
    """Changes of the model that an instance holds."""

    warm: int
    """From the model cache."""
    cold: int
    """From the store."""
    load_s: float
    """Mean time to have the weights, waiting for the store included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Rates count from the first arrival to the last end; ``goodput`` counts requests within both limits."""

    requests: int
    finished: int
    turned_away: int
    """Requests whose deadline passed before they were served: within no limit, and in none of the figures but these."""
    losses: Losses
    span_s: float
    requests_per_s: float
    input_tokens_per_s: float
    output_tokens_per_s: float
    ttft: Spread | None
    """None, as the next ones, where there was none: an answer of one token has no TPOT."""
    tpot: Spread | None
    itl: Spread | None
    e2e: Spread | None
    queue: Spread | None
    goodput_per_s: float | None
    goodput_ratio: float | None
    slo_met: bool | None
    """Whether enough requests kept each limit; None where no share was promised."""
    cached_ratio: float
    """Share of prompt tokens found in device memory."""
    pooled_ratio: float
    """Share fetched from the memory pool."""
    tiers: tuple[Tier, ...]
    """Memory beside the instances, the nearest first."""
    models: tuple[Served, ...]
    """Each of several models."""
    loads: Loads | None
    """None where there is but one."""
    preemptions: int
    swaps: int
    """Sequences that came back from host memory."""
    busy_ratio: float
    """Mean over the instances of the time in which a step runs."""
    steps: int
    energy_j: float | None
    """Of the chips that the instances hold, idle ones included, until the last end; None where no public figure gives
    their power."""
    power_w: float | None
    """Mean of the same."""
    output_tokens_per_j: float | None
    partial: bool


def summarise(
    table: Mapping[str, NDArray[Any]],
    cluster: Cluster,
    *,
    requests: int,
    limits: Limits,
    energy_j: float | None = None,
    partial: bool = False,
) -> Summary:
    """Aggregate the columns of finished requests."""
    count = len(table["id"])
    end = table["arrival_s"] + table["e2e_s"]
    begin = float(table["arrival_s"].min()) if count else 0.0
    span = max(float(end.max()) - begin, 1e-12) if count else 0.0
    served = ~np.isnan(table["ttft_s"])
    many = served & (table["output_tokens"] > 1)
    made = float(table["output_tokens"][served].sum())
    kept = [
        table[name] <= limit
        for name, limit in (("ttft_s", limits.ttft_s), ("tpot_s", limits.tpot_s))
        if limit is not None
    ]
    good: NDArray[Any] = np.logical_and.reduce(kept) if kept else np.ones(count, dtype=bool)
    met = None
    if limits.within_ratio is not None and kept and count:
        met = all(float(each.mean()) >= limits.within_ratio for each in kept)
    rate = 1.0 / span if span else 0.0
    prompt = float(table["input_tokens"][served].sum())
    places = cluster.instances
    return Summary(
        requests=requests,
        finished=int(served.sum()),
        turned_away=int(np.isnan(table["queue_s"]).sum()),
        losses=_losses(table, cluster, stranded=0 if partial else requests - count),
        span_s=span,
        requests_per_s=float(served.sum()) * rate,
        input_tokens_per_s=prompt * rate,
        output_tokens_per_s=made * rate,
        ttft=spread(table["ttft_s"][served]),
        tpot=spread(table["tpot_s"][many]),
        itl=_itl(cluster),
        e2e=spread(table["e2e_s"][served]),
        queue=spread(table["queue_s"][served]),
        goodput_per_s=float(good.sum()) * rate if kept else None,
        goodput_ratio=float(good.mean()) if kept and count else None,
        slo_met=met,
        cached_ratio=float(table["cached_tokens"].sum()) / max(prompt, 1.0),
        pooled_ratio=float(table["pooled_tokens"].sum()) / max(prompt, 1.0),
        tiers=_tiers(cluster, prompt),
        models=_models(table, cluster, good if kept else None),
        loads=_loads(cluster),
        preemptions=int(table["preempted"].sum()),
        swaps=int(table["swaps"].sum()),
        busy_ratio=sum(each.busy for each in places) / SECOND / max(len(places), 1) * rate,
        steps=sum(each.steps_run for each in places),
        energy_j=energy_j,
        power_w=None if energy_j is None or not count else energy_j / max(float(end.max()), 1e-12),
        output_tokens_per_j=None if not energy_j else made / energy_j,
        partial=partial,
    )


def _losses(table: Mapping[str, NDArray[Any]], cluster: Cluster, *, stranded: int) -> Losses:
    end = float((table["arrival_s"] + table["e2e_s"]).max()) if len(table["id"]) else 0.0
    spans = [(begun / SECOND, min(back / SECOND, end) if back >= 0 else end) for _, begun, back in cluster.outages]
    return Losses(
        failures=len(spans),
        down_s=sum(max(back - begun, 0.0) for begun, back in spans),
        retries=int(table["retries"].sum()),
        lost_tokens=int(table["lost_tokens"].sum()),
        given_up=int(table["failed"].sum()),
        stranded=stranded,
        switches=cluster.switches if cluster.split else 0,
    )


def _models(table: Mapping[str, NDArray[Any]], cluster: Cluster, good: NDArray[Any] | None) -> tuple[Served, ...]:
    if cluster.fleet is None:
        return ()
    served = ~np.isnan(table["ttft_s"])
    many = served & (table["output_tokens"] > 1)
    made = []
    for name in cluster.fleet.models:
        mine = table["model"] == name
        made.append(
            Served(
                model=name,
                requests=int((mine & served).sum()),
                ttft=spread(table["ttft_s"][mine & served]),
                tpot=spread(table["tpot_s"][mine & many]),
                goodput_ratio=float(good[mine].mean()) if good is not None and mine.any() else None,
            )
        )
    return tuple(made)


def _loads(cluster: Cluster) -> Loads | None:
    if cluster.fleet is None:
        return None
    weights = cluster.fleet.weights
    count = weights.warm_loads + weights.cold_loads
    return Loads(
        warm=weights.warm_loads, cold=weights.cold_loads, load_s=weights.load_ticks / SECOND / max(count, 1)
    )  # fmt: skip


def _tiers(cluster: Cluster, prompt_tokens: float) -> tuple[Tier, ...]:
    store = cluster.store
    return (
        ()
        if store is None
        else tuple(
            Tier(
                name=shelf.name,
                plane=shelf.plane,
                hit_ratio=shelf.loaded_blocks * store.block / max(prompt_tokens, 1.0),
                loads=shelf.loads,
                load_s=shelf.load_ticks / SECOND / max(shelf.loads, 1),
                blocks=len(shelf),
                evicted=shelf.evicted,
                expired=shelf.expired,
            )
            for shelf in store.shelves
        )
    )


def _itl(cluster: Cluster) -> Spread | None:
    """Inter-token latency over all tokens, from the log (resolved to a sixteenth of an octave)."""
    if cluster.log is None:
        return None
    values, weights = token_gaps(cluster.log, [each.name for each in cluster.instances])
    if not len(values):
        return None
    reached = np.cumsum(weights) / weights.sum()
    p50, p90, p95, p99 = (float(values[int(np.searchsorted(reached, q))]) for q in QUANTILES)
    mean = float((values * weights).sum() / weights.sum())
    return Spread(mean_s=mean, p50_s=p50, p90_s=p90, p95_s=p95, p99_s=p99, max_s=float(values[-1]))
