"""Requests that come at random queue: how long they wait, and how busy servers may be so that it is not too long.

One server that takes work of equal size in order (M/D/1); of its wait the tail is taken as exponential, with the decay
rate of heavy traffic (Kingman), ``2 (1 - busy) / service``. Servers that share a queue are one that is as fast as all.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from taicang.units import Num

WITHIN = 0.9
"""Share of the requests that must keep the limits, where nobody says."""
_HALVINGS = 40


def wait_s(busy_ratio: Num, service_s: Num, within_ratio: float) -> Any:
    """Seconds that no more than ``1 - within_ratio`` of the requests wait longer than."""
    late = np.maximum(busy_ratio / (1.0 - within_ratio), 1.0)
    return service_s * np.log(late) / (2.0 * (1.0 - busy_ratio))


def first_token_s(busy_ratio: Num, rate_per_s: Num, alone_s: Num, within_ratio: float) -> Any:
    """TTFT that ``within_ratio`` of the requests keep at instances which prefill ``rate_per_s`` prompts at most.

    A prompt waits for the batch that runs (at any moment of it), for those ahead, and for its own batch of ``alone_s``.
    """
    running = alone_s * busy_ratio * within_ratio
    return alone_s + running + wait_s(busy_ratio, 1.0 / np.maximum(rate_per_s, 1e-30), within_ratio)


def busiest(rate_per_s: Num, alone_s: Num, *, limit_s: float, within_ratio: float) -> Any:
    """Share of ``rate_per_s`` at which ``first_token_s`` still keeps ``limit_s``: 1 without a limit."""
    shape = np.broadcast_shapes(np.shape(rate_per_s), np.shape(alone_s))
    if np.isinf(limit_s):
        return np.ones(shape)
    low, high = np.zeros(shape), np.ones(shape)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        keeps = first_token_s(middle, rate_per_s, alone_s, within_ratio) <= limit_s
        low, high = np.where(keeps, middle, low), np.where(keeps, high, middle)
    return low


def fewest(load_per_s: Num, each_per_s: Num, alone_s: Num, *, limit_s: float, within_ratio: float) -> Any:
    """Instances of ``each_per_s`` that carry ``load_per_s`` within ``limit_s``; infinitely many where none do."""
    low = np.ceil(load_per_s / each_per_s) - 1.0

    def keeps(count: Any) -> Any:
        busy = np.minimum(load_per_s / (count * each_per_s), 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return first_token_s(busy, count * each_per_s, alone_s, within_ratio) <= limit_s

    if np.isinf(limit_s):
        return low + 1.0
    high = 2.0 * low + 2.0
    for _ in range(_HALVINGS):
        high = np.where(keeps(high), high, 2.0 * high)
    found = keeps(high)
    while (apart := high - low > 1.0).any() and (high > low + 1.0)[found].any():
        middle = np.floor((low + high) / 2.0)
        low, high = np.where(apart & ~keeps(middle), middle, low), np.where(apart & keeps(middle), middle, high)
    return np.where(found, high, np.inf)
