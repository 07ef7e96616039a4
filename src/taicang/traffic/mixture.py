"""Requests of many clients side by side, each with its own rates, bursts and lengths (see ``servegen``)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.errors import InvalidInput
from taicang.traffic.generate import gaps
from taicang.traffic.servegen import Client, ClientSet
from taicang.traffic.trace import Trace


def mixture(
    found: ClientSet, *, rate_per_s: float | None = None, span_s: float | None = None, begin_s: float = 0.0,
    seed: int = 0,
) -> Trace:  # fmt: skip
    """Requests of ``span_s`` seconds (default: all windows) from ``begin_s`` on, clients side by side.

    ``rate_per_s`` scales all rates so that this is their mean over that time. Windows repeat from the start when they
    run out. Arrivals are a renewal process in each client's own time, so bursts carry over from window to window.
    """
    whole = found.span_s
    span = whole - begin_s if span_s is None else span_s
    windows = np.floor(begin_s / found.window_s), np.ceil((begin_s + span) / found.window_s)
    edges = np.arange(*windows, dtype=np.float64) * found.window_s
    scale = 1.0
    if rate_per_s is not None:
        inside = np.minimum(edges + found.window_s, begin_s + span) - np.maximum(edges, begin_s)
        each = [float((_rates(client, edges % whole) * inside).sum()) for client in found.clients]
        expected = float(np.sum(each))
        if expected <= 0:
            raise InvalidInput("has no requests in this time", where=found.name)
        scale = rate_per_s * span / expected
    parts: list[tuple[NDArray[Any], ...]] = []
    for client in found.clients:
        rng = np.random.default_rng([seed, client.number])
        times = _arrivals(client, edges, found.window_s, whole, scale, rng)
        times = times[(times >= begin_s) & (times < begin_s + span)]
        if len(times):
            inputs, outputs = _drawn(client, times % whole, rng)
            parts.append((times, inputs, outputs, np.full(len(times), client.number)))
    if not parts:
        raise InvalidInput("has no requests in this time", where=found.name)
    times, inputs, outputs, numbers = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(times, kind="stable")
    notes = (f"{len(found.without)} of {len(found.without) + len(found.clients)} clients have no lengths: left out",)
    return Trace(
        name=found.name, kind="servegen", arrival_s=times[order] - times[order[0]], input_tokens=inputs[order],
        output_tokens=outputs[order], session=None, client=numbers[order], notes=notes if found.without else (),
    )  # fmt: skip


def _at(client: Client, times: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.clip(np.searchsorted(client.start_s, times, side="right") - 1, 0, None)


def _rates(client: Client, times: NDArray[np.float64]) -> NDArray[np.float64]:
    rates: NDArray[np.float64] = client.rate_per_s[_at(client, times)]
    return rates


def _arrivals(
    client: Client, edges: NDArray[np.float64], window_s: float, whole: float, scale: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Gaps of mean one in the time in which the client's rate is one, window by window; the last gap reaches over."""
    made: list[NDArray[np.float64]] = []
    left: float | None = None
    for edge, at in zip(edges.tolist(), _at(client, edges % whole).tolist(), strict=True):
        rate = float(client.rate_per_s[at]) * scale
        room = rate * window_s
        if room <= 0:
            continue
        if left is None:
            left = float(rng.random())  # somewhere within a gap when the run begins
        if left >= room:
            left -= room
            continue
        cv, family = float(client.cv_ratio[at]), client.family[at]
        cv = 1.0 if family == "poisson" or not np.isfinite(cv) or cv <= 0 else cv
        reached = np.asarray([left])
        while reached[-1] < room:
            more = gaps(family, 1.0, cv, int((room - reached[-1]) * 1.2) + 16, rng)
            reached = np.concatenate([reached, reached[-1] + np.cumsum(more)])
        inside = int(np.searchsorted(reached, room))
        left = float(reached[inside] - room)
        made.append(edge + reached[:inside] / rate)
    return np.concatenate(made) if made else np.zeros(0)


def _drawn(
    client: Client, times: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    inputs, outputs = np.ones(len(times), dtype=np.int64), np.ones(len(times), dtype=np.int64)
    which = np.clip(np.searchsorted(client.lengths_from_s, times, side="right") - 1, 0, None)
    for at, (prompt, answer) in enumerate(client.lengths):
        here = np.flatnonzero(which == at)
        inputs[here] = prompt.draw(rng.random(len(here)))
        outputs[here] = answer.draw(rng.random(len(here)))
    return inputs, outputs
