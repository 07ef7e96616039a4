"""Fit the constants of ``cost.gemm`` (and, from them, of ``cost.pointwise``) on the calibrated-on rows.

Two stages per format. First all chips together, which gives the constants that belong to the kernels rather than to the
chip (``SHARED``: they stay the same on all chips). Then each architecture alone, its chips together, drawn towards the
first stage's values by a weak prior, so that what few rows do not show stays at what the others show. All
constants of each chip alone were hardly better in cross-validation; but the clock that a chip sustains under its power
limit is its own, hence a third stage for ``OWN`` on each chip of an architecture with several. Least squares on the log
error with a loss that lets outliers be outliers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.cost.gemm import GemmFit, gemm
from taicang.evidence import fitting
from taicang.evidence.suite_gemm import ASCEND, TABLE, Rows, read, read_ascend
from taicang.evidence.systems import chip_of

# constant: start, lowest and highest value
BOUNDS: Mapping[str, tuple[float, float, float]] = {
    "launch_s": (3e-6, 1e-6, 2e-5),
    "compute_efficiency_ratio": (0.85, 0.2, 1.0),
    "memory_efficiency_ratio": (0.88, 0.4, 1.0),
    "k_step_s": (1e-9, 1e-11, 1e-8),
    "split_k": (8192.0, 64.0, 1e7),
    "fill_elements": (3000.0, 10.0, 65536.0),
    "fill_exponent": (0.7, 0.3, 1.0),
    "fill_k": (100.0, 1.0, 2000.0),
    "sharpness": (3.0, 1.05, 12.0),
    "loop_sharpness": (1.5, 1.0, 12.0),
    "quantise_ratio": (2.0, 1.0, 10.0),
}
ARCHITECTURES = (("a100-sxm",), ("l40s",), ("h100-sxm", "h200-sxm"), ("b200-sxm", "b300-sxm", "gb300"))
SHARED = ("fill_exponent", "fill_k", "sharpness", "loop_sharpness", "quantise_ratio")
"""Constants of the kernels of a format, the same on every chip."""
FREE = tuple(name for name in BOUNDS if name not in SHARED)
"""Constants of an architecture."""
OWN = ("compute_efficiency_ratio",)
"""Constants of a chip where others share its architecture."""
PRIOR = 0.03
"""Weight of the prior: a constant that is off by a factor of e counts as a row with 3 % error."""
LOSS_SCALE = 0.1
"""Errors well above 10 % count linearly."""
STARTS = 3

# Share of the peak at 8192^3, for formats whose table ends at a few hundred rows: a prefill needs the other end.
# Our reading of public kernel tables (facts on systems: gemm_8192cubed_eff), not rows of the evidence file.
LARGE = {
    "fp8_block": {"h100-sxm": 0.56, "b200-sxm": 0.59, "gb300": 0.65},
    "nvfp4": {"b200-sxm": 0.43, "gb300": 0.32},
}
LARGE_WEIGHT = 3.0
# GB200 has no table here, and its clock falls further under load than its kin's: its share of the peak at 8192^3 over
# the mean of B200's and GB300's (same facts; fp8 as fp8_block).
GB200_RATIO = {"bf16": 0.56 / 0.705, "fp8": 0.59 / 0.62, "fp8_block": 0.59 / 0.62, "nvfp4": 1.0}
# The L40S's benchmark leaves operands in its L2 between calls (their traffic exceeds the memory's peak); no other does.
WARM = {"l40s": {"cache_ratio": 0.58, "cache_speedup_ratio": 2.2}}
ASCEND_STREAM_RATIO = 0.841
"""Memory bandwidth that an Ascend 910C die sustains in its attention kernel (CloudMatrix384 paper, Table 9)."""

Constants = dict[str, float]


def fit(folder: Path) -> Path:
    """Write calibration/gemm.yaml and calibration/pointwise.yaml from the evidence in ``folder``; return the former."""
    table = [rows.fitted() for rows in read(folder)]
    profiles: dict[str, dict[str, GemmFit]] = {}
    pooled: dict[str, GemmFit] = {}
    for dtype in ("bf16", "fp8", "fp8_block", "nvfp4"):
        kin = [rows for rows in table if rows.dtype == dtype]
        pooled[dtype] = _pooled(kin)
        for systems in ARCHITECTURES:
            members = [rows for rows in kin if rows.system in systems]
            if not members:
                continue
            common = _single(members, pooled[dtype], FREE)
            for rows in members:
                own = _single([rows], common, OWN) if len(members) > 1 else common
                profiles.setdefault(chip_of(rows.system).profile, {})[dtype] = own
            if "b200-sxm" in systems:
                clock = common.compute_efficiency_ratio * GB200_RATIO[dtype]
                profiles.setdefault("gb200", {})[dtype] = replace(common, compute_efficiency_ratio=clock)
    ascend = read_ascend(folder)
    count = sum(len(rows.ids) for rows in table)
    if ascend is not None:
        cube = _ascend(ascend.fitted(), pooled["bf16"])
        profiles[ASCEND] = {"bf16": cube, "int8": cube}
        count += len(ascend.fitted().ids)
    path = folder / TABLE
    fitting.write("pointwise", _streams(profiles), evidence=path, rows=count, note=_POINTWISE_NOTE)
    return fitting.write("gemm", _plain(profiles), evidence=path, rows=count, note=_NOTE)


_NOTE = (
    "gb200: common to b200, b300 and gb300, compute share scaled by large products. ascend-910c: compute share and "
    "fill_k from three of six published grouped int8 products, bf16 likewise (assumed), stream share from its "
    "published attention kernel, all else pooled over the GPUs (assumed). fp8_block and nvfp4: an 8192^3 figure beside."
)
_POINTWISE_NOTE = "launch floor and stream share of the bf16 matrix product of the same profile (cost.pointwise)"


def _names(dtype: str) -> tuple[str, ...]:
    return tuple(name for name in BOUNDS if name != "quantise_ratio" or dtype != "bf16")


def _large(rows: Rows) -> Rows | None:
    share = LARGE.get(rows.dtype, {}).get(rows.system)
    if share is None:
        return None
    side = np.array([8192.0])
    seconds = 2.0 * side**3 / (share * chip_of(rows.system).peak("fp4" if rows.dtype == "nvfp4" else "fp8"))
    return replace(rows, ids=("8192",), m=side, n=side, k=side, batch=side / side, measured_s=seconds, held=side < 0)


def _log_errors(rows: Rows, fit: GemmFit) -> NDArray[np.float64]:
    chip = chip_of(rows.system)
    fit = replace(fit, **WARM.get(chip.profile, {}))
    errors = np.log(gemm(rows.op, chip, fit, warm=rows.warm).seconds / rows.measured_s)
    large = _large(rows)
    if large is None:
        return np.asarray(errors)
    return np.append(errors, LARGE_WEIGHT * np.log(gemm(large.op, chip, fit).seconds / large.measured_s))


def _all_errors(kin: Sequence[Rows], fit: GemmFit) -> NDArray[np.float64]:
    return np.concatenate([_log_errors(rows, fit) for rows in kin])


def _solve(
    residuals: Callable[[Constants], NDArray[np.float64]], starts: Sequence[Constants], names: Sequence[str]
) -> Constants:
    """The best of several bounded robust fits in the logarithms of the constants."""
    from scipy.optimize import least_squares  # noqa: PLC0415 - fitting only

    low = np.log([BOUNDS[name][1] for name in names]) - 1e-9
    high = np.log([BOUNDS[name][2] for name in names]) + 1e-9

    def constants(x: NDArray[np.float64]) -> Constants:
        return {name: float(np.exp(min(max(v, a), b))) for name, v, a, b in zip(names, x, low, high, strict=True)}

    best: Any = None
    for start in starts:
        x0 = np.clip(np.log([start[name] for name in names]), low + 1e-6, high - 1e-6)
        found = least_squares(
            lambda x: residuals(constants(x)), x0, bounds=(low, high), loss="soft_l1", f_scale=LOSS_SCALE, max_nfev=200
        )
        if best is None or found.cost < best.cost:
            best = found
    return {name: min(value, BOUNDS[name][2]) for name, value in constants(best.x).items()}


def _pooled(kin: Sequence[Rows]) -> GemmFit:
    names = _names(kin[0].dtype)
    rng = np.random.default_rng(0)
    first = {name: BOUNDS[name][0] for name in names}
    starts = [first] + [{k: v * float(np.exp(rng.normal(0, 0.5))) for k, v in first.items()} for _ in range(STARTS - 1)]
    return GemmFit(**_solve(lambda c: _all_errors(kin, GemmFit(**c)), starts, names))


def _single(kin: Sequence[Rows], pooled: GemmFit, names: Sequence[str]) -> GemmFit:
    prior = {name: getattr(pooled, name) for name in names}

    def residuals(constants: Constants) -> NDArray[np.float64]:
        pull = [PRIOR * np.log(constants[name] / prior[name]) for name in names]
        return np.append(_all_errors(kin, replace(pooled, **constants)), pull)

    start = {name: BOUNDS[name][0] for name in names}
    best = _solve(residuals, [prior, start], names)
    return replace(pooled, **best, **WARM.get(chip_of(kin[0].system).profile, {}))


def _ascend(rows: Rows, pooled: GemmFit) -> GemmFit:
    names = ("compute_efficiency_ratio", "fill_k")
    fixed = replace(pooled, memory_efficiency_ratio=ASCEND_STREAM_RATIO)
    best = _solve(
        lambda c: _log_errors(rows, replace(fixed, **c)), [{name: getattr(pooled, name) for name in names}], names
    )
    return replace(fixed, **best)


def _plain(profiles: Mapping[str, Mapping[str, GemmFit]]) -> dict[str, dict[str, Constants]]:
    """Constants as written: those at their default are left out."""
    default = {"quantise_ratio": 0.0, "cache_ratio": 0.0, "cache_speedup_ratio": 1.0}
    return {
        profile: {
            dtype: {name: value for name, value in asdict(own).items() if default.get(name) != value}
            for dtype, own in keyed.items()
        }
        for profile, keyed in profiles.items()
    }


def _streams(profiles: Mapping[str, Mapping[str, GemmFit]]) -> dict[str, dict[str, Constants]]:
    return {
        profile: {
            "stream": {
                "launch_s": keyed["bf16"].launch_s,
                "memory_efficiency_ratio": keyed["bf16"].memory_efficiency_ratio,
                "sharpness": float(keyed["bf16"].sharpness),
            }
        }
        for profile, keyed in profiles.items()
    }
