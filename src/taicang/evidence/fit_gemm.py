"""Fit the constants of ``cost.gemm`` (and, from them, of ``cost.pointwise``) on the calibrated-on rows.

Two stages per format. First all chips together, which gives the constants that belong to the kernels rather than to the
chip (``SHARED``: they stay the same on all chips). Then each architecture alone, its chips together, drawn towards the
first stage's values by a weak prior, so that what few rows do not show stays at what the others show. All
constants of each chip alone were hardly better in cross-validation; but the clock that a chip sustains under its power
limit is its own, hence a third stage for ``OWN`` on each chip of an architecture with several. Least squares on the log
error with a loss that lets outliers be outliers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from taicang.catalog.schema import ARCHITECTURE
from taicang.cost.gemm import GemmFit, gemm
from taicang.evidence.fitting import Bounds, Fitted, declared_fits, solve, stated
from taicang.evidence.kernels import kernel_rows
from taicang.evidence.measured import Measured, count
from taicang.evidence.operators import ASCEND, ascend_gemm_rows, gemm_seconds
from taicang.evidence.tables import Array
from taicang.ops import Gemm

SHARED = ("fill_exponent", "fill_k", "sharpness", "loop_sharpness", "quantise_ratio")
"""Constants of the kernels of a format, the same on every chip."""
OWN = ("compute_efficiency_ratio",)
"""Constants of a chip where others share its architecture."""
PRIOR = 0.03
"""Weight of the prior: a constant that is off by a factor of e counts as a row with 3 % error."""
STARTS = (0.5, 0.5, 0.0)

STREAM = ("launch_s", "memory_efficiency_ratio", "sharpness")
"""Constants that kernels over memory alone share."""
LARGE_WEIGHT = 3.0
ASCEND_STREAM_RATIO = 0.841
"""Memory bandwidth that an Ascend 910C die sustains in its attention kernel (CloudMatrix384 paper, Table 9)."""


def fit_gemm(folder: Path) -> Fitted:
    """Constants of matrix products, and of kernels over memory alone."""
    table = [rows.fitted() for rows in kernel_rows(folder, "gemm")]
    ascend = ascend_gemm_rows().fitted()
    profiles: dict[str, dict[str, GemmFit]] = {}
    pooled: dict[str, GemmFit] = {}
    for dtype in ("bf16", "fp8", "fp8_block", "nvfp4"):
        kin = [rows for rows in table if rows.op.dtype == dtype]
        pooled[dtype] = _pooled(kin)
        for architecture in dict.fromkeys(ARCHITECTURE.values()):
            members = [rows for rows in kin if ARCHITECTURE[rows.chip.profile] == architecture]
            if not members:
                continue
            common = _drawn(members, pooled[dtype], [name for name in _declared()["bounds"] if name not in SHARED])
            for rows in members:
                own = _drawn([rows], common, OWN) if len(members) > 1 else common
                profiles.setdefault(rows.chip.profile, {})[dtype] = own
            if architecture == "blackwell":
                own_share, share_of_kin = _declared()["gb200"][dtype]
                clock = common.compute_efficiency_ratio * (own_share / share_of_kin)
                profiles.setdefault("gb200", {})[dtype] = replace(common, compute_efficiency_ratio=clock)
    cube = _ascend(ascend, pooled["bf16"])
    profiles[ASCEND] = {"bf16": cube, "int8": cube}
    streams = {
        profile: {"stream": {name: float(getattr(keyed["bf16"], name)) for name in STREAM}}
        for profile, keyed in profiles.items()
    }
    plain = {profile: {dtype: stated(own) for dtype, own in keyed.items()} for profile, keyed in profiles.items()}
    return Fitted(files={"pointwise": streams, "gemm": plain}, rows=count([*table, ascend]))


@cache
def _declared() -> Mapping[str, Any]:
    return declared_fits()["gemm"]  # type: ignore[no-any-return]


def _large_errors(rows: Measured[Gemm], fit: GemmFit) -> Array:
    share = _declared()["large"].get(rows.op.dtype, {}).get(rows.system)
    if share is None:
        return np.array([])
    side = np.array([8192.0])
    measured_s = 2.0 * side**3 / (share * rows.chip.peak("fp4" if rows.op.dtype == "nvfp4" else "fp8"))
    op = Gemm(m=side, n=side, k=side, dtype=rows.op.dtype)
    return np.asarray(LARGE_WEIGHT * np.log(gemm(op, rows.chip, fit).seconds / measured_s))


def _warm(rows: Measured[Gemm], fit: GemmFit) -> GemmFit:
    return replace(fit, **_declared()["warm"].get(rows.chip.profile, {}))


def _errors(kin: Sequence[Measured[Gemm]], fit: GemmFit) -> Array:
    """Log errors of all rows, and of the large product of each system where one is known."""
    near = [np.log(gemm_seconds(rows, _warm(rows, fit)) / rows.measured_s) for rows in kin]
    return np.concatenate(near + [_large_errors(rows, _warm(rows, fit)) for rows in kin])


def _pooled(kin: Sequence[Measured[Gemm]]) -> GemmFit:
    quantised = kin[0].op.dtype != "bf16"
    bounds: Bounds = {n: tuple(v) for n, v in _declared()["bounds"].items() if n != "quantise_ratio" or quantised}
    return GemmFit(**solve(lambda c: _errors(kin, GemmFit(**c)), bounds, spreads=STARTS))


def _drawn(kin: Sequence[Measured[Gemm]], towards: GemmFit, names: Sequence[str]) -> GemmFit:
    """``towards`` with the constants ``names`` fitted to ``kin``, drawn towards what they were."""
    declared = _declared()["bounds"]
    bounds: Bounds = {name: (getattr(towards, name), *declared[name][1:]) for name in names}
    usual = {name: declared[name][0] for name in names}
    best = solve(lambda c: _errors(kin, replace(towards, **c)), bounds, also=usual, prior=PRIOR)
    return _warm(kin[0], replace(towards, **best))


def _ascend(rows: Measured[Gemm], pooled: GemmFit) -> GemmFit:
    fixed = replace(pooled, memory_efficiency_ratio=ASCEND_STREAM_RATIO)
    declared = _declared()["bounds"]
    bounds: Bounds = {n: (getattr(pooled, n), *declared[n][1:]) for n in ("compute_efficiency_ratio", "fill_k")}
    return replace(fixed, **solve(lambda c: _errors([rows], replace(fixed, **c)), bounds))
