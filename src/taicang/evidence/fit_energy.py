"""Fit the power of chips from their activity, on the calibration rows that state an average power."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from taicang.catalog.costing import ARCHITECTURE
from taicang.cost.energy import EnergyFit, chip_power_w
from taicang.evidence.fit_kernels import declared_fits
from taicang.evidence.fitting import Constants, solve, write
from taicang.evidence.published import FILE, Published, read
from taicang.evidence.published_predict import mean_activity
from taicang.evidence.suite_published import measured_power_w, states_power
from taicang.evidence.tables import Array

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

    return EnergyFit(**solve(errors, declared_fits()["energy"]["bounds"], prior=PRIOR))


def fit_energy(folder: Path) -> Path:
    """Fit each measured architecture; "default", for the others, is their mean."""
    rows = [row for row in read(folder / FILE) if states_power(row) and not row.held_out and not row.context]
    groups: dict[str, list[Published]] = {}
    for row in rows:
        groups.setdefault(ARCHITECTURE[mean_activity(row)[1].chip.profile], []).append(row)
    found = {name: fit_rows(mine) for name, mine in sorted(groups.items())}
    steps = {name: asdict(each) for name, each in found.items()}
    keys = declared_fits()["energy"]["bounds"]
    steps["default"] = {key: float(np.mean([step[key] for step in steps.values()])) for key in keys}
    profiles: dict[str, Any] = {name: {"step": {key: step[key] for key in keys}} for name, step in steps.items()}
    return write(
        "energy", profiles, evidence=folder / FILE, rows=len(rows), note="rows of role calibration; shares of the limit"
    )
