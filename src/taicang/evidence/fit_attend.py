"""Fit the constants of ``cost.attend_gqa`` to the calibrated-on rows: one set per profile, phase and dtype combination.

Robust least squares on the logarithm of the time, from several starts. Chips of one profile share their constants. In
decode there is also a set per engine, which all chips of one architecture share: kernels are built per architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.cost.attend_gqa import AttendFit, GqaDecodeFit, GqaPrefillFit, attend_gqa
from taicang.evidence import fitting
from taicang.evidence.suite_attend import FILES, Rows, measured_chip, rows
from taicang.ops import Attend
from taicang.plans import Phase

# constant -> (start, lower bound, upper bound)
Bounds = Mapping[str, tuple[float, float, float]]
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
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "h100": "hopper",
        "h200": "hopper",
        "b200": "blackwell",
        "b300": "blackwell",
        "gb200": "blackwell",
        "gb300": "blackwell",
    }
)
"""Profiles that share the kernels of an engine; the others stand alone."""
WIDE: Bounds = MappingProxyType(
    {"head_ramp_s": (1e-5, 1e-8, 2e-4), "head_pass_ratio": (0.2, 1e-3, 3.0), "walk_s": (1e-9, 1e-12, 1e-7)}
)
"""Constants that only TensorRT-LLM has: its grouped kernel ends at a group of one tile."""
PRIOR = 0.03
"""Pull of an engine's constants to their starts, per e-fold: decides only those that its few rows leave open."""
STARTS = 6
SOFT = 0.1
"""Relative error beyond which a row's pull grows only linearly: rows that a slower kernel served do not lead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Calibrated-on rows of one system."""

    op: Attend
    system: str
    log_s: NDArray[np.float64]


def fit(folder: Path) -> list[Path]:
    """Fit both phases to the files in ``folder`` and write their calibration files; returns the paths written."""
    return [_fit_phase(folder, phase) for phase in FILES]


def _fit_phase(folder: Path, phase: Phase) -> Path:
    groups: dict[tuple[str, str], list[Training]] = {}
    used = 0
    for found in rows(folder / FILES[phase], phase):
        groups.setdefault((measured_chip(found.system).profile, found.combination), []).append(training(found))
        used += int((~found.held).sum())
        for engine, seconds in found.by_engine.items():
            profile = measured_chip(found.system).profile
            key = (ARCHITECTURES.get(profile, profile), f"{found.combination}@{engine}")
            groups.setdefault(key, []).append(training(found, seconds))
    profiles: dict[str, dict[str, dict[str, float]]] = {}
    for (_, combination), listed in groups.items():
        _, _, engine = combination.partition("@")
        fitted = constants(fit_rows(listed, phase, engine))
        for name in dict.fromkeys(measured_chip(t.system).profile for t in listed):
            profiles.setdefault(name, {})[combination] = fitted
    profiles[ASCEND] = {"bf16/bf16": constants(ASCEND_FITS[phase])}
    note = (
        "fastest of the measured serving stacks; keys with @engine: that stack's own column, one set per architecture; "
        f"soft-L1 on log time, {STARTS} starts. {ASCEND_NOTE}"
    )
    return fitting.write(f"attend_{phase}", profiles, evidence=folder / FILES[phase], rows=used, note=note)


def training(found: Rows, seconds: NDArray[np.float64] | None = None) -> Training:
    """The part of ``found`` that a fit may see; ``seconds`` are those of one engine, NaN where it was not measured."""
    measured_s = found.measured_s if seconds is None else seconds
    keep = ~found.held & np.isfinite(measured_s)
    arrays = {f.name: getattr(found.op, f.name) for f in fields(found.op)}
    kept: dict[str, Any] = {name: value[keep] for name, value in arrays.items() if isinstance(value, np.ndarray)}
    return Training(op=replace(found.op, **kept), system=found.system, log_s=np.log(measured_s[keep]))


def constants(fitted: AttendFit) -> dict[str, float]:
    """A fit as a plain mapping."""
    return {f.name: getattr(fitted, f.name) for f in fields(fitted)}


def fit_rows(listed: Sequence[Training], phase: Phase, engine: str = "") -> AttendFit:
    """The constants that bring the logarithm of the predicted time nearest to the measured one."""
    from scipy.optimize import least_squares  # noqa: PLC0415 - fitting only

    bounds = {**BOUNDS[phase], **(WIDE if engine == "trtllm" else {})}
    prior = PRIOR if engine else 0.0
    kind = GqaPrefillFit if phase == "prefill" else GqaDecodeFit
    start, low, high = (np.log(np.array(column)) for column in zip(*bounds.values(), strict=True))
    chips = [measured_chip(t.system) for t in listed]

    measured = np.concatenate([t.log_s for t in listed])

    def build(x: NDArray[np.float64]) -> AttendFit:
        return kind(**dict(zip(bounds, np.exp(x).tolist(), strict=True)))

    def residual(x: NDArray[np.float64]) -> NDArray[np.float64]:
        now = build(x)
        priced = [attend_gqa(t.op, c, now, resident=True).seconds for t, c in zip(listed, chips, strict=True)]
        return np.concatenate([np.log(np.concatenate(priced)) - measured, prior * (x - start)])

    random = np.random.default_rng(0)
    best = None
    for trial in range(STARTS):
        guess = np.clip(start + (trial > 0) * random.normal(0.0, 0.5, len(start)), low + 1e-6, high - 1e-6)
        tried = least_squares(residual, guess, bounds=(low, high), loss="soft_l1", f_scale=SOFT, max_nfev=200)
        if best is None or tried.cost < best.cost:
            best = tried
    assert best is not None
    return build(best.x)
