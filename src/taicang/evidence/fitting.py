"""The one driver of fits: what ``data/fits.yaml`` declares is searched for, written, and said what it was fitted on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import yaml

from taicang.catalog import calibration, files
from taicang.evidence.tables import CARRIED, Array, named
from taicang.output import write_file

Constants: TypeAlias = dict[str, float]
Bounds: TypeAlias = Mapping[str, tuple[float, float, float]]
"""Constant -> first guess, least and most."""
NINE = 0.9
FEW = 30
"""Rows below which the decile is that of so many groups; of more rows it is a little further out by their number."""
SPREAD = 2.0
"""Of few rows the largest error is told larger, by this many over their number (about as Student's t)."""


def fingerprint(path: Path) -> str:
    """First 16 hex digits of the file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {str(k): _rounded(v) for k, v in value.items()}
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows that share constants; the search is the family's, as ``data/fits.yaml`` declares it."""

    places: Sequence[tuple[str, str]]
    """(Profile, key) that the constants are written under."""
    rows: int
    errors: Callable[[Constants], Array]
    """Logarithms of predicted over measured."""
    bounds: Bounds
    """Empty where nothing is to be found."""
    prior_ratio: float = 0.0
    """Error that a constant off by a factor of e counts as (0: no prior)."""
    made: Callable[[Constants], Mapping[str, Any]] = dict
    """Constants as they are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What a fit found, and how many rows it saw."""

    files: Mapping[str, Mapping[str, Any]]
    """Calibration file -> profile -> key -> constants."""
    rows: int


SEARCH = ("spreads", "bend", "evaluations", "step")
"""Of ``solve``, what a family may declare."""


@cache
def declared_fits() -> Mapping[str, Any]:
    """The families of ``data/fits.yaml``."""
    return files.read(CARRIED / "fits.yaml")


def fit(family: str, folder: Path | None) -> list[Path]:
    """Fit a declared family on its rows of an evidence ``folder`` and write what was found; returns the paths."""
    said = declared_fits()[family]
    if "writes" in said:
        return [named(said["writes"])(folder)]
    found: Fitted = named(said["fit"])(folder) if "fit" in said else _of_groups(family, folder)
    prints = {name: fingerprint(_place(folder, file)) for name, file in said.get("prints", {}).items()}
    notes = {name: said.get("notes", {}).get(name, said["note"]) for name in found.files}
    return [
        _write(
            name, profiles, evidence=_place(folder, said["evidence"]), rows=found.rows,
            note=notes[name].format(rows=found.rows, **prints),
        )
        for name, profiles in found.files.items()
    ]  # fmt: skip


def _place(folder: Path | None, file: str) -> Path:
    """A table that the package carries, else of the folder."""
    return CARRIED / file if folder is None or (CARRIED / file).is_file() else folder / file


def _of_groups(family: str, folder: Path | None) -> Fitted:
    """Constants of each of the family's groups by itself; those of "default", where it has them, are their means."""
    said = declared_fits()[family]
    search = {name: said[name] for name in SEARCH if name in said}
    profiles: dict[str, dict[str, Mapping[str, Any]]] = {}
    rows = 0
    for group in named(said["groups"])(folder, family):
        best = solve(group.errors, group.bounds, prior=group.prior_ratio, **search) if group.bounds else {}
        rows += group.rows
        for profile, key in group.places:
            profiles.setdefault(profile, {})[key] = group.made(best)
    if said.get("default") == "mean":
        known = list(profiles.values())
        profiles["default"] = {
            key: {name: float(np.mean([each[key][name] for each in known])) for name in made}
            for key, made in known[0].items()
        }
    return Fitted(files={family: profiles}, rows=rows)


def _write(family: str, profiles: Mapping[str, Any], *, evidence: Path, rows: int, note: str) -> Path:
    """Write the calibration file of ``family``: ``profiles[profile][key][constant]``, rounded to five digits."""
    target = calibration.FOLDER / f"{family}.yaml"
    document = {
        "family": family,
        "kind": "calibrated",
        "fitted_on": {
            "file": evidence.name,
            "sha256": fingerprint(evidence),
            "rows": rows,
            "part": "calibrated-on rows of taicang.evidence.tables (three keys in four)",
            "note": note,
        },
        "profiles": _rounded(profiles),
    }
    header = f"# Written by `taicang fit {family}`; do not edit.\n"
    write_file(target, header + yaml.safe_dump(document, sort_keys=False, width=120), "fit")
    calibration.read.cache_clear()
    calibration.fits.cache_clear()
    return target


def stated(fit: Any) -> dict[str, Any]:
    """Constants of a fit as plain data, those at their default left out."""
    default = {f.name: f.default for f in fields(fit)}
    return {name: value for name, value in asdict(fit).items() if value != default[name]}


def solve(
    errors: Callable[[Constants], Array],
    bounds: Bounds,
    *,
    spreads: Sequence[float] = (0.0,),
    also: Constants | None = None,
    prior: float = 0.0,
    bend: float = 0.1,
    evaluations: int = 200,
    step: float | None = None,
) -> Constants:
    """Constants that make ``errors`` (logarithms) least: bounded soft-L1 least squares in their logarithms.

    The best of as many fits as there are ``spreads``, which say how far (in log, at random) from the bounds' first
    guesses each starts, and of one from ``also``. Errors beyond ``bend`` count linearly: rows that another kernel
    served do not lead. A constant that is off its first guess by a factor of e counts as a row with an error of
    ``prior``.
    """
    from scipy.optimize import least_squares  # noqa: PLC0415 - fitting only

    first, low, high = np.log(np.array(list(bounds.values()))).T

    def constants(x: Array) -> Constants:
        return dict(zip(bounds, np.exp(x).tolist(), strict=True))

    def residuals(x: Array) -> Array:
        found = errors(constants(x))
        return np.append(found, prior * (x - first)) if prior else found

    random = np.random.default_rng(0)
    guesses = [first + random.normal(0.0, 1.0, first.size) * spread for spread in spreads]
    if also is not None:
        guesses.append(np.log([also[name] for name in bounds]))
    best: Any = None
    for guess in guesses:
        start = np.clip(guess, low + 1e-6, high - 1e-6)
        found = least_squares(
            residuals, start, bounds=(low, high), loss="soft_l1", f_scale=bend, max_nfev=evaluations, diff_step=step
        )
        if best is None or found.cost < best.cost:
            best = found
    return constants(best.x)


def quantiles(errors: Array, groups: float) -> list[float]:
    """(Median, ninth decile) of the absolute errors of rows of so many groups; further out, the fewer there are."""
    few = errors.size < FEW
    level = min(NINE * (1.0 + 1.0 / groups), 1.0) if few else NINE + (1.0 - NINE) / groups
    half, nine = (float(np.quantile(errors, at)) for at in (0.5, level))
    return [half, nine * (1.0 + few * SPREAD / errors.size)]
