"""Fit the constants of dispatch and combine kernels on the calibrated part of the measured rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from taicang.cost.exchange import ExchangeFit
from taicang.evidence.exchange_rows import (
    Part,
    exchange_parts,
    exchange_published,
    exchange_rows,
    exchange_seconds,
)
from taicang.evidence.fitting import Bounds, Constants, Fitted, declared_fits, solve, stated
from taicang.evidence.measured import count
from taicang.evidence.tables import Array

Fits = dict[str, dict[str, ExchangeFit]]


Form: TypeAlias = Mapping[str, Mapping[str, float]]
"""Which constants of a kernel are fitted and from where ("start"), and which are set ("fixed")."""
SPREADS = (0.7, 0.7, 0.7, 0.0)


def forms() -> Mapping[str, Form]:
    """The forms of ``data/fits.yaml``, by library (and " far")."""
    return declared_fits()["exchange"]["forms"]  # type: ignore[no-any-return]


def fit_kernel(kin: Sequence[Part], form: Form, *, profile: str, key: str, known: Fits) -> ExchangeFit:
    """Constants of one kernel; ``known`` are those of the networks inside this one."""
    bounds: Bounds = {
        name: (start, start * np.exp(-12.0), 1.0 if name in ("efficiency_ratio", "near_share_ratio") else np.inf)
        for name, start in form["start"].items()
    }
    truth = np.concatenate([np.log(part.rows.measured_s) for part in kin])

    def errors(constants: Constants) -> Array:
        trial = ExchangeFit(**form.get("fixed", {}), **constants)
        fits = {**known, profile: {**known.get(profile, {}), key: trial}}
        return np.asarray(np.log(np.concatenate([exchange_seconds(part, fits) for part in kin])) - truth)

    return ExchangeFit(**form.get("fixed", {}), **solve(errors, bounds, spreads=SPREADS))


def _form(library: str, kind: str) -> Form:
    return forms()["prepare" if kind == "prepare" else "trtllm" if library.startswith("trtllm") else library]


def fit_rows(kin: Sequence[Part]) -> Fits:
    """Constants from these rows: each scale-up network by itself, then the scale-out network on top."""
    near: dict[tuple[str, str], list[Part]] = defaultdict(list)
    far: dict[tuple[str, str], list[Part]] = defaultdict(list)
    for part in kin:
        profile = part.machine.planes["scale_up"].levels[-1].profile
        (far if part.nodes > 1 else near)[(profile, f"{part.library}.{part.kind}")].append(part)
    fits: Fits = defaultdict(dict)
    for (profile, key), same in sorted(near.items(), key=lambda item: (item[0][0], not item[0][1].endswith("prepare"))):
        form = _form(same[0].library, same[0].kind)
        fits[profile][key] = fit_kernel(same, form, profile=profile, key=key, known=dict(fits))
    for (profile, key), same in sorted(far.items(), key=lambda item: item[0]):
        form = forms()[f"{same[0].library} far"]
        fits[profile][key] = fit_kernel(same, form, profile=profile, key=key, known=dict(fits))
    return dict(fits)


WRITE_SHARE = 135 / 196
"""Of a die's Unified Bus port, what a stream of remote writes reaches (cm_v2 Table 1)."""


def fit_ascend(kin: Sequence[Part]) -> Fits:
    """CANN's fused kernels from four points of cm_v2 Table 7 (8 and 256 dies) and one small dispatch of xds_v6.

    Cores write each copy straight into remote memory; what a hop's latency adds per copy tells how many they keep in
    flight. The empty call is the dispatch's in both (a small combine is not published).
    """
    cann = {kind: [p for p in kin if p.kind == kind and p.library == "cann"] for kind in ("dispatch", "combine")}
    start = {"copy_s": 1e-7, "exposed_ratio": 0.03}
    fixed = {"efficiency_ratio": WRITE_SHARE}
    first = fit_kernel(
        cann["dispatch"],
        {"start": {**start, "floor_s": 1e-5}, "fixed": fixed},
        profile="ub-a3",
        key="cann.dispatch",
        known={},
    )
    form = {"start": start, "fixed": {**fixed, "floor_s": first.floor_s}}
    second = fit_kernel(cann["combine"], form, profile="ub-a3", key="cann.combine", known={})
    return {"ub-a3": {"cann.dispatch": first, "cann.combine": second}}


def _lean(fit: ExchangeFit) -> dict[str, float]:
    """Constants that do something: defaults and times or rates that a fit drove out of sight are left out."""
    return {
        k: v
        for k, v in stated(fit).items()
        if k == "floor_s" or not ((k.endswith("_bytes_per_s") and v > 1e14) or (k.endswith("_s") and v < 1e-11))
    }


def fit_exchange(folder: Path) -> Fitted:
    """Constants of all kernels from the calibrated rows under ``folder`` and from the published figures."""
    kin = [part.fitted() for part in exchange_parts(exchange_rows(folder))]
    carried = exchange_parts(row for row in exchange_published() if not row.held)
    fits = fit_rows(kin) | fit_ascend(carried)
    plain = {profile: {key: _lean(f) for key, f in keyed.items()} for profile, keyed in sorted(fits.items())}
    return Fitted(files={"exchange": plain}, rows=count(part.rows for part in [*kin, *carried]))
