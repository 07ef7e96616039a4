"""Outcomes as plain data: suites with their errors and every row, as fractions of one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from taicang.catalog.trust import NINE_IN_TEN, Band, bands, unvalidated
from taicang.evidence.board import frozen
from taicang.evidence.declared import kinds
from taicang.evidence.score import Outcome, score

CARRIED = "carried by the package"
METRICS: Mapping[str, str] = {
    "s": "latency", "ms": "latency", "us": "latency", "W": "power", "GB/s": "bus_bandwidth", "B": "memory",
}  # fmt: skip
"""Unit of an outcome -> what it measures, where its suite does not say."""


def file_of(outcome: Outcome) -> str:
    """Name that the evidence folder gives to the file of an outcome."""
    for kind in kinds():
        if any(outcome.suite.startswith(suite) for suite in kind.measured):
            return kind.file
    return CARRIED


def metric_of(outcome: Outcome) -> str:
    """What an outcome measures: "tpot", "ttft", "step_time", "latency", "throughput", "power"..."""
    if outcome.figure:
        return outcome.figure
    for name in ("tpot", "ttft"):
        if name in outcome.suite:
            return name
    if outcome.suite.startswith("training") and outcome.unit != "B":
        return "step_time"
    return METRICS.get(outcome.unit, "throughput")


def band_of(outcome: Outcome) -> Band:
    """The band that a run like this one gets; of a kernel or collective, what the rows that its fit saw were off by."""
    if outcome.run is not None:
        metric, replay = metric_of(outcome), outcome.suite.startswith("replay")
        return bands(outcome.run, (metric,), replay=replay or metric == "power")[metric]
    seen = frozen().get("scores", {}).get(outcome.suite, {}).get("calibrated-on")
    if not seen:
        return unvalidated(f"no fit has seen rows of {outcome.suite}")
    nine = 1.0 + seen["p90_ratio"]
    return Band(
        verdict=NINE_IN_TEN, low_ratio=1.0 / nine, high_ratio=nine, typical_ratio=seen["median_ratio"],
        rows=seen["rows"], basis=f"rows of {outcome.suite} that its fit has seen",
    )  # fmt: skip


def rows(found: Mapping[str, Sequence[Outcome]]) -> list[dict[str, Any]]:
    """One plain row per outcome of each file."""
    return [
        {
            "file": file,
            "id": one.id,
            "subset": one.suite,
            "metric": metric_of(one),
            "split": one.part,
            "unit": one.unit,
            "measured": one.measured if math.isfinite(one.measured) else None,
            "predicted": one.predicted,
            "bands": {} if one.predicted is None else {metric_of(one): band_of(one)},
            "reason": one.refused or one.note,
        }
        for file, outcomes in found.items()
        for one in outcomes
    ]


def suites(found: Mapping[str, Sequence[Outcome]]) -> list[dict[str, Any]]:
    """One plain row per file, suite, metric and part of the evidence split."""
    parts: dict[tuple[str, str, str, str], list[Outcome]] = {}
    for file, outcomes in found.items():
        for one in outcomes:
            parts.setdefault((file, one.suite, metric_of(one), one.part), []).append(one)
    return [
        {"file": file, "subset": subset, "metric": metric, "split": split, **_errors(outcomes)}
        for (file, subset, metric, split), outcomes in parts.items()
    ]


def _errors(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    listed = list(outcomes)
    made = score(listed, suite="")
    said = sum(one.predicted is not None for one in listed)
    return {
        "rows": len(listed),
        "predicted": said,
        "coverage": made.coverage_ratio,
        "mape": made.mape_ratio if said else None,
        "median_ape": made.median_ratio if said else None,
        "bias": made.bias_ratio if said else None,
    }
