"""Measured attention kernels of GPUs against ``cost.attend_gqa``: suites "attend_prefill" and "attend_decode".

A row is one kernel launch, the fastest of the serving stacks that were measured on that machine. In decode each stack's
own time is known too, and its kernels are priced apart: a row is the fastest of the stacks that it was measured in.
Timings repeat one launch, so a cache that fits lies in the level-2 cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from taicang.catalog import calibration
from taicang.cost.attend_gqa import AttendFit, GqaDecodeFit, GqaPrefillFit, attend_gqa, fit_for
from taicang.evidence.attention_rows import LENGTH, PHASES, measured, parts
from taicang.evidence.measured import Measured
from taicang.evidence.score import Outcome
from taicang.evidence.tables import Array, Cells, column, number_format
from taicang.ops import Attend
from taicang.plans import Phase

FILES: Mapping[Phase, str] = MappingProxyType(
    {"prefill": "attention_prefill_gqa.csv", "decode": "attention_decode_gqa.csv"}
)
ENGINES = ("trtllm", "sglang", "vllm")
"""Serving stacks with a column of their own, as the calibrated keys name them."""
KINDS: Mapping[Phase, type[Any]] = MappingProxyType({"prefill": GqaPrefillFit, "decode": GqaDecodeFit})
SHAPE = ("attn_dtype", "kv_cache_dtype", "head_dim", "window_size", "num_heads", "num_key_value_heads", "batch_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows of one system and dtype combination."""

    fastest: Measured[Attend]
    by_engine: Mapping[str, Array]
    """Seconds in each engine, NaN where it was not measured; empty in prefill, whose fits are of the fastest."""

    def of_engine(self, engine: str) -> Measured[Attend]:
        """The rows that were measured in ``engine``, with its seconds."""
        its_s = self.by_engine[engine]
        return replace(self.fastest, measured_s=its_s).where(np.isfinite(its_s))


def operator(listed: Sequence[Cells], phase: Phase) -> Attend:
    """All lines as one operator of arrays: whole prompts, or one token per sequence over its cache."""
    batch, tokens, dim = (column(listed, name) for name in ("batch_size", LENGTH[phase], "head_dim"))
    per_head = tokens * (tokens + 1.0) / 2.0 if phase == "prefill" else tokens
    return Attend(
        kind="gqa",
        phase=phase,
        sequences=batch,
        queries=batch * tokens if phase == "prefill" else batch,
        pairs=batch * per_head,
        context=batch * tokens,
        heads=column(listed, "num_heads"),
        kv_heads=column(listed, "num_key_value_heads"),
        qk_dim=dim,
        v_dim=dim,
        dtype=number_format(listed[0]["attn_dtype"]),
        kv_dtype=number_format(listed[0]["kv_cache_dtype"]),
    )


def read(folder: Path, phase: Phase) -> list[Rows]:
    """One evidence file, grouped by system and dtypes in the order of the file."""
    engines = ENGINES if phase == "decode" else ()
    return [
        Rows(
            fastest=measured(listed, "attend", phase, SHAPE, partial(operator, phase=phase)),
            by_engine={engine: column(listed, f"latency_ms_{engine}", blank=np.nan) * 1e-3 for engine in engines},
        )
        for listed in parts(folder / FILES[phase], *SHAPE)
    ]


def outcomes(folder: Path) -> list[Outcome]:
    """Price every row of the two files in ``folder``; chips and combinations that are refused say why."""
    rows = [found for phase in PHASES for found in read(folder, phase)]
    return [outcome for found in rows for outcome in found.fastest.outcomes(partial(_seconds, found))]


def _constants(rows: Measured[Attend], engine: str) -> AttendFit:
    op = rows.op
    profiles = calibration.fits(f"attend_{op.phase}", KINDS[op.phase])  # type: ignore[arg-type]  # types are hashable
    fit: AttendFit = fit_for(profiles.get(rows.chip.profile, {}), op.dtype, op.kv_dtype, engine)
    return fit


def seconds(rows: Measured[Attend], fit: AttendFit) -> Array:
    """Predicted seconds of repeated launches."""
    return np.asarray(attend_gqa(rows.op, rows.chip, fit, resident=True).seconds)


def _seconds(found: Rows) -> Array:
    """Predicted seconds of each row: the fastest of the engines that it was measured in."""
    rows = found.fastest
    unnamed = seconds(rows, _constants(rows, ""))  # a row that names no engine takes the constants of the fastest
    best = np.full(unnamed.shape, np.inf)
    for engine, its_s in found.by_engine.items():
        best = np.where(np.isfinite(its_s), np.minimum(best, seconds(rows, _constants(rows, engine))), best)
    return np.where(np.isfinite(best), best, unnamed)
