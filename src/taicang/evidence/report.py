"""Outcomes as plain data: suites with their errors and every row, as fractions of one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from taicang.evidence.declared import kinds
from taicang.evidence.score import Outcome, score

CARRIED = "carried by the package"
METRICS: Mapping[str, str] = {"s": "latency", "ms": "latency", "us": "latency", "W": "power", "GB/s": "bus_bandwidth"}
"""Unit of an outcome -> what it measures, where its suite does not say."""


def file_of(outcome: Outcome) -> str:
    """Name that the evidence folder gives to the file of an outcome."""
    for kind in kinds():
        if any(outcome.suite.startswith(suite) for suite in kind.measured):
            return kind.file
    return CARRIED


def metric_of(outcome: Outcome) -> str:
    """What an outcome measures: "tpot", "ttft", "step_time", "latency", "throughput", "power"..."""
    for name in ("tpot", "ttft"):
        if name in outcome.suite:
            return name
    if outcome.suite.startswith("training"):
        return "step_time"
    return METRICS.get(outcome.unit, "throughput")


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
