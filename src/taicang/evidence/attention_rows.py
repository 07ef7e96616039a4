"""Measured attention kernels: a table per phase, one launch of one layer a line, fastest of the measured stacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from taicang.evidence.measured import Measured
from taicang.evidence.split import held_out
from taicang.evidence.tables import Cells, column, grouped, lines
from taicang.ops import Attend
from taicang.plans import Phase

PHASES: tuple[Phase, ...] = ("prefill", "decode")
LENGTH: Mapping[Phase, str] = MappingProxyType({"prefill": "isl", "decode": "kv_len"})
"""Column of the tokens that a sequence attends to."""


def parts(path: Path, *shape: str) -> list[list[Cells]]:
    """Lines of a table by system and formats, of which ``shape`` names the first."""
    return grouped(lines(path), "system", shape[0], "kv_cache_dtype")


def measured(
    listed: Sequence[Cells], suite: str, phase: Phase, shape: Sequence[str], make: Callable[[Sequence[Cells]], Attend]
) -> Measured[Attend]:
    """One of those parts; the columns ``shape`` and the length are what the evidence split hashes."""
    system, op = listed[0]["system"], make(listed)
    keys = [tuple(line[name] for name in (*shape, LENGTH[phase])) for line in listed]
    return Measured(
        suite=f"{suite}_{phase}",
        system=system,
        kernel=f"{op.dtype}/{op.kv_dtype}",
        op=op,
        ids=tuple("/".join((system, *key)) for key in keys),
        measured_s=column(listed, "latency_ms_best") * 1e-3,
        held=np.array([held_out(f"{suite}_{phase}", *key) for key in keys]),
    )
