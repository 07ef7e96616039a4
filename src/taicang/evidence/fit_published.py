"""What published rows alone tell, of those that calibrate: constants of stacks, and the power of chips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from taicang import catalog
from taicang.catalog.schema import ARCHITECTURE
from taicang.cost.energy import Activity, EnergyFit, chip_power_w
from taicang.evidence.fitting import Constants, Group, declared_fits
from taicang.evidence.published import FILE, Published, read
from taicang.evidence.suite_published import mean_activity, predict
from taicang.evidence.tables import Array
from taicang.hardware import Machine
from taicang.stacks import Stack

KERNEL = "kernel_ratio:"
"""Prefix of a constant that is a ratio of kernel times."""


def _calibrating(folder: Path) -> list[Published]:
    return [row for row in read(folder / FILE) if not row.held_out and not row.context]


def stacks(folder: Path, family: str) -> Iterator[Group]:
    """Rows of each declared stack, of the phases that they tell of."""
    rows = _calibrating(folder)
    for name, said in declared_fits()[family]["stacks"].items():
        mine = [row for row in rows if row.source.startswith(said["source"])]
        pairs = [(row, phase) for row in mine for phase in said["phases"]]
        errors = partial(_stack_errors, pairs, catalog.stack(name))
        yield Group(places=[(name, "constants")], rows=len(mine), errors=errors, bounds=said["bounds"], made=_parted)


def _stack_errors(pairs: Sequence[tuple[Published, str]], stack: Stack, constants: Constants) -> Array:
    trial = replace(stack, **_parted(constants))
    measured = np.array([(row.token_s or 0.0) if phase == "decode" else row.stated for row, phase in pairs])
    return np.asarray(np.log(np.array([predict(row, phase, trial) for row, phase in pairs])) - np.log(measured))


def _parted(constants: Constants) -> dict[str, Any]:
    """Fields of a stack: ratios of kernel times apart from what is plain."""
    plain: dict[str, Any] = {key: value for key, value in constants.items() if not key.startswith(KERNEL)}
    return plain | {"kernel_ratio": {k.removeprefix(KERNEL): v for k, v in constants.items() if k.startswith(KERNEL)}}


def power(folder: Path, family: str) -> Iterator[Group]:
    """Rows that state an average power, by architecture."""
    found: dict[str, list[Published]] = {}
    for row in _calibrating(folder):
        if row.power_w is not None:
            found.setdefault(ARCHITECTURE[mean_activity(row)[1].chip.profile], []).append(row)
    for name, rows in sorted(found.items()):
        said, errors = declared_fits()[family], partial(_power_errors, rows, [mean_activity(row) for row in rows])
        yield Group(places=[(name, "step")], rows=len(rows), errors=errors, bounds=said["bounds"], prior=said["prior"])


def _power_errors(rows: Sequence[Published], seen: Sequence[tuple[Activity, Machine]], constants: Constants) -> Array:
    trial = EnergyFit(**constants)
    said = np.array([float(chip_power_w(activity, machine.chip, trial)) for activity, machine in seen])
    return np.asarray(np.log(said / np.array([(row.power_w or 0.0) / row.count for row in rows])))
