"""Fit what published rows alone tell, on their calibration rows: constants of stacks, and the power of chips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from taicang import catalog
from taicang.catalog.schema import ARCHITECTURE
from taicang.cost.energy import EnergyFit, chip_power_w
from taicang.evidence.fit_kernels import declared_fits
from taicang.evidence.fitting import Bounds, Constants, solve, write
from taicang.evidence.published import FILE, Published, read
from taicang.evidence.suite_published import mean_activity, predict
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
    return (row.token_s or 0.0) if phase == "decode" else row.stated


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


POWER_PRIOR = 0.1
"""A constant that is off by a factor of e counts as a row with 10 % error: holds what few rows do not tell."""


def fit_power(rows: list[Published]) -> EnergyFit:
    """Ratios that minimise the relative error of the rows' power (soft L1)."""
    seen = [mean_activity(row) for row in rows]
    goal = np.array([(row.power_w or 0.0) / row.count for row in rows])

    def errors(constants: Constants) -> Array:
        trial = EnergyFit(**constants)
        said = np.array([float(chip_power_w(activity, machine.chip, trial)) for activity, machine in seen])
        return np.asarray(np.log(said / goal))

    return EnergyFit(**solve(errors, declared_fits()["energy"]["bounds"], prior=POWER_PRIOR))


def fit_energy(folder: Path) -> Path:
    """Fit each measured architecture; "default", for the others, is their mean."""
    rows = [row for row in read(folder / FILE) if row.power_w is not None and not row.held_out and not row.context]
    groups: dict[str, list[Published]] = {}
    for row in rows:
        groups.setdefault(ARCHITECTURE[mean_activity(row)[1].chip.profile], []).append(row)
    found = {name: fit_power(mine) for name, mine in sorted(groups.items())}
    steps = {name: asdict(each) for name, each in found.items()}
    keys = declared_fits()["energy"]["bounds"]
    steps["default"] = {key: float(np.mean([step[key] for step in steps.values()])) for key in keys}
    profiles: dict[str, Any] = {name: {"step": {key: step[key] for key in keys}} for name, step in steps.items()}
    return write(
        "energy", profiles, evidence=folder / FILE, rows=len(rows), note="rows of role calibration; shares of the limit"
    )
