"""Fit the size of a port to measured pairs: files touched, lines that must change, lines of kernels.

The rows (``data/porting.csv``, ``data/porting_kernels.csv``) hold what the scanner says of the original and what the
port did. A row is predicted by laws that were fitted without its repository.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from taicang.catalog import porting
from taicang.evidence.tables import CARRIED, Cells, held_out, record
from taicang.output import write_file
from taicang.port.estimate import Features, Law, kernel_terms, terms

TERMS: Final = {
    "files": ("B", "C", "programs", "found", "operators"),
    "must_change": ("A", "B", "C"),
}
"""Terms of each law, chosen on the repositories that are not held out. Must-change lines follow the class alone."""
STEPS: Final = 200
SMALL: Final = 0.03
"""A logarithm of measured over computed below which an error counts by its square."""


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


def _table(name: str) -> Iterable[Cells]:
    with (CARRIED / name).open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(line for line in file if not line.startswith("#"))


@cache
def pairs() -> tuple[Pair, ...]:
    """Measured ports of whole repositories."""
    return tuple(
        record(Pair, row, features=record(Features, row), clean=row["clean"] == "yes") for row in _table("porting.csv")
    )


@cache
def kernel_pairs() -> tuple[KernelPair, ...]:
    """Measured ports of kernels."""
    return tuple(record(KernelPair, row) for row in _table("porting_kernels.csv"))


def fit_law(rows: Sequence[Pair], size: str) -> Law:
    """The law of ``files`` or ``must_change`` over the clean rows."""
    used = [row for row in rows if row.clean]
    return _fit([terms(row.features) for row in used], [getattr(row, size) for row in used], TERMS[size],
                powers=False)  # fmt: skip


def fit_kernels(rows: Sequence[KernelPair]) -> Law:
    """The law of a ported kernel's lines: a power of the original's."""
    return _fit([kernel_terms(row.lines) for row in rows], [row.ported for row in rows], ("one", "lines"), powers=True)


def _fit(known: Sequence[Mapping[str, float]], counts: Sequence[int], names: Sequence[str], *, powers: bool) -> Law:
    """Least squares in logarithms of powers, least errors in logarithms of a sum; the band is the quartiles of what is
    left. Of a sum, since ports that were tuned or reformatted touch several times what the others do.
    """
    table = np.array([[each[name] for name in names] for each in known])
    counted = np.maximum(counts, 1).astype(float)
    if powers:
        weights = np.linalg.lstsq(table, np.log(counted))[0]
        off = np.log(counted) - table @ weights
    else:
        weights = np.linalg.lstsq(table / counted[:, None], np.ones(len(counted)))[0].clip(SMALL)
        for _ in range(STEPS):
            made = table @ weights
            off = np.log(counted / made)
            slope = table / made[:, None]
            pull = slope.T / np.hypot(off, SMALL)
            # half a step of Newton's, from a weight of nothing never below it
            step = np.linalg.solve(pull @ slope + 1e-9 * np.eye(len(weights)), pull @ off)
            weights = (weights + step / 2.0).clip(0.0)
    low, high = np.exp(np.quantile(off, (0.25, 0.75))).tolist()
    weighed = dict(zip(names, weights.tolist(), strict=True))
    return Law(weights=weighed, low_ratio=low, high_ratio=high, powers=powers)


def fit_porting(_evidence: Path | None = None) -> Path:
    """Fit all laws on the carried tables and write them into ``effort.yaml``, of which the rest stays."""
    path = porting.FOLDER / "effort.yaml"

    def plain(law: Law) -> dict[str, Any]:
        weights = {name: round(weight, 4) for name, weight in law.weights.items()}
        return {"weights": weights, "quartiles": [round(law.low_ratio, 3), round(law.high_ratio, 3)]}

    laws: dict[str, Any] = {"pairs": sum(row.clean for row in pairs())}
    laws |= {size: plain(fit_law(pairs(), size)) for size in TERMS}
    laws["kernels"] = {}
    for language in sorted({row.language for row in kernel_pairs()}):
        rows = [row for row in kernel_pairs() if row.language == language]
        kept = sum(row.kept for row in rows) / sum(row.lines for row in rows)
        laws["kernels"][language] = plain(fit_kernels(rows)) | {"kept": round(kept, 3)}
    text = path.read_text(encoding="utf-8")
    begin, end = text.index("laws:"), text.index("\nspeed:")
    block = yaml.safe_dump({"laws": laws}, sort_keys=False, width=120, default_flow_style=None).rstrip("\n")
    write_file(path, text[:begin] + block + text[end:], "fit")
    porting.effort.cache_clear()
    return path
