"""A request trace in memory: columns, one entry per request, in order of arrival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """``arrival_s`` counts from the first request and never falls; it is empty where the source has lengths only."""

    name: str
    kind: str
    """Format it was read from."""
    arrival_s: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    blocks: Sequence[Sequence[int]] = ()
    """Ids of the prompt's blocks of ``block`` tokens; an id stands for its block and everything before it."""
    block: int = 0
    session: NDArray[np.int64] | None = None
    delay_s: NDArray[np.float64] | None = None
    """NaN: arrives at its time. Otherwise it arrives so long after the end of the request before it in its session."""
    priority: NDArray[np.int64] | None = None
    """The smaller is served first, by schedulers that look at it."""
    deadline_s: NDArray[np.float64] | None = None
    """Time after the arrival by which it is to start (NaN: any), for schedulers that look at it."""
    client: NDArray[np.int64] | None = None
    """Whose request it is, where several clients are mixed."""
    model: NDArray[np.int64] | None = None
    """Which of several models it asks for, by number."""
    measured: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """What a benchmark saw of each request, in seconds ("ttft_s", "tpot_s", "e2e_s"; NaN: not kept)."""
    stated: Mapping[str, float] = field(default_factory=dict)
    """What a benchmark states of the whole run: "clients", "rate_per_s", "output_tokens_per_s", "ttft_s mean"..."""
    repaired: Mapping[str, int] = field(default_factory=dict)
    """What was mended on request, and how often."""
    notes: tuple[str, ...] = ()
    """What the reader left out or assumed."""

    def __len__(self) -> int:
        return len(self.input_tokens)

    @property
    def span_s(self) -> float:
        """From the first to the last arrival."""
        return float(self.arrival_s[-1] - self.arrival_s[0]) if len(self.arrival_s) > 1 else 0.0


COLUMNS = ("session", "delay_s", "priority", "deadline_s", "client", "model")
"""What a trace may say of each request beside its time and lengths."""


def following(trace: Trace) -> NDArray[np.int64] | None:
    """For each request the one that is sent after its answer (-1: none); None where no request waits for an answer."""
    if trace.delay_s is None or trace.session is None:
        return None
    order = np.argsort(trace.session, kind="stable")
    later = order[1:]
    follows = (trace.session[later] == trace.session[order[:-1]]) & ~np.isnan(trace.delay_s[later])
    found = np.full(len(trace), -1)
    found[order[:-1][follows]] = later[follows]
    return found


def continued(trace: Trace) -> dict[int, int]:
    """For each request whose answer the next prompt of its session goes on from, that one: its blocks are those of the
    answer too."""
    if trace.session is None or not trace.blocks:
        return {}
    order = np.argsort(trace.session, kind="stable")
    first, then = order[:-1], order[1:]
    longer = trace.input_tokens[then] >= trace.input_tokens[first] + trace.output_tokens[first]
    follows = (trace.session[then] == trace.session[first]) & longer
    whole = trace.input_tokens // trace.block
    return {
        one: next_
        for one, next_ in zip(first[follows].tolist(), then[follows].tolist(), strict=True)
        if list(trace.blocks[one][: whole[one]]) == list(trace.blocks[next_][: whole[one]])
    }


def chosen(trace: Trace, index: NDArray[np.int64]) -> Trace:
    """The requests at ``index`` (in rising order), the first of them at time zero."""
    times = trace.arrival_s[index] if len(trace.arrival_s) else trace.arrival_s
    return replace(
        trace,
        arrival_s=times - times[0] if len(times) else times,
        input_tokens=trace.input_tokens[index],
        output_tokens=trace.output_tokens[index],
        blocks=[trace.blocks[i] for i in index] if trace.blocks else (),
        **{name: column[index] for name in COLUMNS if (column := getattr(trace, name)) is not None},
        measured={name: values[index] for name, values in trace.measured.items()},
    )


def infinite_hit_ratio(trace: Trace) -> float:
    """Share of prompt tokens that a prefix cache without limit would hold."""
    seen: set[int] = set()
    hits = 0
    for ids in trace.blocks:
        for block in ids:
            if block not in seen:
                break
            hits += 1
        seen.update(ids)
    return hits * trace.block / max(float(trace.input_tokens.sum()), 1.0)


def info(trace: Trace) -> dict[str, Any]:
    """What there is to know about a trace at a glance."""
    gaps = np.diff(trace.arrival_s)
    known: dict[str, Any] = {
        "name": trace.name,
        "format": trace.kind,
        "requests": len(trace),
        "span_s": trace.span_s,
        "rate_per_s": len(trace) / trace.span_s if trace.span_s else None,
        "interarrival_cv": float(gaps.std() / gaps.mean()) if len(gaps) and gaps.mean() else None,
        "repaired": dict(trace.repaired),
        "notes": list(trace.notes),
    }
    for name, lengths in (("input", trace.input_tokens), ("output", trace.output_tokens)):
        known[f"{name}_mean"] = float(lengths.mean())
        for q in (50, 90, 99):
            known[f"{name}_p{q}"] = float(np.percentile(lengths, q))
        known[f"{name}_max"] = int(lengths.max())
    if trace.session is not None:
        known["sessions"] = len(np.unique(trace.session))
        known["turns_per_session"] = len(trace) / known["sessions"]
    if trace.delay_s is not None:
        known["turns_that_wait"] = int((~np.isnan(trace.delay_s)).sum())
    if trace.priority is not None:
        known["priorities"] = len(np.unique(trace.priority))
    if trace.deadline_s is not None:
        known["with_deadline"] = int((~np.isnan(trace.deadline_s)).sum())
    if trace.client is not None:
        known["clients"] = len(np.unique(trace.client))
    if trace.blocks:
        known["block_tokens"] = trace.block
        known["prefix_hit_ratio"] = infinite_hit_ratio(trace)
    return known
