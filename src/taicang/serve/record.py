"""Finished requests as columns, one row each as it leaves: millions of them do not fit as objects."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import Struct, error
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.errors import InvalidInput
from taicang.serve.request import SECOND, Request

QUANTILES = (0.5, 0.9, 0.95, 0.99)
COARSE = 10
"""Times are kept without their last bits: whole picoseconds, of which 64 bits hold a hundred days."""
STAMP = SECOND >> COARSE
"""Stamps of a second."""
LONGEST_S = 2**63 / STAMP
"""Of what 64 bits hold."""
COMING_S = 100 * 86400.0
"""In which requests come; what is under way then has the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Mean, quantiles and maximum of one latency, in seconds."""

    mean_s: float
    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float
    max_s: float


def too_long() -> InvalidInput:
    """What to raise where a figure does not fit into 64 bits."""
    return InvalidInput(f"the run goes on for more than {LONGEST_S / 86400:.0f} days")


TIMES = ("arrival", "started", "first", "moved", "end", "fetching")
COUNTS = ("id", "input", "output", "cached", "pooled", "preempted", "swaps", "retries", "lost", "failed", "place")
WIDTH = len(TIMES) + len(COUNTS)
PACKED = Struct(f"={WIDTH}q").pack


class Record:
    """Takes the place of a list of finished requests where only their figures are wanted."""

    __slots__ = ("_rows",)

    def __init__(self, requests: Iterable[Request] = ()) -> None:
        self._rows = array("q")
        for request in requests:
            self.append(request)

    def __len__(self) -> int:
        return len(self._rows) // WIDTH

    def append(self, r: Request) -> None:
        """Note a request that ended."""
        try:
            self._rows.frombytes(  # several times faster than extending by a tuple
                PACKED(r.arrival >> COARSE, r.started >> COARSE, r.first >> COARSE, r.moved >> COARSE, r.end >> COARSE,
                 r.fetching >> COARSE, r.id,
                 r.input, r.output, r.cached, r.pooled, r.preempted, r.swaps, r.retries, r.lost, r.failed, r.place)
            )  # fmt: skip
        except error:
            raise too_long() from None

    def since(self, first: int) -> Record:
        """A copy of the rows from ``first`` on."""
        found = Record()
        found._rows = self._rows[max(first, 0) * WIDTH :]
        return found

    def ended(self, stamp: int) -> int:
        """Rows of requests that ended before ``stamp``."""
        return bisect_left(range(len(self)), stamp, key=lambda row: self._rows[row * WIDTH + TIMES.index("end")])

    def ticks(self) -> dict[str, NDArray[np.int64]]:
        """The raw figures by name, times in stamps (-1: never)."""
        rows = np.frombuffer(self._rows, dtype=np.int64).reshape(-1, WIDTH)
        return {name: rows[:, i] for i, name in enumerate((*TIMES, *COUNTS))}

    def columns(self) -> dict[str, NDArray[Any]]:
        """In order of ending; times in seconds from the clock's start, lengths in tokens.

        A request that was turned away or given up has no latencies (NaN); it ends when its user was told.
        """
        raw = self.ticks()
        arrival, started, first, moved, end, fetching = (raw[name] / STAMP for name in TIMES)
        served, begun = (raw["first"] >= 0) & (raw["failed"] == 0), raw["started"] >= 0
        return {
            "id": raw["id"].copy(),
            "arrival_s": arrival,
            "input_tokens": raw["input"].copy(),
            "output_tokens": raw["output"].copy(),
            "queue_s": np.where(begun, started - arrival, np.nan),
            "ttft_s": np.where(served, first - arrival, np.nan),
            "tpot_s": np.where(served, (end - first) / np.maximum(raw["output"] - 1, 1), np.nan),
            "e2e_s": end - arrival,
            "moved_s": np.where(raw["moved"] >= 0, moved - first, 0.0),
            "cached_tokens": raw["cached"].copy(),
            "pooled_tokens": raw["pooled"].copy(),
            "load_s": fetching,
            "preempted": raw["preempted"].copy(),
            "swaps": raw["swaps"].copy(),
            "retries": raw["retries"].copy(),
            "lost_tokens": raw["lost"].copy(),
            "failed": raw["failed"].copy(),
            "instance": raw["place"].copy(),
        }


def quantiles(values: NDArray[Any], shares: Sequence[float]) -> list[float]:
    """As NumPy's, bit for bit, which would load masked arrays for it: a tenth of a short replay."""
    ordered, last = np.sort(values).tolist(), len(values) - 1
    found = []
    for share in shares:
        low, rest = divmod(last * share, 1.0)
        a, b = ordered[int(low)], ordered[min(int(low) + 1, last)]
        found.append(b - (b - a) * (1.0 - rest) if rest >= 0.5 else a + (b - a) * rest)
    return found


def spread(values: NDArray[Any]) -> Spread | None:
    """Mean and quantiles, if there are values."""
    if not len(values):
        return None
    p50, p90, p95, p99 = quantiles(values, QUANTILES)
    return Spread(mean_s=float(values.mean()), p50_s=p50, p90_s=p90, p95_s=p95, p99_s=p99, max_s=float(values.max()))
