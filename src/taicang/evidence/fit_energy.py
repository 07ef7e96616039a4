"""Fit the power of chips from their activity, on the calibration rows that state an average power."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from taicang.catalog.costing import ARCHITECTURE
from taicang.cost.energy import EnergyFit, chip_power_w
from taicang.evidence.fitting import Bounds, Constants, solve, write
from taicang.evidence.published import FILE, Published, read
from taicang.evidence.published_predict import mean_activity
from taicang.evidence.suite_published import measured_power_w, states_power
from taicang.evidence.tables import Array

BOUNDS: Bounds = {
    "base_ratio": (0.3, 1e-3, 2.0),
    "compute_ratio": (0.5, 1e-3, 2.0),
    "memory_ratio": (0.3, 1e-3, 2.0),
    "network_ratio": (0.1, 1e-3, 2.0),
}
PRIOR = 0.1
"""A constant that is off by a factor of e counts as a row with 10 % error: holds what few rows do not tell."""


def fit_rows(rows: list[Published]) -> EnergyFit:
    """Ratios that minimise the relative error of the rows' power (soft L1)."""
    seen = [mean_activity(row) for row in rows]
    goal = np.array(
        [
            (measured_power_w(row, machine.chip.tdp_w or 0.0) or 0.0) / row.count
            for row, (_, machine) in zip(rows, seen, strict=True)
        ]
    )

    def errors(constants: Constants) -> Array:
        trial = EnergyFit(**constants)
        said = np.array([float(chip_power_w(activity, machine.chip, trial)) for activity, machine in seen])
        return np.asarray(np.log(said / goal))

    return EnergyFit(**solve(errors, BOUNDS, prior=PRIOR))


def fit_energy(folder: Path) -> Path:
    """Fit each measured architecture; "default", for the others, is their mean."""
    rows = [row for row in read(folder / FILE) if states_power(row) and not row.held_out and not row.context]
    groups: dict[str, list[Published]] = {}
    for row in rows:
        groups.setdefault(ARCHITECTURE[mean_activity(row)[1].chip.profile], []).append(row)
    found = {name: fit_rows(mine) for name, mine in sorted(groups.items())}
    profiles: dict[str, Any] = {
        name: {"step": {key: getattr(each, key) for key in BOUNDS}} for name, each in found.items()
    }
    profiles["default"] = {
        "step": {key: float(np.mean([getattr(each, key) for each in found.values()])) for key in BOUNDS}
    }
    return write(
        "energy", profiles, evidence=folder / FILE, rows=len(rows), note="rows of role calibration; shares of the limit"
    )
