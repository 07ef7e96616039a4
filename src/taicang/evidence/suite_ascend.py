"""Ascend end to end: operators, layers, serving and forward steps; all rows are carried by the package.

Suites: "ascend_operators" (kernels of one 910C die), "ascend_layer" (layer times, ablations and kernels in service: the
rows that calibrate), "ascend_serving" (end-to-end results, held out), "ascend_replay" (those that the serving simulator
answers: context cache, full decode pool; held out) and "ascend_steps" (reference forward steps).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from taicang.evidence import ascend_replay, ascend_serving, ascend_steps, suite_exchange, suite_gemm, suite_mla
from taicang.evidence.measured import attempt
from taicang.evidence.score import Outcome


def outcomes() -> list[Outcome]:
    """Every row of the five suites."""
    return [*operators(), *serving(), *ascend_replay.outcomes(), *steps()]


def operators() -> Iterator[Outcome]:
    """Latent attention, grouped int8 products, dispatch and combine."""
    yield from suite_mla.ascend_outcomes()
    yield from suite_gemm.ascend_outcomes()
    yield from suite_exchange.ascend_outcomes()


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
        predicted, why = attempt(partial(ascend_steps.predict_s, row))
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
