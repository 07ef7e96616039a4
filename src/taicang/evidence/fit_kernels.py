"""Constants of kernels from tables of them: attention, latent attention and experts, matrix products, exchanges.

The first are groups of rows that one driver fits. Rows of one key share constants where they run the same kernels: on
one die, or one architecture, whose constants are ratios to each chip's own peaks. An engine that has a column of its
own gets a set of its own, under ``key@engine``.

Matrix products go in two stages per format. First all chips together, which gives the constants that belong to the
kernels rather than to the chip (``shared``: they stay the same on all chips). Then each architecture alone, its chips
together, drawn towards the first stage's values by a weak prior, so that what few rows do not show stays at what the
others show. All constants of each chip alone were hardly better in cross-validation; but the clock that a chip sustains
under its power limit is its own, hence a third stage for ``own`` on each chip of an architecture with several.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from taicang.catalog.schema import ARCHITECTURE
from taicang.cost.attend_gqa import GqaDecodeFit, GqaPrefillFit
from taicang.cost.attend_mla import MlaDecodeFit, MlaPrefillFit
from taicang.cost.exchange import ExchangeFit
from taicang.cost.experts import ExpertsFit, dispatched_key
from taicang.cost.gemm import GemmFit, gemm
from taicang.evidence.exchange_rows import (
    Part,
    exchange_parts,
    exchange_published,
    exchange_rows,
    exchange_seconds,
)
from taicang.evidence.fitting import Bounds, Constants, Fitted, Group, declared_fits, solve, stated
from taicang.evidence.kernels import (
    ASCEND,
    ascend_gemm_rows,
    attend_seconds,
    experts_seconds,
    gemm_seconds,
    kernel_rows,
)
from taicang.evidence.measured import Measured, count, log_errors
from taicang.evidence.tables import Array
from taicang.hardware import Chip
from taicang.ops import Gemm

KERNEL_FITS: Mapping[str, type[Any]] = {
    "attend_prefill": GqaPrefillFit, "attend_decode": GqaDecodeFit, "mla_prefill": MlaPrefillFit,
    "mla_decode": MlaDecodeFit, "experts": ExpertsFit,
}  # fmt: skip
"""Calibration file -> the constants in it."""
BESIDE = ("beside", "least_tokens")
"""Constants that are said, not found, and that most kernels do without."""


def _key(rows: Measured[Any]) -> str:
    gathered = getattr(rows.op, "gathered", True)
    return rows.kernel if gathered else dispatched_key(rows.op.dtype)


def _shared(rows: Measured[Any], share: str) -> str:
    profile = rows.chip.profile
    die = declared_fits()["dies"].get(profile, profile)
    return {"profile": profile, "die": die}.get(share) or ARCHITECTURE[profile]


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
        if other := said.get("engines", {}).get("beside", {}).get(f"{share}/{key}"):
            origin = {"beside": other["runs"], "least_tokens": other["tokens"], **origin}
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
    few, many = float(engines["untiled"].get(key, 0)), engines["beside"].get(key, {"tokens": 0, "wider": 0})
    own = (rows.op.tokens >= many["tokens"]) & (rows.op.inter > many["wider"])
    return rows.where(np.broadcast_to(kept & (total > few) & own, len(rows.ids)))


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
        prior_ratio=said["engines"]["prior"] if engine else 0.0,
        made=lambda constants: {**{k: v for k, v in asdict(made(constants)).items() if k not in BESIDE}, **origin},
    )


def _known(fixed: Mapping[str, Any] | None, chip: Chip, kv_dtype: str) -> dict[str, Any]:
    """Constants that are not fitted; an 8-bit cache of latents is multiplied in FP8 where the chip can."""
    if fixed is None:
        return {}
    arithmetic = "fp8" if kv_dtype == "fp8" and "fp8" in chip.peak_flop_per_s else "bf16"
    return {"arithmetic": arithmetic, **fixed["all"], **fixed.get(chip.profile, {})}


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
            apart = [name for name in _declared()["bounds"] if name not in _declared()["shared"]]
            common = _drawn(members, pooled[dtype], apart)
            for rows in members:
                own = _drawn([rows], common, _declared()["own"]) if len(members) > 1 else common
                profiles.setdefault(rows.chip.profile, {})[dtype] = own
            if architecture == "blackwell":
                own_share, share_of_kin = _declared()["gb200"][dtype]
                clock = common.compute_efficiency_ratio * (own_share / share_of_kin)
                profiles.setdefault("gb200", {})[dtype] = replace(common, compute_efficiency_ratio=clock)
    cube = _ascend(ascend, pooled["bf16"])
    profiles[ASCEND] = {"bf16": cube, "int8": cube}
    streams = {
        profile: {"stream": {name: float(getattr(keyed["bf16"], name)) for name in _declared()["stream"]}}
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
    return np.asarray(_declared()["large_weight"] * np.log(gemm(op, rows.chip, fit).seconds / measured_s))


def _warm(rows: Measured[Gemm], fit: GemmFit) -> GemmFit:
    return replace(fit, **_declared()["warm"].get(rows.chip.profile, {}))


def _errors(kin: Sequence[Measured[Gemm]], fit: GemmFit) -> Array:
    """Log errors of all rows, and of the large product of each system where one is known."""
    near = [np.log(gemm_seconds(rows, _warm(rows, fit)) / rows.measured_s) for rows in kin]
    return np.concatenate(near + [_large_errors(rows, _warm(rows, fit)) for rows in kin])


def _pooled(kin: Sequence[Measured[Gemm]]) -> GemmFit:
    quantised = kin[0].op.dtype != "bf16"
    bounds: Bounds = {n: tuple(v) for n, v in _declared()["bounds"].items() if n != "quantise_ratio" or quantised}
    return GemmFit(**solve(lambda c: _errors(kin, GemmFit(**c)), bounds, spreads=_declared()["spreads"]))


def _drawn(kin: Sequence[Measured[Gemm]], towards: GemmFit, names: Sequence[str]) -> GemmFit:
    """``towards`` with the constants ``names`` fitted to ``kin``, drawn towards what they were."""
    declared = _declared()["bounds"]
    bounds: Bounds = {name: (getattr(towards, name), *declared[name][1:]) for name in names}
    usual = {name: declared[name][0] for name in names}
    best = solve(lambda c: _errors(kin, replace(towards, **c)), bounds, also=usual, prior=_declared()["prior"])
    return _warm(kin[0], replace(towards, **best))


def _ascend(rows: Measured[Gemm], pooled: GemmFit) -> GemmFit:
    fixed = replace(pooled, memory_efficiency_ratio=_declared()["ascend_stream_ratio"])
    declared = _declared()["bounds"]
    bounds: Bounds = {n: (getattr(pooled, n), *declared[n][1:]) for n in ("compute_efficiency_ratio", "fill_k")}
    return replace(fixed, **solve(lambda c: _errors([rows], replace(fixed, **c)), bounds))


Fits = dict[str, dict[str, ExchangeFit]]


Form: TypeAlias = Mapping[str, Mapping[str, float]]
"""Which constants of a kernel are fitted and from where ("start"), and which are set ("fixed")."""


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

    return ExchangeFit(**form.get("fixed", {}), **solve(errors, bounds, spreads=declared_fits()["exchange"]["spreads"]))


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
