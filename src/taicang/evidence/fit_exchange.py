"""Fit the constants of dispatch and combine kernels on the calibrated part of the measured rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from taicang.cost.exchange import ExchangeFit, exchange, prepare
from taicang.evidence import fitting
from taicang.evidence.exchange_machines import CONGESTED, cloudmatrix384, nvidia
from taicang.evidence.exchange_rows import FILES, Row, operator, published, read
from taicang.hardware import Machine
from taicang.ops import ExchangeKind

Fits = dict[str, dict[str, ExchangeFit]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Which constants of a kernel are fitted, from where, and which are set."""

    start: Mapping[str, float]
    fixed: Mapping[str, float]


# The forms were chosen by cross-validation in three folds inside the calibrated rows.
FORMS: Mapping[str, Form] = {
    "deepep_ll": Form(
        start={
            "floor_s": 8e-6,
            "expert_s": 2e-8,
            "token_s": 3e-7,
            "core_bytes_per_s": 2e10,
            "efficiency_ratio": 0.5,
        },
        fixed={},
    ),
    "deepep_normal": Form(
        start={
            "floor_s": 25e-6,
            "token_s": 1e-7,
            "copy_s": 1e-7,
            "core_bytes_per_s": 2e10,
            "fill_bytes_per_s": 1e9,
            "efficiency_ratio": 0.7,
        },
        fixed={"sharpness": 2.0},
    ),
    "trtllm": Form(
        start={
            "floor_s": 8e-6,
            "sync_s": 1e-6,
            "token_s": 2e-8,
            "copy_s": 1e-9,
            "efficiency_ratio": 0.7,
            "spread_ratio": 0.03,
        },
        fixed={},
    ),
    "prepare": Form(start={"floor_s": 10e-6, "sync_s": 1e-6, "token_s": 7e-9}, fixed={}),
    "deepep_ll far": Form(start={"floor_s": 1e-5, "sync_s": 3e-6, "efficiency_ratio": 0.9}, fixed={}),
    "deepep_normal far": Form(
        start={
            "floor_s": 2e-5,
            "sync_s": 3e-6,
            "core_bytes_per_s": 2e10,
            "near_share_ratio": 0.5,
            "efficiency_ratio": 0.9,
        },
        fixed={},
    ),
}


def predict(rows: Sequence[Row], machine: Machine, fits: Fits) -> NDArray[np.float64]:
    """Seconds of rows of one kernel on one machine."""
    library, kind = rows[0].library.removesuffix("-sgl"), rows[0].kind
    op, setting = operator(list(rows), cast(ExchangeKind, "dispatch" if kind == "prepare" else kind))
    counts = prepare(op, machine, fits, library=library) if library in ("trtllm_twosided",) else 0.0
    if kind == "prepare":
        return np.asarray(counts, dtype=np.float64)
    seconds = exchange(op, machine, fits, library=library, setting=setting).seconds
    # The table times the count exchange by itself, the price of a dispatch holds both.
    return np.asarray(seconds - (counts if kind == "dispatch" else 0.0), dtype=np.float64)


def machine_of(row: Row) -> Machine:
    """The machine under a row."""
    if row.system == "cloudmatrix384":
        return cloudmatrix384()
    crowded = row.suite == "deepep_normal" and row.nodes > 4
    return nvidia(row.system, row.nodes, CONGESTED) if crowded else nvidia(row.system, row.nodes)


def by_nodes(rows: Sequence[Row]) -> list[tuple[list[Row], Machine]]:
    """Rows of one system parted by machine size."""
    parts: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        parts[(row.system, row.nodes)].append(row)
    return [(part, machine_of(part[0])) for part in parts.values()]


def fit_kernel(rows: Sequence[Row], form: Form, *, profile: str, key: str, known: Fits) -> ExchangeFit:
    """Least squares on log error with a soft loss (a few first-call outliers), from several starts."""
    from scipy.optimize import least_squares  # noqa: PLC0415

    parts = by_nodes(rows)
    names = list(form.start)
    truth = [np.log([r.measured_s for r in part]) for part, _ in parts]

    def made(x: NDArray[np.float64]) -> ExchangeFit:
        values: dict[str, Any] = {**form.fixed, **{n: float(np.exp(v)) for n, v in zip(names, x, strict=True)}}
        return ExchangeFit(**values)

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        fits = {**known, profile: {**known.get(profile, {}), key: made(x)}}
        return np.concatenate(
            [np.log(predict(part, machine, fits)) - t for (part, machine), t in zip(parts, truth, strict=True)]
        )

    start = np.log([form.start[n] for n in names])
    top = np.array([0.0 if n in ("efficiency_ratio", "near_share_ratio") else np.inf for n in names])
    rng = np.random.default_rng(0)
    best: Any = None
    for trial in range(4):
        x0 = np.minimum(start + (rng.normal(0.0, 0.7, len(names)) if trial else 0.0), top - 1e-3)
        low = start - 12.0
        found = least_squares(residuals, x0, bounds=(low, top), loss="soft_l1", f_scale=0.1, max_nfev=200)
        best = found if best is None or found.cost < best.cost else best
    return made(best.x)


def _form(library: str, kind: str) -> Form:
    return FORMS["prepare" if kind == "prepare" else "trtllm" if library.startswith("trtllm") else library]


def fit_rows(rows: Sequence[Row]) -> Fits:
    """Constants from ``rows``: each scale-up network by itself, then the scale-out network on top."""
    near: dict[tuple[str, str], list[Row]] = defaultdict(list)
    far: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        key = f"{row.library}.{row.kind}"
        where = far if row.nodes > 1 else near
        where[(machine_of(row).planes["scale_up"].levels[-1].profile, key)].append(row)
    fits: Fits = defaultdict(dict)
    for (profile, key), part in sorted(near.items(), key=lambda item: (item[0][0], not item[0][1].endswith("prepare"))):
        form = _form(part[0].library, part[0].kind)
        fits[profile][key] = fit_kernel(part, form, profile=profile, key=key, known=dict(fits))
    for (profile, key), part in sorted(far.items()):
        fits[profile][key] = fit_kernel(
            part, FORMS[f"{part[0].library} far"], profile=profile, key=key, known=dict(fits)
        )
    return dict(fits)


WRITE_SHARE = 135 / 196
"""Of a die's Unified Bus port, what a stream of remote writes reaches (cm_v2 Table 1)."""


def fit_ascend(rows: Sequence[Row]) -> Fits:
    """CANN's fused kernels from four points of cm_v2 Table 7 (8 and 256 dies) and one small dispatch of xds_v6.

    Cores write each copy straight into remote memory; what a hop's latency adds per copy tells how many they keep in
    flight. The empty call is the dispatch's in both (a small combine is not published).
    """
    parts = {kind: [r for r in rows if r.kind == kind and r.library == "cann"] for kind in ("dispatch", "combine")}
    start = {"copy_s": 1e-7, "exposed_ratio": 0.03}
    fixed = {"efficiency_ratio": WRITE_SHARE}
    first = fit_kernel(
        parts["dispatch"],
        Form(start={**start, "floor_s": 1e-5}, fixed=fixed),
        profile="ub-a3",
        key="cann.dispatch",
        known={},
    )
    form = Form(start=start, fixed={**fixed, "floor_s": first.floor_s})
    second = fit_kernel(parts["combine"], form, profile="ub-a3", key="cann.combine", known={})
    return {"ub-a3": {"cann.dispatch": first, "cann.combine": second}}


def _lean(fit: ExchangeFit) -> dict[str, float]:
    """Constants that do something: defaults and times or rates that a fit drove out of sight are left out."""
    default = asdict(ExchangeFit(floor_s=-1.0))
    shown = {k: v for k, v in asdict(fit).items() if v != default[k]}
    return {
        k: v
        for k, v in shown.items()
        if k == "floor_s" or not ((k.endswith("_bytes_per_s") and v > 1e14) or (k.endswith("_s") and v < 1e-11))
    }


def fit(folder: Path) -> Path:
    """Fit all kernels on the calibrated rows under ``folder`` and on the published figures; write ``exchange.yaml``."""
    rows = [r for r in read(folder) if not r.held]
    carried = [r for r in published() if not r.held]
    fits = fit_rows(rows) | fit_ascend(carried)
    plain = {profile: {key: _lean(f) for key, f in keyed.items()} for profile, keyed in sorted(fits.items())}
    note = (
        f"prints of {', '.join(f'{n} {fitting.fingerprint(folder / n)}' for n in FILES)}; "
        "cann from src/taicang/evidence/data/exchange_published.csv (8 and 256 dies and one small call)"
    )
    return fitting.write("exchange", plain, evidence=folder / FILES[2], rows=len(rows) + len(carried), note=note)
