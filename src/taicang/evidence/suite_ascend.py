"""Ascend end to end: operators, layers, serving and forward steps; all rows are carried by the package.

Suites: "ascend_operators" (kernels of one 910C die), "ascend_layer" (layer times, ablations and kernels in service: the
rows that calibrate), "ascend_serving" (end-to-end results, held out), "ascend_replay" (those that the serving simulator
answers: context cache, full decode pool; held out), "ascend_steps" (reference forward steps) and "ub_links" (reads and
writes over the bus).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from taicang import catalog
from taicang.cost.attend_mla import attend_mla
from taicang.evidence import ascend_replay, ascend_serving, ascend_steps, suite_collective, ub_links
from taicang.evidence.measured import attempt
from taicang.evidence.operators import ASCEND, PRICES, absorbed, ascend_gemm_rows, mla_constants
from taicang.evidence.score import Outcome
from taicang.evidence.tables import CARRIED, lines


def outcomes() -> list[Outcome]:
    """Every row of the six suites."""
    return [*operators(), *ub_links.outcomes(), *serving(), *ascend_replay.outcomes(), *steps()]


def operators() -> Iterator[Outcome]:
    """Latent attention, grouped int8 products, dispatch and combine."""
    yield from latent_outcomes()
    rows = ascend_gemm_rows()
    names = tuple(name.replace(" int8 ", "/gemm/") for name in rows.ids)
    rows = replace(rows, suite="ascend_operators", kernel="gemm int8", ids=names)
    yield from rows.outcomes(partial(PRICES["gemm"], rows))
    yield from suite_collective.carried_calls("ascend_operators")


def latent_outcomes() -> Iterator[Outcome]:
    """Published rates of latent attention against the model far on either side of the ridge; both are calibrated-on.

    The paper names no shapes: 128 heads with four query tokens (three drafts) stand for "compute bound", 16 heads with
    one for "memory bound", each 96 sequences of 32,768 tokens, so that the launch floor does not matter.
    """
    chip = catalog.chip(ASCEND)
    for row in lines(CARRIED / "ascend_mla.csv"):
        heads, drafts = (128.0, 3.0) if row["bound"] == "compute" else (16.0, 0.0)
        op = absorbed(96.0, 32768.0, heads, row["kv_dtype"], dtype=row["dtype"], queries=1.0 + drafts)
        cost = attend_mla(op, chip, mla_constants(chip, op))
        done = cost.flop if row["bound"] == "compute" else op.context * op.qk_dim * 2.0
        yield Outcome(
            id=f"{row['chip']}/mla/{row['bound']}-bound",
            suite="ascend_operators",
            group=f"{row['chip']} mla {row['dtype']}/{row['kv_dtype']}",
            measured=float(row["measured"]),
            predicted=float(done / cost.seconds),
            unit=row["unit"],
            held_out=False,
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
            figure="tpot" if row.unit == "ms" else "",
            run=ascend_serving.run_of(row) if row.held else None,
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
            figure="tpot" if row.phase == "decode" else "ttft",
            run=ascend_steps.run_of(row),
        )
