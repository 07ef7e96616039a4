"""Fit the constants of the expert kernels: robust least squares on the logarithm of the error, calibrated-on rows only.

Chips of one architecture run the same kernels and share their constants, which are ratios to each chip's own peaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.catalog.costing import ARCHITECTURE
from taicang.cost.experts import ExpertsFit, dispatched_key, experts
from taicang.evidence import fitting
from taicang.evidence.suite_experts import FILES, Row, batched, groups, rows
from taicang.evidence.systems import chip_of

# constant: (start, least, most); bounds are what the constant can physically mean
BOUNDS: dict[str, tuple[float, float, float]] = {
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


def _solve(chosen: Sequence[Row]) -> ExpertsFit:
    """The constants that fit ``chosen`` (one format, one architecture) best, from several starts."""
    from scipy.optimize import least_squares  # noqa: PLC0415 - an extra, needed to fit only

    parts = [(batched(part), chip_of(system), part) for (_, system, _, _), part in groups(chosen).items()]
    measured = [np.log([row.seconds_s for row in part]) for _, _, part in parts]
    start, least, most = (np.log([bound[i] for bound in BOUNDS.values()]) for i in range(3))

    def fit_at(point: NDArray[np.float64]) -> ExpertsFit:
        constants: dict[str, Any] = {name: float(v) for name, v in zip(BOUNDS, np.exp(point), strict=True)}
        return ExpertsFit(**constants)

    def errors(point: NDArray[np.float64]) -> NDArray[np.float64]:
        fit = fit_at(point)
        predicted = (np.log(np.asarray(experts(op, chip, fit).seconds)) for op, chip, _ in parts)
        return np.concatenate([p - m for p, m in zip(predicted, measured, strict=True)])

    draw = np.random.default_rng(0)
    best = None
    for jitter in (0.0, 0.4, 0.4):
        first = np.clip(start + draw.normal(0.0, 1.0, start.size) * jitter, least + 1e-6, most - 1e-6)
        found = least_squares(errors, first, bounds=(least, most), loss="soft_l1", f_scale=0.2, max_nfev=60)
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    return fit_at(best.x)


def fit(folder: Path) -> Path:
    """Fit every architecture and format measured in ``folder`` and write the calibration file; its path is returned."""
    kept = [row for row in rows(folder) if not row.held_out]
    pooled: dict[tuple[str, str], list[Row]] = {}
    for row in kept:
        key = row.dtype if row.op.gathered else dispatched_key(row.dtype)
        pooled.setdefault((ARCHITECTURE[chip_of(row.system).profile], key), []).append(row)
    profiles: dict[str, dict[str, Any]] = {}
    for (architecture, key), chosen in sorted(pooled.items()):
        constants = asdict(_solve(chosen)) | {"origin": f"calibrated on {architecture}"}
        for profile in (p for p, a in ARCHITECTURE.items() if a == architecture):
            profiles.setdefault(profile, {})[key] = constants
    profiles["ascend-910c"] = _ascend()
    return fitting.write(
        "experts",
        profiles,
        evidence=folder / FILES["experts"],
        rows=len(kept),
        note=f"with {FILES['experts_wideep']} ({fitting.fingerprint(folder / FILES['experts_wideep'])}), whose "
        "constants end in ':dispatched'; ascend-910c is pieced together from published utilisation, see each origin",
    )
