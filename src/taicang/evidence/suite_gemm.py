"""Scoreboard of the dense matrix product: measured kernels against ``cost.gemm`` with the shipped constants."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from taicang.catalog import calibration
from taicang.cost.gemm import GemmFit, gemm, select
from taicang.evidence.score import Outcome
from taicang.evidence.split import held_out
from taicang.evidence.systems import chip_of
from taicang.ops import Gemm

TABLE = Path("kernels") / "gemm.csv"
ASCEND = "ascend-910c"
ASCEND_FITTED = 3
"""Of the published grouped int8 products the first three are fitted on, the others held out."""
_FORMAT = {"bfloat16": "bf16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Measured products of one system and format, one element each; products of ``batch`` are one grouped launch."""

    system: str
    dtype: str
    ids: tuple[str, ...]
    m: NDArray[np.float64]
    n: NDArray[np.float64]
    k: NDArray[np.float64]
    batch: NDArray[np.float64]
    measured_s: NDArray[np.float64]
    held: NDArray[np.bool_]
    warm: bool

    @property
    def op(self) -> Gemm:
        """All rows as one operator of arrays."""
        return Gemm(m=self.m, n=self.n, k=self.k, batch=self.batch, dtype=self.dtype)

    def fitted(self) -> Rows:
        """The rows that a fit may see."""
        keep = ~self.held
        return Rows(
            system=self.system,
            dtype=self.dtype,
            ids=tuple(name for name, held in zip(self.ids, self.held, strict=True) if not held),
            m=self.m[keep],
            n=self.n[keep],
            k=self.k[keep],
            batch=self.batch[keep],
            measured_s=self.measured_s[keep],
            held=self.held[keep],
            warm=self.warm,
        )


def read(folder: Path) -> list[Rows]:
    """The rows of ``folder``/kernels/gemm.csv by system and format, best backend of each."""
    found: dict[tuple[str, str], list[tuple[int, int, int, float]]] = defaultdict(list)
    with (folder / TABLE).open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            key = row["system"].replace("_", "-"), _FORMAT.get(row["gemm_dtype"], row["gemm_dtype"])
            found[key].append((int(row["m"]), int(row["n"]), int(row["k"]), float(row["latency_ms_best"]) * 1e-3))
    return [_rows(system, dtype, listed) for (system, dtype), listed in found.items()]


def _rows(system: str, dtype: str, listed: list[tuple[int, int, int, float]]) -> Rows:
    m, n, k, measured = np.array(listed, dtype=np.float64).T
    return Rows(
        system=system,
        dtype=dtype,
        ids=tuple(f"{system} {dtype} {a}x{b}x{c}" for a, b, c, _ in listed),
        m=m,
        n=n,
        k=k,
        batch=np.ones_like(m),
        measured_s=measured,
        held=np.array([held_out("gemm", a, b, c) for a, b, c, _ in listed]),
        warm=True,
    )


def read_ascend(folder: Path) -> Rows | None:
    """Published grouped int8 products of one Ascend 910C die (CloudMatrix384 paper, Table 10); None if absent.

    The table prints the share of 752 TOPS per die; seconds follow from it, and with them the printed bandwidth (A, B
    and a bf16 result once each) comes out within 1 %.
    """
    path = folder.parent / "facts" / "ascend" / "measurements.yaml"
    if not path.exists():
        return None
    listed = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    groups, m, n, k, _, share = np.array(listed["int8_gemm"]["rows"], dtype=np.float64).T
    return Rows(
        system=ASCEND,
        dtype="int8",
        ids=tuple(f"{ASCEND} int8 {g:.0f}x{a:.0f}x{b:.0f}x{c:.0f}" for g, a, b, c in zip(groups, m, n, k, strict=True)),
        m=m,
        n=n,
        k=k,
        batch=groups,
        measured_s=2.0 * groups * m * n * k / (share * chip_of(ASCEND).peak("int8")),
        held=np.arange(groups.size) >= ASCEND_FITTED,
        warm=False,
    )


def outcomes(folder: Path) -> list[Outcome]:
    """One outcome per measured row of the evidence in ``folder``, grouped as "system format"."""
    ascend = read_ascend(folder)
    profiles = calibration.fits("gemm", GemmFit)
    listed = []
    for rows in [*read(folder), *([ascend] if ascend else [])]:
        measured_on = chip_of(rows.system)
        fit = select(profiles, measured_on, rows.dtype)
        predicted = np.asarray(gemm(rows.op, measured_on, fit, warm=rows.warm).seconds)
        listed += [
            Outcome(
                id=rows.ids[i],
                suite="gemm",
                group=f"{rows.system} {rows.dtype}",
                measured=float(rows.measured_s[i]),
                predicted=float(predicted[i]),
                unit="s",
                held_out=bool(rows.held[i]),
            )
            for i in range(len(rows.ids))
        ]
    return listed
