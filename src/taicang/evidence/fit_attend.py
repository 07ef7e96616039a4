"""Fit the constants of ``cost.attend_gqa`` to the calibrated-on rows: one set per profile, phase and dtype combination.

Robust least squares on the logarithm of the time, from several starts. Chips of one profile share their constants. In
decode there is also a set per engine, which all chips of one architecture share: kernels are built per architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType

from taicang.catalog.costing import ARCHITECTURE
from taicang.cost.attend_gqa import AttendFit, GqaDecodeFit, GqaPrefillFit
from taicang.evidence.fitting import Bounds, Constants, solve, write
from taicang.evidence.measured import Measured, count, log_errors
from taicang.evidence.suite_attend import FILES, KINDS, read, seconds
from taicang.ops import Attend
from taicang.plans import Phase

BOUNDS: Mapping[Phase, Bounds] = MappingProxyType(
    {
        "prefill": {
            "floor_s": (1e-5, 1e-6, 5e-5),
            "matrix_efficiency_ratio": (0.6, 0.05, 0.95),
            "softmax_ratio": (0.04, 0.003, 0.125),
            "tail_ratio": (0.5, 0.01, 5.0),
            "bandwidth_efficiency_ratio": (0.8, 0.1, 4.0),
        },
        "decode": {
            "floor_s": (8e-6, 1e-6, 5e-5),
            "fill_s": (2e-6, 1e-8, 2e-5),
            "ramp_s": (3e-6, 1e-8, 3e-5),
            "split_s": (5e-8, 1e-9, 1e-6),
            "bandwidth_efficiency_ratio": (0.85, 0.5, 0.95),
            "resident_ratio": (3.0, 1.0, 10.0),
        },
    }
)
# No table of grouped-query kernels on Ascend. Ratios: the fused (latent) attention operator on one 910C die reaches 246
# of 376 TFLOP/s in bf16 when bound by arithmetic and 1,346 of 1,600 GB/s when bound by memory.
ASCEND = "ascend-910c"
ASCEND_NOTE = (
    f"{ASCEND}: assumed from the MLA operator rows (246 TFLOP/s, 84.1 % of the bandwidth); "
    "exponentials counted in the former; "
    "launch: one matrix and one vector kernel of Huawei's own tool (5 and 2 us); "
    "ramp, tail and split seconds are assumed"
)
ASCEND_FITS: Mapping[Phase, AttendFit] = MappingProxyType(
    {
        "prefill": GqaPrefillFit(
            floor_s=7e-6,
            matrix_efficiency_ratio=0.695,
            softmax_ratio=1.0,
            tail_ratio=0.5,
            bandwidth_efficiency_ratio=0.841,
        ),
        "decode": GqaDecodeFit(
            floor_s=7e-6,
            fill_s=0.0,
            ramp_s=4e-6,
            split_s=4e-8,
            bandwidth_efficiency_ratio=0.841,
            resident_ratio=1.0,
        ),
    }
)
WIDE: Bounds = MappingProxyType(
    {"head_ramp_s": (1e-5, 1e-8, 2e-4), "head_pass_ratio": (0.2, 1e-3, 3.0), "walk_s": (1e-9, 1e-12, 1e-7)}
)
"""Constants that only TensorRT-LLM has: its grouped kernel ends at a group of one tile."""
PRIOR = 0.03
"""Pull of an engine's constants to their starts, per e-fold: decides only those that its few rows leave open."""
SPREADS = (0.0, 0.5, 0.5, 0.5, 0.5, 0.5)


def fit(folder: Path) -> list[Path]:
    """Fit both phases to the files in ``folder`` and write their calibration files; returns the paths written."""
    return [_fit_phase(folder, phase) for phase in FILES]


def _fit_phase(folder: Path, phase: Phase) -> Path:
    groups: dict[tuple[str, str], list[Measured[Attend]]] = {}
    used = 0
    for found in read(folder, phase):
        rows = found.fastest
        profile = rows.chip.profile
        groups.setdefault((profile, rows.kernel), []).append(rows.fitted())
        used += count([rows.fitted()])
        for engine in found.by_engine:
            key = (ARCHITECTURE[profile], f"{rows.kernel}@{engine}")
            groups.setdefault(key, []).append(found.of_engine(engine).fitted())
    profiles: dict[str, dict[str, Constants]] = {}
    for (_, combination), listed in groups.items():
        _, _, engine = combination.partition("@")
        fitted = asdict(fit_rows(listed, phase, engine))
        for part in listed:
            profiles.setdefault(part.chip.profile, {})[combination] = fitted
    profiles[ASCEND] = {"bf16/bf16": asdict(ASCEND_FITS[phase])}
    note = (
        "fastest of the measured serving stacks; keys with @engine: that stack's own column, one set per architecture; "
        f"soft-L1 on log time, {len(SPREADS)} starts. {ASCEND_NOTE}"
    )
    return write(f"attend_{phase}", profiles, evidence=folder / FILES[phase], rows=used, note=note)


def fit_rows(listed: Sequence[Measured[Attend]], phase: Phase, engine: str = "") -> AttendFit:
    """The constants that bring the logarithm of the predicted time nearest to the measured one."""
    bounds = {**BOUNDS[phase], **(WIDE if engine == "trtllm" else {})}

    def made(constants: Constants) -> AttendFit:
        fitted: AttendFit = KINDS[phase](**constants)
        return fitted

    best = solve(
        lambda c: log_errors(listed, partial(seconds, fit=made(c))),
        bounds,
        spreads=SPREADS,
        prior=PRIOR if engine else 0.0,
    )
    return made(best)
