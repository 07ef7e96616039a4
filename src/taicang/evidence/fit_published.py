"""Fit the host and kernel constants of the stacks that only published rows speak for, on their calibration rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from taicang import catalog
from taicang.evidence.fitting import Bounds, Constants, solve, write
from taicang.evidence.published import FILE, Published, read
from taicang.evidence.published_predict import predict
from taicang.evidence.tables import Array
from taicang.stacks import Stack

KERNEL = "kernel_ratio:"
"""Prefix of a constant that is a ratio of kernel times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One stack: its rows, and (start, least, most) of each constant."""

    stack: str
    source: str
    constants: Bounds
    phases: tuple[str, ...] = ("",)


JOBS = (
    Job(
        stack="vllm-stream",
        source="mlenergy",
        constants={
            "step_host_s": (1e-3, 1e-5, 2e-2),
            "sequence_host_s": (3e-5, 1e-7, 3e-4),
            "layer_gap_s": (1e-5, 1e-8, 2e-4),
            f"{KERNEL}experts/fp8_block": (1.5, 1.0, 5.0),
        },
    ),
    Job(
        stack="trtllm-bench",
        source="trtllm",
        constants={
            "sequence_host_s": (5e-6, 1e-8, 1e-4),
            "layer_gap_s": (3e-6, 1e-8, 2e-4),
            f"{KERNEL}experts": (1.2, 1.0, 4.0),
            f"{KERNEL}experts/mxfp4_w4a16": (2.0, 1.0, 8.0),
        },
    ),
    Job(
        stack="vllm-2023",
        source="splitwise",
        constants={
            "step_host_s": (1e-2, 1e-4, 5e-2),
            "layer_gap_s": (1e-4, 1e-7, 1e-3),
            f"{KERNEL}gemm": (1.2, 1.0, 3.0),
            f"{KERNEL}collective": (1.2, 1.0, 8.0),
            f"{KERNEL}attend": (1.2, 1.0, 20.0),
        },
        phases=("", "decode"),
    ),
)


def with_constants(stack: Stack, values: Mapping[str, float]) -> Stack:
    """``stack`` with plain constants and kernel ratios replaced."""
    plain = {key: value for key, value in values.items() if not key.startswith(KERNEL)}
    ratios = {key.removeprefix(KERNEL): value for key, value in values.items() if key.startswith(KERNEL)}
    changed: dict[str, Any] = dict(plain) | ({"kernel_ratio": MappingProxyType(ratios)} if ratios else {})
    return replace(stack, **changed)


def measured_s(row: Published, phase: str) -> float:
    """The row's figure in the unit that ``predict`` answers in."""
    if phase == "decode":
        return float(row.extra["token_time_ms"]) * 1e-3
    return row.value * (1e-3 if row.unit == "ms" else 1.0)


def fit_rows(rows: list[Published], job: Job) -> dict[str, float]:
    """Constants that minimise the log error of the calibration rows (soft L1)."""
    stack = catalog.stack(job.stack)
    pairs = [(row, phase) for row in rows for phase in job.phases]
    goal = np.log(np.array([measured_s(row, phase) for row, phase in pairs]))

    def errors(constants: Constants) -> Array:
        trial = with_constants(stack, constants)
        return np.asarray(np.log(np.array([predict(row, phase, trial) for row, phase in pairs])) - goal)

    return solve(errors, job.constants, step=0.05, evaluations=25)


def fit(folder: Path) -> Path:
    """Fit all stacks and write their constants."""
    rows = read(folder / FILE)
    profiles: dict[str, Any] = {}
    used = 0
    for job in JOBS:
        mine = [row for row in rows if row.source.startswith(job.source) and not row.held_out and not row.context]
        used += len(mine)
        found = fit_rows(mine, job)
        ratios = {key.removeprefix(KERNEL): value for key, value in found.items() if key.startswith(KERNEL)}
        plain: dict[str, Any] = {key: value for key, value in found.items() if not key.startswith(KERNEL)}
        profiles[job.stack] = {"constants": plain | {"kernel_ratio": ratios}}
    return write(
        "stacks_published", profiles, evidence=folder / FILE, rows=used, note="rows of role calibration, log error"
    )
