"""Measured attention kernels of GPUs against ``cost.attend_gqa``: suites "attend_prefill" and "attend_decode".

A row is one kernel launch, the fastest of the serving stacks that were measured on that machine. In decode each stack's
own time is known too, and its kernels are priced apart: a row is the fastest of the stacks that it was measured in.
Timings repeat one launch, so a cache that fits lies in the level-2 cache.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from taicang import catalog
from taicang.catalog import calibration
from taicang.cost.attend_gqa import AttendFit, GqaDecodeFit, GqaPrefillFit, attend_gqa, fit_for
from taicang.errors import NotModelled, UnknownName
from taicang.evidence.score import Outcome
from taicang.evidence.split import held_out
from taicang.hardware import Chip
from taicang.ops import Attend
from taicang.plans import Phase

FILES: Mapping[Phase, str] = MappingProxyType(
    {"prefill": "attention_prefill_gqa.csv", "decode": "attention_decode_gqa.csv"}
)
DTYPES = MappingProxyType({"bfloat16": "bf16", "fp8": "fp8"})
ENGINES = ("trtllm", "sglang", "vllm")
"""Serving stacks with a column of their own, as the calibrated keys name them."""
LENGTH: Mapping[Phase, str] = MappingProxyType({"prefill": "isl", "decode": "kv_len"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows of one system and dtype combination as one operator with arrays."""

    system: str
    op: Attend
    ids: tuple[str, ...]
    measured_s: NDArray[np.float64]
    held: NDArray[np.bool_]
    by_engine: Mapping[str, NDArray[np.float64]]
    """Seconds in each engine, NaN where it was not measured; empty in prefill, whose fits are of the fastest."""

    @property
    def combination(self) -> str:
        """Key of the calibrated constants: "arithmetic/cache"."""
        return f"{self.op.dtype}/{self.op.kv_dtype}"


def measured_chip(system: str) -> Chip:
    """The chip that a system name of the evidence ("h100_sxm") stands for; ``UnknownName`` for others."""
    return catalog.chip(system.removesuffix("_sxm"))


def rows(path: Path, phase: Phase) -> list[Rows]:
    """Read one evidence file, grouped by system and dtypes in the order of the file."""
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    with path.open(newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            key = (row["system"], row["attn_dtype"], row["kv_cache_dtype"])
            groups.setdefault(key, []).append(row)
    return [_group(listed, phase) for listed in groups.values()]


def _group(listed: list[dict[str, str]], phase: Phase) -> Rows:
    first, length = listed[0], LENGTH[phase]

    def column(name: str) -> NDArray[np.float64]:
        return np.array([float(row.get(name) or "nan") for row in listed])

    shape = (
        "attn_dtype",
        "kv_cache_dtype",
        "head_dim",
        "window_size",
        "num_heads",
        "num_key_value_heads",
        "batch_size",
    )
    keys = [tuple(row[name] for name in (*shape, length)) for row in listed]
    batch, tokens, dim = column("batch_size"), column(length), column("head_dim")
    per_head = tokens * (tokens + 1.0) / 2.0 if phase == "prefill" else tokens
    op = Attend(
        kind="gqa",
        phase=phase,
        sequences=batch,
        queries=batch * tokens if phase == "prefill" else batch,
        pairs=batch * per_head,
        context=batch * tokens,
        heads=column("num_heads"),
        kv_heads=column("num_key_value_heads"),
        qk_dim=dim,
        v_dim=dim,
        dtype=DTYPES[first["attn_dtype"]],
        kv_dtype=DTYPES[first["kv_cache_dtype"]],
    )
    return Rows(
        system=first["system"],
        op=op,
        ids=tuple("/".join((first["system"], *key)) for key in keys),
        measured_s=column("latency_ms_best") * 1e-3,
        held=np.array([held_out(f"attend_{phase}", *key) for key in keys]),
        by_engine={e: column(f"latency_ms_{e}") * 1e-3 for e in ENGINES} if phase == "decode" else {},
    )


def outcomes(folder: Path) -> list[Outcome]:
    """Price every row of the two files in ``folder``; chips and combinations that are refused say why."""
    phases: tuple[Phase, ...] = ("prefill", "decode")
    return [o for phase in phases for found in rows(folder / FILES[phase], phase) for o in _priced(found, phase)]


def _constants(found: Rows, profile: str, engine: str = "") -> AttendFit:
    op = found.op
    if op.phase == "prefill":
        prefill: Mapping[str, GqaPrefillFit] = calibration.fits("attend_prefill", GqaPrefillFit).get(profile, {})
        return fit_for(prefill, op.dtype, op.kv_dtype)
    decode: Mapping[str, GqaDecodeFit] = calibration.fits("attend_decode", GqaDecodeFit).get(profile, {})
    return fit_for(decode, op.dtype, op.kv_dtype, engine)


def _seconds(found: Rows, chip: Chip) -> NDArray[np.float64]:
    """Predicted seconds of each row: the fastest of the engines that it was measured in."""

    def one(engine: str) -> NDArray[np.float64]:
        fit = _constants(found, chip.profile, engine)
        return np.asarray(attend_gqa(found.op, chip, fit, resident=True).seconds)

    if not found.by_engine:
        return one("")
    each = [np.where(np.isfinite(s), one(engine), np.inf) for engine, s in found.by_engine.items()]
    best: NDArray[np.float64] = np.minimum(np.minimum(each[0], each[1]), each[2])
    # A row that names no engine takes the constants of the fastest.
    return np.where(np.isfinite(best), best, one(""))


def _priced(found: Rows, phase: Phase) -> list[Outcome]:
    predicted: list[float | None] = [None] * len(found.ids)
    refused = ""
    try:
        chip = measured_chip(found.system)
        predicted = [float(s) for s in _seconds(found, chip)]
    except (NotModelled, UnknownName) as why:
        refused = str(why)
    return [
        Outcome(
            id=name,
            suite=f"attend_{phase}",
            group=f"{found.system} {found.combination}",
            measured=float(measured),
            predicted=value,
            unit="s",
            held_out=bool(held),
            refused=refused,
        )
        for name, measured, value, held in zip(found.ids, found.measured_s, predicted, found.held, strict=True)
    ]
