"""Fit the constants of ``cost.attend_mla`` to the calibrated-on rows: one set per profile, phase and dtype combination.

Robust least squares on the logarithm of the time, from several starts. Profiles of one die share their constants: they
run the same kernels, and where their balance of arithmetic and bandwidth differs (H100, H200) that tells the two
efficiencies apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang import catalog
from taicang.cost.attend_mla import MlaDecodeFit, MlaFit, MlaPrefillFit, attend_mla
from taicang.evidence import fitting
from taicang.evidence.suite_mla import ASCEND, KINDS, Rows, ascend_rows, chip_of, rows
from taicang.ops import Attend
from taicang.plans import Phase

# constant -> (start, lower bound, upper bound). No attention kernel is known above 80 % of the dense peak or 95 % of
# the bandwidth; without these ceilings rows that are never bound by arithmetic (Blackwell decode) would not fix it.
Bounds = Mapping[str, tuple[float, float, float]]
BOUNDS: Mapping[Phase, Bounds] = MappingProxyType(
    {
        "prefill": {
            "matrix_efficiency_ratio": (0.6, 0.02, 0.8),
            "bandwidth_efficiency_ratio": (0.5, 0.02, 0.95),
            "floor_s": (1e-5, 1e-6, 5e-5),
            "tile_rows": (128.0, 16.0, 256.0),
            "append_bytes": (2304.0, 1.0, 1e5),
        },
        "decode": {
            "matrix_efficiency_ratio": (0.6, 0.02, 0.8),
            "bandwidth_efficiency_ratio": (0.7, 0.02, 0.95),
            "floor_s": (1e-5, 1e-6, 5e-5),
            "tile_s": (5e-6, 1e-8, 1e-4),
            "piece_s": (2e-7, 1e-9, 1e-5),
            "partials": (0.1, 1e-3, 64.0),
        },
    }
)
# Known from the kernels, not fitted. An exponential takes the time of 16 lane operations, the rest of the softmax hides
# behind it. Decode tiles: the 64 rows of one matrix instruction; 16 heads in the Triton kernel that serves Ada. The
# kernels for Ampere do not split the context.
SOFTMAX_FLOP = 16.0
DIE: Mapping[str, str] = MappingProxyType({"h200": "h100", "gb200": "b200", "gb300": "b300"})
"""Profile whose die another one carries."""
DECODE_TILE: Mapping[str, float] = MappingProxyType({"l40s": 16.0})
UNSPLIT = ("a100",)
ASCEND_INT8: Mapping[str, Any] = MappingProxyType({"arithmetic": "int8", "matrix_efficiency_ratio": 0.654})
"""The operator in INT8 over an INT8 cache: assumed to reach the share of the peak that bf16 is printed with."""
STARTS = 4
SOFT = 0.1
"""Relative error beyond which a row's pull grows only linearly: rows that another kernel served do not lead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Calibrated-on rows of one system."""

    system: str
    op: Attend
    log_s: NDArray[np.float64]


def fit(folder: Path) -> list[Path]:
    """Fit both phases to the files in ``folder`` and write their calibration files; returns the paths written."""
    phases: tuple[Phase, ...] = ("prefill", "decode")
    return [_fit_phase(folder / f"mla_{phase}.csv", phase) for phase in phases]


def _fit_phase(path: Path, phase: Phase) -> Path:
    groups: dict[tuple[str, str], list[Training]] = {}
    used = 0
    for found in rows(path, phase):
        profile = chip_of(found.system).profile
        groups.setdefault((DIE.get(profile, profile), found.combination), []).append(training(found))
        used += int((~found.held).sum())
    profiles: dict[str, dict[str, dict[str, Any]]] = {}
    for (_, combination), listed in groups.items():
        shared = constants(fit_rows(listed, phase))
        for part in listed:
            profiles.setdefault(chip_of(part.system).profile, {})[combination] = shared
    profiles[ASCEND] = {"bf16/bf16": constants(ascend_fit(phase))}
    if phase == "decode":
        profiles[ASCEND]["int8/int8"] = constants(replace(ascend_fit(phase), **ASCEND_INT8))
    note = (
        f"fastest of the measured serving stacks; soft-L1 on log time, {STARTS} starts. {ASCEND}: efficiencies are the "
        "two published asymptotes of its fused decode operator (Tables 8 and 9 of arXiv 2506.12708 v2, "
        f"{'which prefill is assumed to share' if phase == 'prefill' else 'calibrated on'}); the rest is assumed"
    )
    return fitting.write(f"mla_{phase}", profiles, evidence=path, rows=used, note=note)


def training(found: Rows) -> Training:
    """The part of ``found`` that a fit may see."""
    return Training(system=found.system, op=subset(found.op, ~found.held), log_s=np.log(found.measured_s[~found.held]))


def subset(op: Attend, keep: NDArray[np.bool_]) -> Attend:
    """The elements of an array operator that ``keep`` marks."""
    values: dict[str, Any] = {f.name: getattr(op, f.name) for f in fields(op)}
    arrays = {name: value[keep] for name, value in values.items() if isinstance(value, np.ndarray)}
    return Attend(**(values | arrays))


def constants(fitted: MlaFit) -> dict[str, Any]:
    """A fit as a plain mapping."""
    return {f.name: getattr(fitted, f.name) for f in fields(fitted)}


def known(profile: str, phase: Phase, kv_dtype: str, peaks: Mapping[str, float]) -> dict[str, Any]:
    """Constants that are not fitted: an 8-bit cache is multiplied in FP8 where the chip can."""
    fixed: dict[str, Any] = {"arithmetic": "fp8" if kv_dtype == "fp8" and "fp8" in peaks else "bf16"}
    if phase == "prefill":
        return fixed | {"softmax_flop": SOFTMAX_FLOP}
    fixed["tile_rows"] = DECODE_TILE.get(profile, 64.0)
    return fixed | ({"piece_s": math.inf} if profile in UNSPLIT else {})


def fit_rows(listed: Sequence[Training], phase: Phase) -> MlaFit:
    """The constants that bring the logarithm of the predicted time nearest to the measured one."""
    from scipy.optimize import least_squares  # noqa: PLC0415 - fitting only

    chips = [chip_of(t.system) for t in listed]
    fixed = known(chips[0].profile, phase, listed[0].op.kv_dtype, chips[0].peak_flop_per_s)
    bounds = {name: value for name, value in BOUNDS[phase].items() if name not in fixed}
    start, low, high = (np.log(np.array(column)) for column in zip(*bounds.values(), strict=True))

    def build(x: NDArray[np.float64]) -> MlaFit:
        return KINDS[phase](**fixed, **dict(zip(bounds, np.exp(x).tolist(), strict=True)))

    def residual(x: NDArray[np.float64]) -> NDArray[np.float64]:
        now = build(x)
        priced = [np.asarray(attend_mla(t.op, c, now).seconds) for t, c in zip(listed, chips, strict=True)]
        return np.asarray(np.log(np.concatenate(priced)) - np.concatenate([t.log_s for t in listed]))

    random = np.random.default_rng(0)
    best = None
    for trial in range(STARTS):
        guess = np.clip(start + (trial > 0) * random.normal(0.0, 0.5, len(start)), low + 1e-6, high - 1e-6)
        tried = least_squares(residual, guess, bounds=(low, high), loss="soft_l1", f_scale=SOFT, max_nfev=200)
        if best is None or tried.cost < best.cost:
            best = tried
    assert best is not None
    return build(best.x)


def ascend_fit(phase: Phase) -> MlaFit:
    """Constants of one Ascend 910C die: two published asymptotes, the rest assumed.

    Assumed: a launch floor of 7 us (one matrix and one vector kernel of Huawei's own tool, 5 and 2 us); tiles of 16
    rows, the cube unit's side, in decode (the operator fills its cubes with any 16 heads) and of 128 in prefill; pieces
    combined as fast as on GPUs; cube and vector cores overlapped.
    """
    chip = catalog.chip(ASCEND)
    peak = {"compute": chip.peak("bf16"), "memory": chip.memory.bandwidth_bytes_per_s}
    share = {row["bound"]: float(row["measured"]) / peak[row["bound"]] for row in ascend_rows()}
    common: dict[str, Any] = {
        "arithmetic": "bf16",
        "matrix_efficiency_ratio": share["compute"],
        "bandwidth_efficiency_ratio": share["memory"],
        "floor_s": 7e-6,
    }
    if phase == "prefill":
        return MlaPrefillFit(**common, tile_rows=128.0, append_bytes=2304.0, softmax_flop=0.0)
    return MlaDecodeFit(**common, tile_rows=16.0, tile_s=0.0, piece_s=2e-7, partials=0.0)
