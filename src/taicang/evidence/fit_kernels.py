"""Fit kernel families as ``data/fits.yaml`` declares them: attention, latent attention and experts.

Robust least squares on the logarithm of the time over the calibrated-on rows, from several starts. Rows of one key
share constants where they run the same kernels: on one die, or one architecture, whose constants are ratios to each
chip's own peaks. An engine that has a column of its own gets a set of its own, under ``key@engine``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from taicang.catalog import files
from taicang.catalog.schema import ARCHITECTURE
from taicang.cost.experts import dispatched_key
from taicang.evidence.fitting import Bounds, Constants, fingerprint, solve, write
from taicang.evidence.kernels import kernel_rows, tables
from taicang.evidence.measured import Measured, count, log_errors
from taicang.evidence.operators import KERNEL_FITS, attend_seconds, experts_seconds
from taicang.evidence.tables import CARRIED
from taicang.hardware import Chip

DIE: Mapping[str, str] = {"h200": "h100", "gb200": "b200", "gb300": "b300"}
"""Profile whose die another one carries."""


@cache
def declared_fits() -> Mapping[str, Any]:
    """The families of ``data/fits.yaml``."""
    return files.read(CARRIED / "fits.yaml")


def fit_kernels(folder: Path, *families: str) -> list[Path]:
    """Fit the families to the evidence ``folder`` and write their calibration files; returns the paths written."""
    return [_fit_family(folder, family) for family in families]


def _key(rows: Measured[Any]) -> str:
    gathered = getattr(rows.op, "gathered", True)
    return rows.kernel if gathered else dispatched_key(rows.op.dtype)


def _shared(rows: Measured[Any], share: str) -> str:
    profile = rows.chip.profile
    return {"profile": profile, "die": DIE.get(profile, profile)}.get(share) or ARCHITECTURE[profile]


def _fit_family(folder: Path, family: str) -> Path:
    said = declared_fits()[family]
    kept = [rows for suite in said["suites"] for rows in kernel_rows(folder, suite)]
    groups: dict[tuple[str, str], list[Measured[Any]]] = {}
    for rows in kept:
        groups.setdefault((_shared(rows, said["share"]), _key(rows)), []).append(rows.fitted())
        left = said.get("engines", {}).get("but", ())
        for engine in sorted(rows.by_engine.keys() - left):
            own, share = rows.of_engine(engine).fitted(), _shared(rows, said["engines"]["share"])
            key = f"{_key(rows)}@{engine}"
            if family == "experts":
                own = _typical(own, f"{share}/{key}")
            if own.ids and f"{share}/{key}" not in left:
                groups.setdefault((share, key), []).append(own)
    whole = said.get("whole", False)
    profiles: dict[str, dict[str, Any]] = {}
    for (share, key), kin in sorted(groups.items(), key=lambda item: item[0]) if whole else groups.items():
        constants = asdict(fit_rows(kin, family, key.partition("@")[2]))
        if whole:  # all chips of the architecture, measured or not
            constants |= {"origin": f"calibrated on {share}"}
        mine = [p for p, a in ARCHITECTURE.items() if a == share] if whole else [rows.chip.profile for rows in kin]
        for profile in mine:
            profiles.setdefault(profile, {})[key] = constants
    for profile, keyed in said["assumed"].items():
        kind = KERNEL_FITS[family]
        profiles[profile] = {key: values if whole else asdict(kind(**values)) for key, values in keyed.items()}
    files = [folder / tables()[suite].file for suite in said["suites"]]
    second = f"{files[-1].name} ({fingerprint(files[-1])})"
    used = count(rows.fitted() for rows in kept)
    return write(family, profiles, evidence=files[0], rows=used, note=said["note"].format(second=second))


def _typical(rows: Measured[Any], key: str) -> Measured[Any]:
    """Rows of an engine's own experts without those that are like no run; ``data/fits.yaml`` says why."""
    engines = declared_fits()["experts"]["engines"]
    total, local = rows.op.experts, rows.op.experts_local
    kept = (total != float(engines["grouped"].get(key.partition("@")[2], 0))) | (local >= total)
    few = float(engines["untiled"].get(key, 0))
    return rows.where(np.broadcast_to(kept & (total > few), len(rows.ids)))


def fit_rows(kin: Sequence[Measured[Any]], family: str, engine: str = "") -> Any:
    """The constants of ``family`` that bring the logarithm of the predicted time nearest to the measured one."""
    said, chip, op = declared_fits()[family], kin[0].chip, kin[0].op
    fixed = _known(said.get("fixed"), chip, getattr(op, "kv_dtype", ""))
    more = said["engines"]["bounds"].get(engine, {}) if engine else {}
    bounds: Bounds = {n: tuple(v) for n, v in {**said["bounds"], **more}.items() if n not in fixed}
    price: Any = experts_seconds if family == "experts" else attend_seconds

    def made(constants: Constants) -> Any:
        return KERNEL_FITS[family](**fixed, **constants)

    best = solve(
        lambda c: log_errors(kin, partial(price, fit=made(c))),
        bounds,
        spreads=said["spreads"],
        prior=said["engines"]["prior"] if engine else 0.0,
        bend=said.get("bend", 0.1),
        evaluations=said.get("evaluations", 200),
    )
    return made(best)


def _known(fixed: Mapping[str, Any] | None, chip: Chip, kv_dtype: str) -> dict[str, Any]:
    """Constants that are not fitted; an 8-bit cache of latents is multiplied in FP8 where the chip can."""
    if fixed is None:
        return {}
    arithmetic = "fp8" if kv_dtype == "fp8" and "fp8" in chip.peak_flop_per_s else "bf16"
    return {"arithmetic": arithmetic, **fixed["all"], **fixed.get(chip.profile, {})}
