"""Ascend end to end: operators, layers, serving and forward steps; all rows are carried by the package.

Suites: "ascend_operators" (kernels of one 910C die), "ascend_layer" (layer times, ablations and kernels in service: the
rows that calibrate), "ascend_serving" (end-to-end results, held out) and "ascend_steps" (reference forward steps).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from taicang import catalog
from taicang.catalog import calibration
from taicang.cost.gemm import GemmFit, gemm, select
from taicang.errors import TaicangError
from taicang.evidence import ascend_serving, ascend_steps, suite_exchange, suite_mla
from taicang.evidence.score import Outcome
from taicang.ops import Gemm

GEMM_TABLE = Path(__file__).parent / "data" / "ascend_gemm.csv"
CHIP = "ascend-910c"


def outcomes() -> list[Outcome]:
    """Every row of the four suites."""
    return [*operators(), *serving(), *steps()]


def operators() -> Iterator[Outcome]:
    """Latent attention, grouped int8 products, dispatch and combine."""
    yield from suite_mla.ascend_outcomes()
    yield from products()
    yield from suite_exchange.ascend_outcomes()


def products() -> Iterator[Outcome]:
    """Published grouped int8 products of one die; seconds follow from the printed share of its peak."""
    chip = catalog.chip(CHIP)
    fit = select(calibration.fits("gemm", GemmFit), chip, "int8")
    with GEMM_TABLE.open(newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            groups, m, n, k = (float(row[name]) for name in ("groups", "m", "n", "k"))
            yield Outcome(
                id=f"{CHIP}/gemm/{row['id']}",
                suite="ascend_operators",
                group=f"{CHIP} gemm int8",
                measured=2.0 * groups * m * n * k / (float(row["utilisation_ratio"]) * chip.peak("int8")),
                predicted=float(gemm(Gemm(m=m, n=n, k=k, batch=groups, dtype="int8"), chip, fit).seconds),
                unit="s",
                held_out=row["part"] == "held-out",
            )


def serving() -> Iterator[Outcome]:
    """DeepSeek-R1 on CloudMatrix384."""
    for row in ascend_serving.rows():
        scale = ascend_serving.SCALE[row.unit]
        yield Outcome(
            id=row.id,
            suite="ascend_serving" if row.held else "ascend_layer",
            group=f"{row.stack} {row.phase}",
            measured=float(row.measured * scale),
            predicted=ascend_serving.figure(row) * scale,
            unit=row.unit,
            held_out=row.held,
        )


def steps() -> Iterator[Outcome]:
    """Forward steps; a refused one says why."""
    for row in ascend_steps.rows():
        predicted: float | None = None
        why = ""
        try:
            predicted = ascend_steps.predict_s(row)
        except TaicangError as error:
            why = str(error)
        yield Outcome(
            id=row.id,
            suite="ascend_steps",
            group=f"{row.device.split('_')[2]} {row.phase}",
            measured=row.measured_s,
            predicted=predicted,
            unit="s",
            held_out=row.held,
            refused=why,
        )
