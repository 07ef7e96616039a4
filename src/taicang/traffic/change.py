"""Traces made of traces: cut, thinned, faster, longer, one after the other or side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.errors import InvalidInput
from taicang.traffic.cells import LONGEST
from taicang.traffic.trace import Trace, chosen


def take(trace: Trace, count: int) -> Trace:
    """The first ``count`` requests."""
    return chosen(trace, np.arange(min(count, len(trace))))


def window(trace: Trace, begin_s: float, end_s: float) -> Trace:
    """Requests that arrive from ``begin_s`` until before ``end_s``; turns that follow an answer go with their session.

    Raises ``InvalidInput`` where there are none.
    """
    _timed(trace, "a part by time")
    inside = (trace.arrival_s >= begin_s) & (trace.arrival_s < end_s)
    if trace.delay_s is not None and trace.session is not None:
        waits = ~np.isnan(trace.delay_s)
        inside = np.where(waits, np.isin(trace.session, trace.session[inside & ~waits]), inside)
    if not inside.any():
        raise InvalidInput(f"no request arrives between {begin_s:g} s and {end_s:g} s", where=trace.name)
    return chosen(trace, np.flatnonzero(inside))


BRANCHES = 8
"""A block that is followed by more different ones than this ends no conversation: it ends a prompt that many share."""


def conversations(trace: Trace) -> NDArray[np.int64]:
    """The session of each request. Where the trace has none, a prompt that begins with all whole blocks of an earlier
    one continues it; without blocks each request is a session of its own."""
    if trace.session is not None:
        return trace.session
    found = np.arange(len(trace))
    follow: dict[int, set[int]] = {}
    for ids in trace.blocks:
        for this, after in pairwise(ids):
            follow.setdefault(this, set()).add(after)
    ends: dict[int, int] = {}
    for i, ids in enumerate(trace.blocks):
        whole = min(int(trace.input_tokens[i]) // trace.block, len(ids))
        for block in reversed(ids[:whole]):
            if block in ends and len(follow.get(block, ())) <= BRANCHES:
                found[i] = ends[block]
                break
        if whole:
            ends[ids[whole - 1]] = int(found[i])
    return found


def thin(trace: Trace, share: float, seed: int) -> Trace:
    """A random ``share`` of the sessions, each of them whole, so that what their prompts share survives."""
    session = conversations(trace)
    names, position = np.unique(session, return_inverse=True)
    kept = np.random.default_rng(seed).random(len(names)) < share
    index = np.flatnonzero(kept[position])
    if not len(index):
        raise InvalidInput(f"a share of {share:g} of {len(names)} sessions leaves nothing", where=trace.name)
    return chosen(trace, index)


def faster(trace: Trace, factor: float) -> Trace:
    """All requests in 1 / ``factor`` of the time."""
    _timed(trace, "a speed")
    return replace(trace, arrival_s=trace.arrival_s / factor)


def to_rate(trace: Trace, rate_per_s: float) -> Trace:
    """As fast as gives this mean rate; bursts and quiet hours keep their shape."""
    if trace.span_s <= 0:
        raise InvalidInput("has no span of time to scale", where=trace.name)
    return faster(trace, rate_per_s * trace.span_s / (len(trace) - 1))


def longer(trace: Trace, input_ratio: float, output_ratio: float) -> Trace:
    """Lengths by a factor, at least one token. Where prompts have blocks their size is scaled with them (to a whole
    number of tokens), so that the same prompts share the same parts."""
    inputs, block = np.round(trace.input_tokens * input_ratio), trace.block
    if trace.blocks and input_ratio != 1.0:
        block = max(round(trace.block * input_ratio), 1)
        inputs = -(-trace.input_tokens * block // trace.block)
    for name, lengths in (("input", inputs), ("output", trace.output_tokens * output_ratio)):
        if lengths.max() > LONGEST:
            raise InvalidInput(f"an {name} of {lengths.max():.0f} tokens is beyond any model", where=trace.name)
    return replace(
        trace,
        input_tokens=np.maximum(inputs, 1).astype(np.int64),
        output_tokens=np.maximum(np.round(trace.output_tokens * output_ratio), 1).astype(np.int64),
        block=block,
    )


def spliced(traces: Sequence[Trace], *, gap_s: float = 0.0) -> Trace:
    """One after the other, with ``gap_s`` between a last arrival and the next trace's first."""
    shifts, now = [], 0.0
    for trace in traces:
        _timed(trace, "splicing")
        shifts.append(now)
        now += trace.span_s + gap_s
    return _joined(traces, shifts, " + ")


def overlaid(traces: Sequence[Trace]) -> Trace:
    """Side by side, all from time zero."""
    for trace in traces:
        _timed(trace, "overlaying")
    return _joined(traces, [0.0] * len(traces), " | ")


def _joined(traces: Sequence[Trace], shifts: Sequence[float], sign: str) -> Trace:
    sizes = {trace.block for trace in traces if trace.blocks}
    if len(sizes) > 1:
        raise InvalidInput(f"blocks of {' and '.join(map(str, sorted(sizes)))} tokens cannot be mixed")
    arrival = np.concatenate([trace.arrival_s + shift for trace, shift in zip(traces, shifts, strict=True)])
    order = np.argsort(arrival, kind="stable")
    blocks: list[Sequence[int]] = []
    sessions, clients = [], []
    ids = names = people = 0
    for trace in traces:  # ids of one trace mean nothing in another
        if sizes:
            low = min((min(each) for each in trace.blocks if each), default=0)
            blocks += [[i - low + ids for i in each] for each in trace.blocks] or [()] * len(trace)
            ids += 1 + max((max(each) - low for each in trace.blocks if each), default=0)
        own = trace.session if trace.session is not None else np.arange(len(trace))
        sessions.append(own + names)
        names += int(own.max()) + 1
        whose = trace.client if trace.client is not None else np.zeros(len(trace), dtype=np.int64)
        clients.append(whose + people)
        people += int(whose.max()) + 1
    repaired: dict[str, int] = {}
    for trace in traces:
        for what, count in trace.repaired.items():
            repaired[what] = repaired.get(what, 0) + count
    return Trace(
        name=sign.join(trace.name for trace in traces),
        kind=traces[0].kind if len({trace.kind for trace in traces}) == 1 else "mixed",
        arrival_s=arrival[order],
        input_tokens=np.concatenate([trace.input_tokens for trace in traces])[order],
        output_tokens=np.concatenate([trace.output_tokens for trace in traces])[order],
        blocks=[blocks[i] for i in order.tolist()] if sizes else (),
        block=max(sizes, default=0),
        session=np.concatenate(sessions)[order] if any(t.session is not None for t in traces) else None,
        delay_s=_columns(traces, "delay_s", np.nan, order),
        priority=_columns(traces, "priority", 0, order),
        deadline_s=_columns(traces, "deadline_s", np.nan, order),
        client=np.concatenate(clients)[order],
        model=_columns(traces, "model", 0, order),
        repaired=repaired,
        notes=tuple(dict.fromkeys(note for trace in traces for note in trace.notes)),
    )


def _columns(traces: Sequence[Trace], name: str, missing: float, order: NDArray[np.int64]) -> NDArray[Any] | None:
    """The column ``name`` of all ``traces``, ``missing`` for those that lack it; None where all do."""
    each = [getattr(trace, name) for trace in traces]
    if all(column is None for column in each):
        return None
    whole = [np.full(len(t), missing) if column is None else column for t, column in zip(traces, each, strict=True)]
    return np.concatenate(whole)[order]


def isolated(trace: Trace) -> Trace:
    """Clients share no block: each works in a namespace of its own. Raises ``InvalidInput`` without clients."""
    if trace.client is None:
        raise InvalidInput("names no clients to keep apart", where=trace.name)
    return _apart(trace, trace.client)


def _apart(trace: Trace, space: NDArray[np.int64]) -> Trace:
    """Requests share blocks only within their ``space``."""
    names: dict[tuple[int, int], int] = {}
    spaces = space.tolist()
    blocks = [[names.setdefault((spaces[i], block), len(names)) for block in ids] for i, ids in enumerate(trace.blocks)]
    return replace(trace, blocks=blocks)


def for_models(trace: Trace, shares: Sequence[float], seed: int) -> Trace:
    """A random share of the sessions asks for each of several models, numbered from 1; the others ask for number 0.

    Models share no blocks.
    """
    names, position = np.unique(conversations(trace), return_inverse=True)
    edges = 1.0 - np.cumsum(np.asarray(shares)[::-1])[::-1]
    drawn = np.searchsorted(edges, np.random.default_rng(seed).random(len(names)), side="right")
    model = drawn[position].astype(np.int64)
    return replace(_apart(trace, model), model=model)


def due(trace: Trace, within_s: float) -> Trace:
    """Every request without a deadline is to start ``within_s`` after its arrival."""
    known = trace.deadline_s if trace.deadline_s is not None else np.full(len(trace), np.nan)
    return replace(trace, deadline_s=np.where(np.isnan(known), within_s, known))


def _timed(trace: Trace, what: str) -> None:
    if not len(trace.arrival_s):
        raise InvalidInput(f"has lengths only: {what} needs times", where=trace.name)
