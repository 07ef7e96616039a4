"""Fit the constants of the expert kernels: robust least squares on the logarithm of the error, calibrated-on rows only.

Chips of one architecture run the same kernels and share their constants, which are ratios to each chip's own peaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from taicang.catalog.costing import ARCHITECTURE
from taicang.cost.experts import ExpertsFit, dispatched_key
from taicang.evidence.fitting import Bounds, fingerprint, solve, write
from taicang.evidence.measured import Measured, count, log_errors
from taicang.evidence.suite_experts import FILES, read, seconds
from taicang.ops import GroupedGemm

# bounds are what the constant can physically mean
BOUNDS: Bounds = {
    "compute_ratio": (0.6, 0.1, 1.0),
    "stream_ratio": (0.7, 0.2, 1.0),
    "width_waste": (16.0, 0.1, 512.0),
    "activation_ratio": (1.5, 0.05, 20.0),
    "floor_s": (15e-6, 3e-6, 100e-6),
    "expert_s": (1e-8, 1e-10, 5e-6),
}


def _ascend() -> dict[str, dict[str, Any]]:
    """Constants of one Ascend 910C die; no table of whole expert layers is public, so they are pieced together.

    compute_ratio: mean ``compute_util`` of the six grouped INT8 GEMMs (4 and 8 groups) in CloudMatrix384 (arXiv
    2506.12708 v2, table 10), 0.774 to 0.827 of 752 TOPS. stream_ratio: the sustained share of HBM bandwidth there.
    Assumed: width padded to one 16-wide cube block on average half used, each activation tensor crossing memory once
    per producer and consumer, a floor of 12 us: two matrix kernels and
    one vector kernel of Huawei's own tool (5 and 2 us).
    """
    utilisation = (0.794, 0.774, 0.827, 0.811, 0.796, 0.779)
    common = {
        "compute_ratio": sum(utilisation) / len(utilisation),
        "stream_ratio": 0.84,
        "width_waste": 8.0,
        "activation_ratio": 1.0,
        "floor_s": 12e-6,
        "expert_s": 0.0,
    }
    measured = "calibrated (cube efficiency measured on grouped INT8 GEMMs; floor and activations assumed)"
    carried = "assumed (cube efficiency of INT8 carried to BF16; floor and activations assumed)"
    return {"int8": common | {"origin": measured}, "bf16": common | {"origin": carried}}


def fit_rows(parts: Sequence[Measured[GroupedGemm]]) -> ExpertsFit:
    """The constants that fit rows of one format and architecture best."""

    def made(constants: dict[str, Any]) -> ExpertsFit:
        return ExpertsFit(**constants)

    best = solve(
        lambda c: log_errors(parts, partial(seconds, fit=made(c))),
        BOUNDS,
        spreads=(0.0, 0.4, 0.4),
        bend=0.2,
        evaluations=60,
    )
    return made(best)


def fit(folder: Path) -> Path:
    """Fit every architecture and format measured in ``folder`` and write the calibration file; its path is returned."""
    kept = [rows.fitted() for rows in read(folder)]
    pooled: dict[tuple[str, str], list[Measured[GroupedGemm]]] = {}
    for rows in kept:
        key = rows.op.dtype if rows.op.gathered else dispatched_key(rows.op.dtype)
        pooled.setdefault((ARCHITECTURE[rows.chip.profile], key), []).append(rows)
    profiles: dict[str, dict[str, Any]] = {}
    for (architecture, key), parts in sorted(pooled.items(), key=lambda item: item[0]):
        constants = asdict(fit_rows(parts)) | {"origin": f"calibrated on {architecture}"}
        for profile in (p for p, a in ARCHITECTURE.items() if a == architecture):
            profiles.setdefault(profile, {})[key] = constants
    profiles["ascend-910c"] = _ascend()
    return write(
        "experts",
        profiles,
        evidence=folder / FILES["experts"],
        rows=count(kept),
        note=f"with {FILES['experts_wideep']} ({fingerprint(folder / FILES['experts_wideep'])}), whose "
        "constants end in ':dispatched'; ascend-910c is pieced together from published utilisation, see each origin",
    )
