"""Measured expert kernels against the price of ``GroupedGemm``: one outcome per published row.

Two tables: the best of three serving libraries where every rank sees all tokens ("experts"), and one library's wide
expert parallelism with dispatched tokens, with and without a load balancer ("experts_wideep"). Both time the hottest
rank; tokens count all ranks; expert loads are drawn from the power law of ``cost.skew``; inter is before sharding.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from taicang.catalog import calibration
from taicang.cost.experts import ExpertsFit, experts, fit_for
from taicang.errors import NotModelled
from taicang.evidence.score import Outcome
from taicang.evidence.split import held_out
from taicang.evidence.systems import chip_of
from taicang.ops import GroupedGemm

FILES = {"experts": "moe_experts.csv", "experts_wideep": "moe_wideep.csv"}
_DTYPES = {"bfloat16": "bf16"}
_SHAPE = ("moe_dtype", "hidden_size", "inter_size", "topk", "num_experts")
_LAYOUT = ("moe_tp_size", "moe_ep_size", "distribution", "num_tokens")
_COUNTS = ("hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size", "num_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured row of either table."""

    id: str
    suite: str
    system: str
    dtype: str
    op: GroupedGemm
    seconds_s: float
    held_out: bool


def _skew(distribution: str) -> float:
    return float(distribution.split("_")[2]) if distribution.startswith("power_law") else 0.0


def _row(raw: dict[str, str], number: int, suite: str) -> Row:
    wide = suite == "experts_wideep"
    n = {key: float(raw[key]) for key in _COUNTS}
    slots = float(raw["num_slots"]) if wide else n["num_experts"]
    key = (*_SHAPE, *(("num_slots",) if wide else ()), *_LAYOUT)
    dtype = _DTYPES.get(raw["moe_dtype"], raw["moe_dtype"])
    op = GroupedGemm(
        tokens=n["num_tokens"],
        topk=n["topk"],
        experts=slots,
        experts_local=slots / n["moe_ep_size"],
        hidden=n["hidden_size"],
        inter=n["inter_size"] / n["moe_tp_size"],
        dtype=dtype,
        skew=_skew(raw["distribution"]),
        balanced_ranks=raw["distribution"].endswith("_eplb"),
        gathered=not wide,
    )
    return Row(
        id=f"{suite}:{number}",
        suite=suite,
        system=raw["system"],
        dtype=dtype,
        op=op,
        seconds_s=float(raw["latency_ms" if wide else "latency_ms_best"]) * 1e-3,
        held_out=held_out("experts", *(raw[name] for name in key)),
    )


def rows(folder: Path) -> list[Row]:
    """All measured rows of both tables in ``folder``, in file order."""
    found = []
    for suite, name in FILES.items():
        with (folder / name).open(newline="", encoding="utf-8") as lines:
            found += [_row(raw, number, suite) for number, raw in enumerate(csv.DictReader(lines), start=2)]
    return found


def batched(chosen: Sequence[Row]) -> GroupedGemm:
    """The operators of rows that agree in format, balancing and gathering, as one operator of arrays."""
    names = ("tokens", "topk", "experts", "experts_local", "hidden", "inter", "skew")
    stacked: dict[str, Any] = {name: np.array([float(getattr(row.op, name)) for row in chosen]) for name in names}
    return replace(chosen[0].op, **stacked)


def groups(listed: Iterable[Row]) -> dict[tuple[str, str, str, bool], list[Row]]:
    """Rows by suite, system, format and balancing: what one vectorised call prices."""
    found: dict[tuple[str, str, str, bool], list[Row]] = {}
    for row in listed:
        found.setdefault((row.suite, row.system, row.dtype, row.op.balanced_ranks), []).append(row)
    return found


def outcomes(folder: Path) -> list[Outcome]:
    """Predict every row of both tables with the calibrated constants."""
    by_profile = calibration.fits("experts", ExpertsFit)
    predicted: dict[str, float] = {}
    refused: dict[str, str] = {}
    listed = rows(folder)
    for (_, system, dtype, _), chosen in groups(listed).items():
        op = batched(chosen)
        try:
            chip = chip_of(system)
            fit = fit_for(by_profile.get(chip.profile, {}), dtype, gathered=op.gathered)
            seconds = np.asarray(experts(op, chip, fit).seconds)
        except NotModelled as why:
            refused |= {row.id: str(why) for row in chosen}
        else:
            predicted |= {row.id: float(s) for row, s in zip(chosen, seconds, strict=True)}
    return [
        Outcome(
            id=row.id,
            suite=row.suite,
            group=f"{row.system} {row.dtype}",
            measured=row.seconds_s,
            predicted=predicted.get(row.id),
            unit="s",
            held_out=row.held_out,
            refused=refused.get(row.id, ""),
        )
        for row in listed
    ]
