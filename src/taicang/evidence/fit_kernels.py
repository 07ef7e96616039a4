"""Rows of kernel families as ``data/fits.yaml`` declares their fits: attention, latent attention and experts.

Rows of one key
share constants where they run the same kernels: on one die, or one architecture, whose constants are ratios to each
chip's own peaks. An engine that has a column of its own gets a set of its own, under ``key@engine``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from taicang.catalog.schema import ARCHITECTURE
from taicang.cost.experts import dispatched_key
from taicang.evidence.fitting import Constants, Group, declared_fits
from taicang.evidence.kernels import kernel_rows
from taicang.evidence.measured import Measured, count, log_errors
from taicang.evidence.operators import KERNEL_FITS, attend_seconds, experts_seconds
from taicang.hardware import Chip

DIE: Mapping[str, str] = {"h200": "h100", "gb200": "b200", "gb300": "b300"}
"""Profile whose die another one carries."""


def _key(rows: Measured[Any]) -> str:
    gathered = getattr(rows.op, "gathered", True)
    return rows.kernel if gathered else dispatched_key(rows.op.dtype)


def _shared(rows: Measured[Any], share: str) -> str:
    profile = rows.chip.profile
    return {"profile": profile, "die": DIE.get(profile, profile)}.get(share) or ARCHITECTURE[profile]


def groups(folder: Path, family: str) -> Iterator[Group]:
    """Rows of one key that run the same kernels, an engine's own apart; and what is assumed of chips without any."""
    said = declared_fits()[family]
    found: dict[tuple[str, str], list[Measured[Any]]] = {}
    for rows in (each for suite in said["suites"] for each in kernel_rows(folder, suite)):
        found.setdefault((_shared(rows, said["share"]), _key(rows)), []).append(rows.fitted())
        left = said.get("engines", {}).get("but", ())
        for engine in sorted(rows.by_engine.keys() - left):
            own, share = rows.of_engine(engine).fitted(), _shared(rows, said["engines"]["share"])
            key = f"{_key(rows)}@{engine}"
            if family == "experts":
                own = _typical(own, f"{share}/{key}")
            if own.ids and f"{share}/{key}" not in left:
                found.setdefault((share, key), []).append(own)
    whole = said.get("whole", False)
    for (share, key), kin in sorted(found.items(), key=lambda item: item[0]) if whole else found.items():
        # all chips of the architecture, measured or not
        profiles = [p for p, a in ARCHITECTURE.items() if a == share] if whole else [rows.chip.profile for rows in kin]
        origin = {"origin": f"calibrated on {share}"} if whole else {}
        yield _group(kin, family, key.partition("@")[2], [(profile, key) for profile in profiles], origin)
    for profile, keyed in said["assumed"].items():
        for key, values in keyed.items():
            stated = values if whole else asdict(KERNEL_FITS[family](**values))
            yield Group(places=[(profile, key)], rows=0, errors=np.array, bounds={}, made=lambda _, said=stated: said)  # type: ignore[misc]


def _typical(rows: Measured[Any], key: str) -> Measured[Any]:
    """Rows of an engine's own experts without those that are like no run; ``data/fits.yaml`` says why."""
    engines = declared_fits()["experts"]["engines"]
    total, local = rows.op.experts, rows.op.experts_local
    kept = (total != float(engines["grouped"].get(key.partition("@")[2], 0))) | (local >= total)
    few = float(engines["untiled"].get(key, 0))
    return rows.where(np.broadcast_to(kept & (total > few), len(rows.ids)))


def _group(
    kin: Sequence[Measured[Any]], family: str, engine: str, places: Sequence[tuple[str, str]], origin: Mapping[str, str]
) -> Group:
    """The rows ``kin`` as constants of ``family``, of an ``engine``'s own column or of the fastest."""
    said, chip, op = declared_fits()[family], kin[0].chip, kin[0].op
    fixed = _known(said.get("fixed"), chip, getattr(op, "kv_dtype", ""))
    more = said["engines"]["bounds"].get(engine, {}) if engine else {}
    price: Any = experts_seconds if family == "experts" else attend_seconds

    def made(constants: Constants) -> Any:
        return KERNEL_FITS[family](**fixed, **constants)

    return Group(
        places=places,
        rows=0 if engine else count(kin),
        errors=lambda constants: log_errors(kin, partial(price, fit=made(constants))),
        bounds={name: tuple(v) for name, v in {**said["bounds"], **more}.items() if name not in fixed},
        prior=said["engines"]["prior"] if engine else 0.0,
        made=lambda constants: asdict(made(constants)) | origin,
    )


def _known(fixed: Mapping[str, Any] | None, chip: Chip, kv_dtype: str) -> dict[str, Any]:
    """Constants that are not fitted; an 8-bit cache of latents is multiplied in FP8 where the chip can."""
    if fixed is None:
        return {}
    arithmetic = "fp8" if kv_dtype == "fp8" and "fp8" in chip.peak_flop_per_s else "bf16"
    return {"arithmetic": arithmetic, **fixed["all"], **fixed.get(chip.profile, {})}
