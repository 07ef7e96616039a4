"""Fit the constants of ``cost.attend_mla`` to the calibrated-on rows: one set per profile, phase and dtype combination.

Robust least squares on the logarithm of the time, from several starts. Profiles of one die share their constants: they
run the same kernels, and where their balance of arithmetic and bandwidth differs (H100, H200) that tells the two
efficiencies apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from taicang import catalog
from taicang.cost.attend_mla import MlaDecodeFit, MlaFit, MlaPrefillFit
from taicang.evidence.attention_rows import PHASES
from taicang.evidence.fitting import Bounds, Constants, solve, write
from taicang.evidence.measured import Measured, count, log_errors
from taicang.evidence.suite_mla import ASCEND, KINDS, ascend_rows, read, seconds
from taicang.hardware import Chip
from taicang.ops import Attend
from taicang.plans import Phase

# No attention kernel is known above 80 % of the dense peak or 95 % of
# the bandwidth; without these ceilings rows that are never bound by arithmetic (Blackwell decode) would not fix it.
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
SPREADS = (0.0, 0.5, 0.5, 0.5)


def fit(folder: Path) -> list[Path]:
    """Fit both phases to the files in ``folder`` and write their calibration files; returns the paths written."""
    return [_fit_phase(folder, phase) for phase in PHASES]


def _fit_phase(folder: Path, phase: Phase) -> Path:
    rows = [found.fitted() for found in read(folder, phase)]
    groups: dict[tuple[str, str], list[Measured[Attend]]] = {}
    for found in rows:
        profile = found.chip.profile
        groups.setdefault((DIE.get(profile, profile), found.kernel), []).append(found)
    profiles: dict[str, dict[str, dict[str, Any]]] = {}
    for (_, combination), listed in groups.items():
        shared = asdict(fit_rows(listed, phase))
        for part in listed:
            profiles.setdefault(part.chip.profile, {})[combination] = shared
    profiles[ASCEND] = {"bf16/bf16": asdict(ascend_fit(phase))}
    if phase == "decode":
        profiles[ASCEND]["int8/int8"] = asdict(replace(ascend_fit(phase), **ASCEND_INT8))
    note = (
        f"fastest of the measured serving stacks; soft-L1 on log time, {len(SPREADS)} starts. {ASCEND}: efficiencies "
        "are the two published asymptotes of its fused decode operator (Tables 8 and 9 of arXiv 2506.12708 v2, "
        f"{'which prefill is assumed to share' if phase == 'prefill' else 'calibrated on'}); the rest is assumed"
    )
    return write(f"mla_{phase}", profiles, evidence=folder / f"mla_{phase}.csv", rows=count(rows), note=note)


def known(chip: Chip, phase: Phase, kv_dtype: str) -> dict[str, Any]:
    """Constants that are not fitted: an 8-bit cache is multiplied in FP8 where the chip can."""
    fixed: dict[str, Any] = {"arithmetic": "fp8" if kv_dtype == "fp8" and "fp8" in chip.peak_flop_per_s else "bf16"}
    if phase == "prefill":
        return fixed | {"softmax_flop": SOFTMAX_FLOP}
    fixed["tile_rows"] = DECODE_TILE.get(chip.profile, 64.0)
    return fixed | ({"piece_s": math.inf} if chip.profile in UNSPLIT else {})


def fit_rows(listed: Sequence[Measured[Attend]], phase: Phase) -> MlaFit:
    """The constants that bring the logarithm of the predicted time nearest to the measured one."""
    fixed = known(listed[0].chip, phase, listed[0].op.kv_dtype)
    bounds = {name: value for name, value in BOUNDS[phase].items() if name not in fixed}

    def made(constants: Constants) -> MlaFit:
        fitted: MlaFit = KINDS[phase](**fixed, **constants)
        return fitted

    return made(solve(lambda c: log_errors(listed, partial(seconds, fit=made(c))), bounds, spreads=SPREADS))


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
