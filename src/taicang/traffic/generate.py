"""Traffic made to order: arrivals of a renewal process, lengths of a trace, of a profile, or fixed.

Of conversations and agent loops every turn sends all that came before again, and a little more. A session begins with a
prefix that all sessions share (system prompt, tool descriptions) and one message. Each further turn arrives some time
(a user who thinks, a tool that runs) after the answer to the one before it; its prompt is the whole conversation so
far, answers included, and new tokens. Ids of blocks grow along, so that prefix caches find them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from taicang.errors import InvalidInput
from taicang.traffic.trace import Trace
from taicang.units import show

Process: TypeAlias = Literal["poisson", "gamma", "weibull", "uniform"]


def gaps(process: Process, rate_per_s: float, cv: float, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """``count`` times between arrivals, with mean 1 / ``rate_per_s`` and coefficient of variation ``cv``."""
    if process == "uniform" or cv == 0.0:
        return np.full(count, 1.0 / rate_per_s)
    if process == "poisson":
        return rng.exponential(1.0 / rate_per_s, count)
    if process == "gamma":
        shape = 1.0 / (cv * cv)
        return rng.gamma(shape, 1.0 / (rate_per_s * shape), count)
    shape = _weibull_shape(cv)
    return rng.weibull(shape, count) / (rate_per_s * math.gamma(1.0 + 1.0 / shape))


def _weibull_shape(cv: float) -> float:
    """The shape with this coefficient of variation, by bisection (it falls as the shape grows)."""
    low, high = 0.1, 20.0
    for _ in range(60):
        middle = (low * high) ** 0.5
        ratio = math.gamma(1 + 2 / middle) / math.gamma(1 + 1 / middle) ** 2 - 1
        low, high = (middle, high) if ratio > cv * cv else (low, middle)
    return low


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """How the rate changes over the day: ``weight_ratio`` of the mean in equal windows, over and over."""

    window_s: float
    weight_ratio: NDArray[np.float64]

    def times(self, even_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Arrivals at a steady rate, moved so that their rate follows the rhythm: the same number in every period."""
        period = self.window_s * len(self.weight_ratio)
        reached = np.concatenate([[0.0], np.cumsum(self.weight_ratio / self.weight_ratio.mean())]) * self.window_s
        whole, rest = np.divmod(even_s, period)
        edges = np.arange(len(reached)) * self.window_s
        moved: NDArray[np.float64] = whole * period + np.interp(rest, reached, edges)
        return moved


def rhythm(window_s: float, rates: Sequence[float], where: str) -> Rhythm:
    """From rates in windows that follow each other. Raises ``InvalidInput`` for negative rates or none at all."""
    weights = np.asarray(rates, dtype=float)
    if not len(weights) or not np.all(np.isfinite(weights)) or np.any(weights < 0) or not weights.any():
        raise InvalidInput("expected rates of zero and more, and some of them more", where=where)
    return Rhythm(window_s=window_s, weight_ratio=weights / weights.mean())


def wave(amplitude_ratio: float) -> Rhythm:
    """A day that is quietest at four in the morning and busiest at four in the afternoon."""
    hours = (np.arange(144) + 0.5) / 6.0
    return rhythm(600.0, (1.0 - amplitude_ratio * np.cos((hours - 4.0) * np.pi / 12.0)).tolist(), "a wave")


def arriving(
    trace: Trace, rate_per_s: float, *, process: Process = "poisson", cv: float = 1.0, seed: int = 0,
    day: Rhythm | None = None,
) -> Trace:  # fmt: skip
    """``trace`` with the arrivals of a renewal process in place of its own.

    With ``day`` the rate follows it, and ``rate_per_s`` is its mean; bursts keep their coefficient of variation. Of
    sessions, the first turns arrive so, and the others follow them.
    """
    first = np.ones(len(trace), dtype=bool) if trace.delay_s is None else np.isnan(trace.delay_s)
    made = np.cumsum(gaps(process, rate_per_s, cv, int(first.sum()), np.random.default_rng(seed)))
    made = made - made[0]
    made = made if day is None else day.times(made)
    return replace(trace, arrival_s=made[np.cumsum(first) - 1])


def fixed(count: int, input_tokens: int, output_tokens: int, *, spread: float = 0.0, seed: int = 0) -> Trace:
    """``count`` requests of one length, or of lengths drawn evenly within ``spread`` of it to either side."""
    rng = np.random.default_rng(seed)

    def lengths(mean: int) -> NDArray[np.int64]:
        if spread == 0.0:
            return np.full(count, mean)
        return np.maximum(np.round(mean * rng.uniform(1 - spread, 1 + spread, count)), 1).astype(np.int64)

    return Trace(
        name=f"{input_tokens}/{output_tokens}", kind="fixed", arrival_s=np.zeros(0),
        input_tokens=lengths(input_tokens), output_tokens=lengths(output_tokens),
    )  # fmt: skip


def from_profile(name: str, profile: Mapping[str, Any], count: int, *, seed: int = 0) -> Trace:
    """``count`` requests with lengths drawn from a profile's quantiles (straight lines between them)."""
    rng = np.random.default_rng(seed)
    inputs, outputs = (lengths_at(rng.random(count), name, profile, key) for key in ("input", "output"))
    return Trace(name=name, kind="profile", arrival_s=np.zeros(0), input_tokens=inputs, output_tokens=outputs)


def lengths_at(shares: NDArray[np.float64], name: str, profile: Mapping[str, Any], key: str) -> NDArray[np.int64]:
    """ "input" or "output" lengths of a profile at these quantiles. Raises ``InvalidInput`` where it has none."""
    table = profile.get(f"{key}_quantiles")
    if not table:
        raise InvalidInput(f"{name} has no {key} lengths", where="--profile")
    at, values = (np.array(list(map(float, each))) for each in (table.keys(), table.values()))
    order = np.argsort(at)
    drawn: NDArray[np.float64] = np.round(np.interp(shares, at[order], values[order]))
    return np.maximum(drawn, 1.0).astype(np.int64)


BLOCK = 64
REQUEST_BYTES = 600.0
"""Of memory for a request, its record in a replay and what is made of that."""
ID_BYTES = 40.0
"""Of memory for the id of a block."""


def room(needed_bytes: float, what: str) -> None:
    """Raise ``InvalidInput`` where ``what`` takes more memory than this host has."""
    held = float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if needed_bytes > held:
        raise InvalidInput(
            f"{what} take some {show(needed_bytes, 'B')} of memory, more than this host's {show(held, 'B')}"
        )


def sessions(
    count: int, turns: int, *, shared_tokens: int, new_tokens: int, output_tokens: int, delay_s: float,
    spread: float = 0.0, seed: int = 0, block: int = BLOCK,
) -> Trace:  # fmt: skip
    """``count`` sessions of ``turns`` turns. New tokens, answers and delays (exponential, if ``spread``) vary by
    ``spread``, evenly to either side. All sessions begin at time zero: ``arriving`` spreads their first turns."""
    if shared_tokens + new_tokens < 1:
        raise InvalidInput("a prompt needs tokens: give --input or --shared", where="--turns")
    grown = shared_tokens + (turns + 1) / 2 * (new_tokens + output_tokens)  # tokens of a prompt in the mean
    room(count * turns * (REQUEST_BYTES + grown / block * ID_BYTES), f"{count:,} sessions of {turns:,} turns")
    rng = np.random.default_rng(seed)

    def vary(mean: int) -> NDArray[np.int64]:
        drawn: NDArray[np.int64] = np.round(mean * rng.uniform(1 - spread, 1 + spread, (count, turns))).astype(np.int64)
        return drawn

    new, answers = vary(new_tokens), np.maximum(vary(output_tokens), 1)
    before = np.cumsum(new + answers, axis=1) - answers  # the prompt, less the shared part
    inputs = np.maximum(before + shared_tokens, 1)
    waits = rng.exponential(delay_s, (count, turns)) if spread else np.full((count, turns), delay_s)
    waits[:, 0] = np.nan
    common = shared_tokens // block
    most = int(inputs.max()) // block + 2
    ids: list[Sequence[int]] = [
        _ids(int(tokens), block, common, common + at // turns * most, -1 - at)
        for at, tokens in enumerate(inputs.ravel().tolist())
    ]
    return Trace(
        name=f"{count} sessions of {turns} turns", kind="sessions", arrival_s=np.zeros(count * turns),
        input_tokens=inputs.ravel(), output_tokens=answers.ravel(), blocks=ids, block=block,
        session=np.repeat(np.arange(count), turns), delay_s=waits.ravel(),
    )  # fmt: skip


def _ids(tokens: int, block: int, common: int, first: int, last: int) -> list[int]:
    """Blocks that all share, then the session's own; one that is not full is this prompt's alone."""
    whole, rest = divmod(tokens, block)
    shared = min(common, whole)
    made = [*range(shared), *range(first + shared, first + whole)]
    return [*made, last] if rest else made
