"""Measured expert kernels against the price of ``GroupedGemm``: one outcome per published row.

Two tables: the best of three serving libraries where every rank sees all tokens ("experts"), and one library's wide
expert parallelism with dispatched tokens, with and without a load balancer ("experts_wideep"). Both time the hottest
rank; tokens count all ranks; expert loads are drawn from the power law of ``cost.skew``; inter is before sharding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from taicang.catalog import calibration
from taicang.cost.experts import ExpertsFit, experts, fit_for
from taicang.evidence.measured import Measured
from taicang.evidence.score import Outcome
from taicang.evidence.split import held_out
from taicang.evidence.tables import Array, Cells, column, grouped, lines, number_format
from taicang.ops import GroupedGemm

FILES = {"experts": "moe_experts.csv", "experts_wideep": "moe_wideep.csv"}
_SHAPE = ("moe_dtype", "hidden_size", "inter_size", "topk", "num_experts")
_LAYOUT = ("moe_tp_size", "moe_ep_size", "distribution", "num_tokens")


def _skew(distribution: str) -> float:
    return float(distribution.split("_")[2]) if distribution.startswith("power_law") else 0.0


def _balanced(line: Cells) -> bool:
    return line["distribution"].endswith("_eplb")


def _part(listed: Sequence[Cells], suite: str) -> Measured[GroupedGemm]:
    wide = suite == "experts_wideep"
    slots = column(listed, "num_slots" if wide else "num_experts")
    key = (*_SHAPE, *(("num_slots",) if wide else ()), *_LAYOUT)
    op = GroupedGemm(
        tokens=column(listed, "num_tokens"),
        topk=column(listed, "topk"),
        experts=slots,
        experts_local=slots / column(listed, "moe_ep_size"),
        hidden=column(listed, "hidden_size"),
        inter=column(listed, "inter_size") / column(listed, "moe_tp_size"),
        dtype=number_format(listed[0]["moe_dtype"]),
        skew=np.array([_skew(line["distribution"]) for line in listed]),
        balanced_ranks=_balanced(listed[0]),
        gathered=not wide,
    )
    return Measured(
        suite=suite,
        system=listed[0]["system"],
        kernel=op.dtype,
        op=op,
        ids=tuple(f"{suite}:{line['line']}" for line in listed),
        measured_s=column(listed, "latency_ms" if wide else "latency_ms_best") * 1e-3,
        held=np.array([held_out("experts", *(line[name] for name in key)) for line in listed]),
    )


def read(folder: Path) -> list[Measured[GroupedGemm]]:
    """Both tables in ``folder`` by system, format and balancing."""
    return [
        _part(listed, suite)
        for suite, name in FILES.items()
        for listed in grouped(
            [{**line, "balanced": str(_balanced(line))} for line in lines(folder / name)],
            "system",
            "moe_dtype",
            "balanced",
        )
    ]


def seconds(rows: Measured[GroupedGemm], fit: ExpertsFit) -> Array:
    """Predicted seconds of all rows."""
    return np.asarray(experts(rows.op, rows.chip, fit).seconds)


def _priced(rows: Measured[GroupedGemm]) -> Array:
    known = calibration.fits("experts", ExpertsFit).get(rows.chip.profile, {})
    return seconds(rows, fit_for(known, rows.op.dtype, gathered=rows.op.gathered))


def outcomes(folder: Path) -> list[Outcome]:
    """Predict every row of both tables with the calibrated constants."""
    return [outcome for rows in read(folder) for outcome in rows.outcomes(partial(_priced, rows))]
