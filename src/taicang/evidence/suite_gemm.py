"""Measured dense matrix products against ``cost.gemm`` with the shipped constants: suite "gemm"."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from taicang.catalog import calibration
from taicang.cost.gemm import GemmFit, gemm, select
from taicang.evidence.measured import Measured
from taicang.evidence.score import Outcome
from taicang.evidence.split import held_out
from taicang.evidence.systems import chip_of
from taicang.evidence.tables import CARRIED, column, grouped, lines, number_format
from taicang.ops import Gemm
from taicang.units import Num

TABLE = Path("kernels") / "gemm.csv"
ASCEND = "ascend-910c"
ASCEND_TABLE = CARRIED / "ascend_gemm.csv"


def read(folder: Path) -> list[Measured[Gemm]]:
    """The rows of ``folder``/kernels/gemm.csv by system and format, best backend of each."""
    found = []
    for listed in grouped(lines(folder / TABLE), "system", "gemm_dtype"):
        system, dtype = listed[0]["system"].replace("_", "-"), number_format(listed[0]["gemm_dtype"])
        sizes = [(line["m"], line["n"], line["k"]) for line in listed]
        m, n, k = (column(listed, name) for name in "mnk")
        found.append(
            Measured(
                suite="gemm",
                system=system,
                kernel=dtype,
                op=Gemm(m=m, n=n, k=k, batch=np.ones_like(m), dtype=dtype),
                ids=tuple(f"{system} {dtype} {'x'.join(size)}" for size in sizes),
                measured_s=column(listed, "latency_ms_best") * 1e-3,
                held=np.array([held_out("gemm", *size) for size in sizes]),
            )
        )
    return found


def read_ascend() -> Measured[Gemm]:
    """Published grouped int8 products of one Ascend 910C die (CloudMatrix384 paper, Table 10), which we carry.

    The table prints the share of 752 TOPS per die; seconds follow from it, and with them the printed bandwidth (A, B
    and a bf16 result once each) comes out within 1 %. Products of a group are one launch.
    """
    listed = lines(ASCEND_TABLE)
    groups, m, n, k, share = (column(listed, name) for name in ("groups", "m", "n", "k", "utilisation_ratio"))
    return Measured(
        suite="gemm",
        system=ASCEND,
        kernel="int8",
        op=Gemm(m=m, n=n, k=k, batch=groups, dtype="int8"),
        ids=tuple(f"{ASCEND} int8 {line['id']}" for line in listed),
        measured_s=2.0 * groups * m * n * k / (share * chip_of(ASCEND).peak("int8")),
        held=np.array([line["part"] == "held-out" for line in listed]),
    )


def seconds(rows: Measured[Gemm], fit: GemmFit) -> Num:
    """Predicted seconds; the GPUs' benchmarks repeat a product, which may leave its operands in the cache."""
    return gemm(rows.op, rows.chip, fit, warm=rows.system != ASCEND).seconds


def _priced(rows: Measured[Gemm]) -> list[Outcome]:
    profiles = calibration.fits("gemm", GemmFit)
    return rows.outcomes(lambda: seconds(rows, select(profiles, rows.chip, rows.op.dtype)))


def outcomes(folder: Path) -> list[Outcome]:
    """One outcome per measured row of the evidence in ``folder``, grouped as "system format"."""
    return [outcome for rows in [*read(folder), read_ascend()] for outcome in _priced(rows)]


def ascend_outcomes() -> list[Outcome]:
    """The carried products as part of suite "ascend_operators"."""
    rows = read_ascend()
    names = tuple(name.replace(" int8 ", "/gemm/") for name in rows.ids)
    return _priced(replace(rows, suite="ascend_operators", kernel="gemm int8", ids=names))
