"""Kernel rows as a chip of one's own: the few constants of each kernel that its rows can carry.

Rows are priced as the scoreboard prices them. Of each family and format the launch, the share of the peak and the share
of the bandwidth are drawn from the chip's own towards the rows, and kept where rows of shapes that the fit has not seen
come nearer; collectives have one ratio for each kind.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from taicang.catalog.costing import BOOKED, book_of
from taicang.errors import InvalidInput
from taicang.evidence import kernels
from taicang.evidence.fitting import Bounds, Constants, declared_fits, solve
from taicang.evidence.intake import reason, table
from taicang.evidence.measured import Measured, log_errors
from taicang.evidence.tables import Array, Cells, grouped
from taicang.hardware import Chip
from taicang.units import Num

MOVING: Mapping[str, Mapping[str, tuple[float, float]]] = declared_fits()["moving"]
"""Family -> constants that rows of a user may move, and how far."""
PRIOR = 0.05
"""A constant that is off the chip's own by a factor of e counts as a row with five percent error."""
FOLDS = 5
FEW = 10
"""Rows of one kernel below which nothing moves."""
SHAPES = 5
"""The same of shapes."""
BETTER_RATIO = 0.95
BETTER = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One kernel's rows, and what they moved."""

    family: str
    key: str
    rows: int
    constants: Mapping[str, tuple[float, float]]
    """Constant -> was, now; empty where nothing came nearer."""
    before_ratio: float
    """Mean absolute error with the chip's own."""
    after_ratio: float
    """The same of shapes that the fit has not seen."""
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipProfile:
    """What kernel rows say of a chip."""

    chip: Chip
    kernels: tuple[Kernel, ...]
    refused: tuple[str, ...]
    files: tuple[Path, ...]


def is_kernels(path: Path) -> bool:
    """Whether ``path`` is a folder, or a table of kernels."""
    return path.is_dir() or "kernels" in table(path)[0][0].sources


def calibrate(path: Path) -> ChipProfile:
    """The profile that the tables at ``path`` (one, or all of a folder) make of the chip that they were measured on."""
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    refused: list[str] = []
    parts = [part for file in files for part in _parts(file, refused)]
    if not parts:
        raise InvalidInput("; ".join(refused[:3]) or "no tables of kernels here", where="" if refused else str(path))
    systems = {part.chip.name for part in parts}
    if len(systems) > 1:
        raise InvalidInput(
            f"rows of several chips ({', '.join(sorted(systems))}): one profile is of one", where=str(path)
        )
    kin: dict[tuple[str, str], list[Measured[Any]]] = {}
    for part in parts:
        family = _family(part)
        kin.setdefault((family, str(part.op.kind) if family == "collective" else part.kernel), []).append(part)
    return ChipProfile(
        chip=parts[0].chip, kernels=tuple(_fitted(family, key, each) for (family, key), each in kin.items()),
        refused=tuple(refused), files=tuple(files),
    )  # fmt: skip


def _parts(file: Path, refused: list[str]) -> list[Measured[Any]]:
    """Rows of one file by kernel; a line that cannot be read is named in ``refused``."""
    fitting, lines = table(file)
    kind = max(fitting, key=lambda each: len(each.columns))
    found = kernels.tables().get(next(iter(kind.measured)))
    if found is None:
        raise InvalidInput(f"rows of {kind.file} are no kernels", where=str(file))
    good: list[Cells] = []
    for number, line in enumerate(lines, start=2):
        try:
            cells = kernels.enriched({**line, "line": str(number)}, found)
            one = kernels.part(found, [cells])
            if not np.isfinite(one.measured_s).all() or not (one.measured_s > 0.0).all():
                raise InvalidInput("states no positive time")
            kernels.price(one)
            good.append(cells)
        except Exception as error:  # a line that cannot be read must not take the others with it
            refused.append(f"{file}:{number}: {reason(error)}")
    return [kernels.part(found, each) for each in grouped(good, *found.by.split())]


def _family(part: Measured[Any]) -> str:
    return {"experts_wideep": "experts", "nccl": "collective", "allreduce": "collective"}.get(part.suite, part.suite)


def _fitted(family: str, key: str, kin: Sequence[Measured[Any]]) -> Kernel:
    """The constants of one kernel with and without its rows."""
    chip = kin[0].chip
    base = log_errors(kin, partial(_price, chip=chip))
    same = Kernel(
        family=family, key=key, rows=base.size, constants={}, before_ratio=_mean(base), after_ratio=_mean(base), note=""
    )  # fmt: skip
    own = {"ratio": 1.0} if family == "collective" else None
    if own is None and (fits := getattr(book_of(chip), BOOKED[family])).get(key) is not None:
        own = {name: getattr(fits[key], name) for name in MOVING[family]}
    shapes = np.array([zlib.crc32(name.encode()) for part in kin for name in part.ids])
    if own is None:
        return replace(same, note=f"no constants of {key} on {chip.name}: another format's serve")
    if base.size < FEW or np.unique(shapes).size < SHAPES:
        return replace(same, note=f"fewer than {FEW} rows of {SHAPES} shapes: nothing moves")
    bounds: Bounds = {name: (min(max(own[name], low), high), low, high) for name, (low, high) in MOVING[family].items()}

    def errors(constants: Constants) -> Array:
        return log_errors(kin, partial(_price, chip=_with(chip, family, key, constants)))

    left = np.zeros(base.size)
    folds = shapes % FOLDS
    for fold in np.unique(folds):
        out = folds == fold
        found = solve(lambda c, out=out: errors(c)[~out], bounds, prior=PRIOR)  # type: ignore[misc]
        left[out] = errors(found)[out]
    if _mean(left) > min(_mean(base) * BETTER_RATIO, _mean(base) - BETTER):
        return replace(same, note="no shape that was left out came nearer: nothing moves")
    best = solve(errors, bounds, prior=PRIOR)
    moved = {name: (own[name], best[name]) for name in best}
    return replace(same, after_ratio=_mean(left), constants=moved)


def spread(chip: Chip, kernel: Kernel) -> dict[str, Mapping[str, tuple[float, float]]]:
    """Key -> constants (was, now): those that moved, and by the same factor those of engines' kernels of its kind."""
    if not kernel.constants or kernel.family == "collective":
        return {kernel.key: kernel.constants} if kernel.constants else {}
    fits = getattr(book_of(chip), BOOKED[kernel.family])
    made: dict[str, Mapping[str, tuple[float, float]]] = {kernel.key: kernel.constants}
    for key in fits:
        if key.startswith(f"{kernel.key}@"):
            values = {name: getattr(fits[key], name) for name in kernel.constants}
            made[key] = {
                name: (value, float(np.clip(value * now / was, *MOVING[kernel.family][name])))
                for (name, value), (was, now) in zip(values.items(), kernel.constants.values(), strict=True)
            }
    return made


def _with(chip: Chip, family: str, key: str, constants: Constants) -> Chip:
    return replace(chip, kernels={**chip.kernels, family: {**chip.kernels.get(family, {}), key: constants}})


def _price(part: Measured[Any], chip: Chip) -> Num:
    return kernels.price(replace(part, given=chip))


def _mean(logs: Array) -> float:
    return float(np.mean(np.abs(np.expm1(logs))))
