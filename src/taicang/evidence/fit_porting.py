"""Fit the size of a port to measured pairs: files touched, lines that must change, lines of kernels.

The rows (``data/porting.csv``, ``data/porting_kernels.csv``) hold what the scanner says of the original and what the
port did. A row is predicted by laws that were fitted without its repository.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import yaml

from taicang.catalog import files, porting
from taicang.evidence.split import held_out
from taicang.evidence.tables import CARRIED
from taicang.output import write_file
from taicang.port.estimate import Features, KernelLaw, Law, terms

TERMS: Final = {
    "files": ("A", "B", "C", "programs"),
    "must_change": ("A", "B", "C"),
}
"""Terms of each law, chosen on the repositories that are not held out. Must-change lines follow the class alone."""
RIDGE: Final = 0.5
"""Rows that a count's weight of nothing is worth: holds what few rows do not tell."""
SHRUNK: Final = frozenset({"programs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An original and its port."""

    name: str
    repository: str
    labelled: str
    """The class that the port's authors' patch shows."""
    features: Features
    files: int
    must_change: int
    clean: bool
    """Whether the patch is one of edits: some add whole files or change line ends."""

    @property
    def held_out(self) -> bool:
        """Kept from the choice of terms."""
        return held_out(self.repository)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPair:
    """A kernel file and its port."""

    name: str
    language: str
    lines: int
    ported: int
    kept: int


def _table(name: str) -> Iterable[Mapping[str, str]]:
    with (CARRIED / name).open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(line for line in file if not line.startswith("#"))


@cache
def pairs() -> tuple[Pair, ...]:
    """Measured ports of whole repositories."""
    counts = ("library_files", "programs", "edited_files", "edited_lines")
    return tuple(
        Pair(
            name=row["name"],
            repository=row["repository"],
            labelled=row["labelled"],
            features=Features(kind=row["kind"], **{each: int(row[each]) for each in counts}),
            files=int(row["files"]),
            must_change=int(row["must_change"]),
            clean=row["clean"] == "yes",
        )
        for row in _table("porting.csv")
    )


@cache
def kernel_pairs() -> tuple[KernelPair, ...]:
    """Measured ports of kernels."""
    return tuple(
        KernelPair(
            name=row["name"], language=row["language"], lines=int(row["lines"]), ported=int(row["ported"]),
            kept=int(row["kept"]),
        )
        for row in _table("porting_kernels.csv")
    )  # fmt: skip


def fit_law(rows: Sequence[Pair], size: str) -> Law:
    """Least squares in logarithms over the clean rows; the band is the quartiles of what is left."""
    used = [row for row in rows if row.clean]
    names = TERMS[size]
    known = np.array([[terms(row.features)[name] for name in names] for row in used])
    goal = np.log([max(getattr(row, size), 1) for row in used])
    shrink = np.diag([RIDGE if name in SHRUNK else 1e-9 for name in names])
    weights = np.linalg.solve(known.T @ known + shrink, known.T @ goal)
    low, high = np.quantile(goal - known @ weights, (0.25, 0.75)).tolist()
    return Law(weights=dict(zip(names, weights.tolist(), strict=True)), residual_low=low, residual_high=high)


def fit_kernels(rows: Sequence[KernelPair]) -> KernelLaw:
    """A power of the lines by least squares in logarithms; the band is the quartiles of what is left."""
    lines, ported = np.array([row.lines for row in rows]), np.array([row.ported for row in rows])
    exponent, log = np.polyfit(np.log(lines), np.log(ported), 1)
    low, high = np.quantile(np.log(ported) - log - exponent * np.log(lines), (0.25, 0.75)).tolist()
    return KernelLaw(
        factor=float(np.exp(log)),
        exponent=float(exponent),
        kept_ratio=sum(row.kept for row in rows) / int(lines.sum()),
        residual_low=low,
        residual_high=high,
    )


def fit_porting() -> Any:
    """Fit all laws and write them into the catalogue's ``effort.yaml``; everything else in it stays."""
    path = porting.FOLDER / "effort.yaml"

    def law(size: str) -> dict[str, Any]:
        found = fit_law(pairs(), size)
        rounded = {name: round(weight, 4) for name, weight in found.weights.items()}
        return {"weights": rounded, "residual": [round(found.residual_low, 4), round(found.residual_high, 4)]}

    laws: dict[str, Any] = {
        "pairs": sum(row.clean for row in pairs()),
        "files": law("files"),
        "must_change": law("must_change"),
    }
    laws["kernels"] = {}
    for language in sorted({row.language for row in kernel_pairs()}):
        found = fit_kernels([row for row in kernel_pairs() if row.language == language])
        laws["kernels"][language] = {
            "factor": round(found.factor, 3), "exponent": round(found.exponent, 3), "kept": round(found.kept_ratio, 3),
            "residual": [round(found.residual_low, 4), round(found.residual_high, 4)],
        }  # fmt: skip
    text = path.read_text(encoding="utf-8")
    head, _, rest = text.partition("laws:")
    rest = rest[rest.index("\nspeed:") :]
    block = yaml.safe_dump({"laws": laws}, sort_keys=False, width=120).rstrip("\n")
    write_file(path, head + block + rest, "fit")
    files._read.cache_clear()
    porting.effort.cache_clear()
    return path
