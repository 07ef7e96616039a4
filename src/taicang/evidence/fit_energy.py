"""Fit the power of chips from their activity, on the calibration rows that state an average power."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from taicang.catalog.costing import ARCHITECTURE
from taicang.cost.energy import EnergyFit, chip_power_w
from taicang.evidence import fitting
from taicang.evidence.published import FILE, Published, read
from taicang.evidence.published_predict import mean_activity
from taicang.evidence.suite_published import measured_power_w, states_power

NAMES = ("base_ratio", "compute_ratio", "memory_ratio", "network_ratio")
START = (0.3, 0.5, 0.3, 0.1)
PRIOR_SPREAD = 1.0
"""Standard deviation, in log, of the weak prior that holds what few rows do not tell near the start."""


def fit_rows(rows: list[Published]) -> EnergyFit:
    """Ratios that minimise the relative error of the rows' power (soft L1)."""
    from scipy.optimize import least_squares  # noqa: PLC0415 - only fitting needs scipy

    seen = [mean_activity(row) for row in rows]
    goal = np.array(
        [
            (measured_power_w(row, machine.chip.tdp_w or 0.0) or 0.0) / row.count
            for row, (_, machine) in zip(rows, seen, strict=True)
        ]
    )

    def made(x: Any) -> EnergyFit:
        return EnergyFit(**dict(zip(NAMES, np.exp(x).tolist(), strict=True)))

    def residual(x: Any) -> Any:
        trial = made(x)
        said = np.array([float(chip_power_w(activity, machine.chip, trial)) for activity, machine in seen])
        prior = (x - np.log(START)) * 0.1 / PRIOR_SPREAD
        return np.concatenate([np.log(said / goal), prior])

    solve: Callable[..., Any] = least_squares
    best = solve(residual, np.log(START), loss="soft_l1", f_scale=0.1, bounds=(np.log(1e-3), np.log(2.0)))
    return made(best.x)


def fit(folder: Path) -> Path:
    """Fit each measured architecture; "default", for the others, is their mean."""
    rows = [row for row in read(folder / FILE) if states_power(row) and not row.held_out and not row.context]
    groups: dict[str, list[Published]] = {}
    for row in rows:
        groups.setdefault(ARCHITECTURE[mean_activity(row)[1].chip.profile], []).append(row)
    found = {name: fit_rows(mine) for name, mine in sorted(groups.items())}
    profiles: dict[str, Any] = {
        name: {"step": {key: getattr(each, key) for key in NAMES}} for name, each in found.items()
    }
    profiles["default"] = {
        "step": {key: float(np.mean([getattr(each, key) for each in found.values()])) for key in NAMES}
    }
    return fitting.write(
        "energy", profiles, evidence=folder / FILE, rows=len(rows), note="rows of role calibration; shares of the limit"
    )
