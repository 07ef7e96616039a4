"""Outcomes (one published row each) and the scores made of them.

Error of a row: (predicted - measured) / measured. MAPE: mean of its absolute value over the rows that were predicted.
Coverage: predicted rows / all rows; a refusal is not covered and never counts as accurate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from taicang.catalog.grounds import Ground

PARTS = ("held-out", "calibrated-on", "yours")
"""Of an evidence folder: kept from every fit, or seen by one. Of a user's files: rows that nobody has fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One measured row and what was predicted for it. ``unit`` is that of both values."""

    id: str
    suite: str
    group: str
    measured: float
    predicted: float | None
    unit: str
    note: str = ""
    """How the row was read, where it leaves that open."""
    held_out: bool
    refused: str = ""
    """Why there is no prediction."""
    figure: str = ""
    """What was measured, where neither suite nor unit tells: "tpot", "ttft"."""
    run: Ground | None = None
    """What is known of the run, where it is one that bands are fitted for."""
    yours: bool = False
    """Brought by a user: neither kept from a fit nor seen by one."""

    @property
    def part(self) -> str:
        """One of ``PARTS``."""
        return "yours" if self.yours else "held-out" if self.held_out else "calibrated-on"

    @property
    def error_ratio(self) -> float | None:
        """Signed relative error, or None where nothing was predicted."""
        return None if self.predicted is None else self.predicted / self.measured - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How one set of outcomes did; ratios are fractions of one."""

    suite: str
    group: str
    part: str
    rows: int
    coverage_ratio: float
    mape_ratio: float
    median_ratio: float
    bias_ratio: float
    p90_ratio: float
    worst_ratio: float


def score(outcomes: Iterable[Outcome], *, suite: str, group: str = "all", part: str = "held-out") -> Score:
    """Aggregate outcomes; errors are NaN where nothing was predicted."""
    listed = list(outcomes)
    errors = np.array([o.error_ratio for o in listed if o.error_ratio is not None])
    size = np.abs(errors)
    some = errors.size > 0
    return Score(
        suite=suite,
        group=group,
        part=part,
        rows=len(listed),
        coverage_ratio=errors.size / len(listed) if listed else 0.0,
        mape_ratio=float(size.mean()) if some else float("nan"),
        median_ratio=float(np.median(size)) if some else float("nan"),
        bias_ratio=float(errors.mean()) if some else float("nan"),
        p90_ratio=float(np.quantile(size, 0.9)) if some else float("nan"),
        worst_ratio=float(size.max()) if some else float("nan"),
    )


def score_parts(outcomes: Iterable[Outcome], *, by_group: bool = False) -> list[Score]:
    """Scores per suite and part (and per group), held-out first; suites keep the order of their first row."""
    listed = list(outcomes)
    keys: dict[tuple[str, str], None] = {}
    for o in listed:
        keys.setdefault((o.suite, "all"))
        if by_group:
            keys.setdefault((o.suite, o.group))
    scores = []
    for suite, group in keys:
        for part in PARTS:
            chosen = [o for o in listed if o.suite == suite and group in ("all", o.group) and o.part == part]
            if chosen:
                scores.append(score(chosen, suite=suite, group=group, part=part))
    return scores
