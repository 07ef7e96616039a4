"""Fit the host and kernel constants of the stacks that only published rows speak for, on their calibration rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from taicang import catalog
from taicang.evidence.fit_kernels import declared_fits
from taicang.evidence.fitting import Bounds, Constants, solve, write
from taicang.evidence.published import FILE, Published, read
from taicang.evidence.published_predict import predict
from taicang.evidence.tables import Array
from taicang.stacks import Stack

KERNEL = "kernel_ratio:"
"""Prefix of a constant that is a ratio of kernel times."""


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


def fit_rows(rows: list[Published], stack: Stack, bounds: Bounds, phases: Sequence[str]) -> dict[str, float]:
    """Constants that minimise the log error of the calibration rows (soft L1)."""
    pairs = [(row, phase) for row in rows for phase in phases]
    goal = np.log(np.array([measured_s(row, phase) for row, phase in pairs]))

    def errors(constants: Constants) -> Array:
        trial = with_constants(stack, constants)
        return np.asarray(np.log(np.array([predict(row, phase, trial) for row, phase in pairs])) - goal)

    return solve(errors, bounds, step=0.05, evaluations=25)


def fit(folder: Path) -> Path:
    """Fit all stacks and write their constants."""
    rows = read(folder / FILE)
    profiles: dict[str, Any] = {}
    used = 0
    for stack, said in declared_fits()["stacks_published"]["stacks"].items():
        mine = [row for row in rows if row.source.startswith(said["source"]) and not row.held_out and not row.context]
        used += len(mine)
        found = fit_rows(mine, catalog.stack(stack), said["bounds"], said["phases"])
        ratios = {key.removeprefix(KERNEL): value for key, value in found.items() if key.startswith(KERNEL)}
        plain: dict[str, Any] = {key: value for key, value in found.items() if not key.startswith(KERNEL)}
        profiles[stack] = {"constants": plain | {"kernel_ratio": ratios}}
    return write(
        "stacks_published", profiles, evidence=folder / FILE, rows=used, note="rows of role calibration, log error"
    )
