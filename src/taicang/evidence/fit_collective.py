"""Fit the lines of collectives and transfers: least squares on the log of the time, robust to protocol switches.

The forms (three protocols, one hop time per operation, one-shot and two-shot kernels of an engine, the sharpness of
the smooth minimum) were chosen by cross-validation inside the calibrated part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from taicang.cost.collective import ADAPTERS, PROTOCOLS, SHOTS, Fits, Line, collective
from taicang.evidence.fitting import Bounds, Constants, Fitted, declared_fits, solve, stated
from taicang.evidence.kernels import flavour_of, kernel_rows
from taicang.evidence.measured import Measured, count, log_errors
from taicang.evidence.suite_collective import (
    PORT_BYTES_PER_S,
    Published,
    collectives,
    measured_s,
    moves_measured,
    predict_s,
)
from taicang.evidence.systems import fabric_of, fabric_tables, level
from taicang.evidence.tables import Array
from taicang.hardware import Machine
from taicang.ops import Collective
from taicang.units import Num

Lines: TypeAlias = dict[str, Line]
Rows: TypeAlias = Measured[Collective]
NODE = 8.0
LARGE_BYTES = 2.0**26
"""From here on the published single-node rows of PyTorch tell about the fabric: the launch no longer counts."""
DECLARED: Mapping[str, Any] = declared_fits()["collective"]
LIMITS: Mapping[str, tuple[float, float]] = DECLARED["limits"]
TYPICAL = ("base_s", "hop_s", "efficiency_ratio", "own_ratio")


def _guess(key: str) -> tuple[float, float]:
    protocol: tuple[float, float] = next(
        guess for name, guess in DECLARED["guess"].items() if key.endswith(name) and (name != "ll" or "128" not in key)
    )
    return protocol


def _lines(constants: Constants, keys: Sequence[str]) -> Lines:
    """A base and an efficiency per line; hop, own and shared ratio are of all lines together."""
    return {
        key: Line(
            base_s=constants[f"base_s {key}"],
            hop_s=constants["hop_s"],
            efficiency_ratio=constants[f"efficiency_ratio {key}"],
            own_ratio=constants["own_ratio"],
            shared_ratio=constants.get("shared_ratio", 0.0),
            shared_power=constants.get("shared_power", 1.0),
        )
        for key in keys
    }


def fit_lines(parts: Sequence[Rows], keys: Sequence[str], behind: Lines, machine: Machine, shared: bool) -> Lines:
    """Constants of ``keys`` that best price ``parts`` (one operation and flavour) beside the lines ``behind``."""
    profile = machine.planes["scale_up"].levels[0].profile
    flavour = flavour_of(parts[0]) if keys[0].endswith("shot") else "nccl"
    shortest_s = min(float(part.measured_s.min()) for part in parts)
    guesses = {key: _guess(key) for key in keys}
    bounds: Bounds = {
        **{f"base_s {key}": (base * shortest_s, *LIMITS["base_s"]) for key, (base, _) in guesses.items()},
        **{f"efficiency_ratio {key}": (share, *LIMITS["efficiency_ratio"]) for key, (_, share) in guesses.items()},
        "hop_s": (1e-6, *LIMITS["hop_s"]),
        "own_ratio": (0.5, *LIMITS["own_ratio"]),
        **({name: (0.5, *LIMITS[name]) for name in ("shared_ratio", "shared_power")} if shared else {}),
    }

    def price(part: Rows, lines: Lines) -> Num:
        return collective(part.op, machine, {profile: behind | lines}, flavour).seconds

    best = solve(
        lambda c: log_errors(parts, lambda part: price(part, _lines(c, keys))),
        bounds,
        spreads=DECLARED["spreads"],
        prior=DECLARED["prior"],
        evaluations=80,
    )
    return _lines(best, keys)


def large_rows(folder: Path, system: str) -> list[Rows]:
    """Calibrated-on published all-reduces of one node of ``system``, large enough to show the switches' reduction."""
    chosen = [
        row
        for row in collectives(folder)
        if row.eager
        and not row.held_out
        and row.kind == "all_reduce"
        and row.payload_bytes >= LARGE_BYTES
        and row.machine.planes["scale_up"].levels == (level(system),)
    ]
    if not chosen:
        return []
    payload = np.array([row.payload_bytes for row in chosen])
    ranks = np.array([float(row.ranks) for row in chosen])
    rows = Measured(
        suite="published_collective",
        system=system,
        kernel="all_reduce",
        op=Collective(kind="all_reduce", payload_bytes=payload, ranks=ranks),
        ids=tuple(row.id for row in chosen),
        measured_s=np.array([measured_s(row) for row in chosen]),
        held=np.zeros(len(chosen), dtype=bool),
    )
    return [rows]


def level_lines(system: str, nccl: Sequence[Rows], custom: Sequence[Rows], known: Mapping[str, Lines]) -> Lines:
    """All lines of one system of the tables, from calibrated-on rows; ``known`` levels lend the switches' reduction."""
    machine = fabric_of(level(system))
    shared = level(system).profile.startswith("pcie")
    lines: Lines = {}
    here = [part for part in nccl if part.system == system]
    own = [part for part in custom if part.system == system]
    if system in DECLARED["twins"]:  # the same links in another arrangement: the library's lines carry over
        lines |= {key: line for key, line in known[DECLARED["twins"][system]].items() if key.startswith("all_reduce/")}
        lines = {key: line for key, line in lines.items() if not key.endswith(("shot", "in_switch"))}
    for kind in sorted({part.op.kind for part in here or own} if not lines else ()):
        keys = [f"{kind}/{protocol}" for protocol in PROTOCOLS]
        behind: Lines = {}
        if kind == "all_reduce" and level(system).reduces:
            switch = "all_reduce/in_switch"
            lender = DECLARED["switches"].get(level(system).profile)
            if lender is None:
                keys.append(switch)
            else:
                behind = {switch: known[lender][switch]}
        parts = [part for part in here or own if part.op.kind == kind]
        lines |= behind | fit_lines(parts, keys, behind, machine, shared)
    for part in sorted(own, key=lambda part: part.kernel) if lines and (here or system in DECLARED["twins"]) else ():
        keys = [f"all_reduce/{part.kernel}_{shot}" for shot in SHOTS]
        lines |= fit_lines([part], keys, lines, machine, shared)
    return lines


def spread(folder: Path, profiles: dict[str, Lines]) -> dict[str, Lines]:
    """``profiles`` whose switches take longer the more ranks they wait for, as large groups of NVL72 show.

    What one doubling adds comes from calibrated-on rows of more ranks than a node has; what nodes reach stays.
    """
    key = "all_reduce/in_switch"
    rows = [row for row in collectives(folder) if not row.held_out and row.kind == "all_reduce" and not row.doubtful]
    rows = [row for row in rows if NODE < row.ranks <= row.machine.planes["scale_up"].levels[0].ranks]
    rows = [row for row in rows if row.machine.planes["scale_up"].levels[0].reduces]

    def trial(ratio: float) -> dict[str, Lines]:
        kept = 1.0 + ratio * np.log2(NODE)
        return {
            name: {
                each: replace(line, efficiency_ratio=line.efficiency_ratio * kept, spread_ratio=ratio)
                if each == key
                else line
                for each, line in lines.items()
            }
            for name, lines in profiles.items()
        }

    def errors(constants: Constants) -> Array:
        fits = trial(constants["spread_ratio"])
        return np.asarray(np.log([predict_s(row, fits) / measured_s(row) for row in rows]), dtype=np.float64)

    return trial(solve(errors, {"spread_ratio": (0.05, 1e-3, 0.3)})["spread_ratio"])


def typical(profiles: Mapping[str, Lines]) -> Lines:
    """Geometric means over the switched NVLink levels: what serves a level that nobody has measured (assumed)."""
    known = [lines for profile, lines in profiles.items() if profile.startswith("nvlink")]
    keys = sorted({key for lines in known for key in lines if not key.endswith("shot")})

    def mean(key: str, name: str) -> float:
        values = [getattr(lines[key], name) for lines in known if key in lines]
        return float(np.exp(np.mean(np.log(values))))

    return {
        key: Line(**{n: mean(key, n) for n in (*TYPICAL, *(("spread_ratio",) if key.endswith("in_switch") else ()))})
        for key in keys
    }


def fit_collective(folder: Path) -> Fitted:
    """Lines of every level of the evidence ``folder``."""
    nccl = [part.fitted() for part in kernel_rows(folder, "nccl")]
    custom = [part.fitted() for part in kernel_rows(folder, "allreduce")]
    profiles: dict[str, Lines] = {}
    for system in sorted(
        fabric_tables()["levels"],
        key=lambda name: (name in DECLARED["twins"], level(name).profile in DECLARED["switches"]),
    ):
        profile = level(system).profile  # which a system without rows shares with one that has them
        lines = level_lines(system, nccl + large_rows(folder, system), custom, profiles)
        profiles[profile] = profiles.get(profile, {}) | lines
    profiles = spread(folder, profiles)
    profiles["default"] = typical(profiles)
    for profile, lines in [*scale_out_lines(folder, profiles).items(), *moves(folder, profiles).items()]:
        profiles[profile] = profiles.get(profile, {}) | lines
    profiles["host"] = {"eager/launch": eager(folder, profiles)}
    plain = {profile: {key: stated(line) for key, line in lines.items()} for profile, lines in profiles.items()}
    return Fitted(files={"collective": plain}, rows=count([*nccl, *custom]))


def _reached(what: str) -> float:
    """Share of a line rate that the declared figures ``what`` reach."""
    reached, line = DECLARED["reached"][what]
    return float(reached / line)


def _fitted(rows: list[Published]) -> list[Published]:
    return [row for row in rows if not row.held_out and not row.doubtful]


def eager(folder: Path, fits: Fits) -> Line:
    """The launch that PyTorch adds to each collective of the single-node rows: median over small messages."""
    rows = [r for r in _fitted(collectives(folder)) if r.eager and len(r.machine.planes["scale_up"].levels) == 1]
    extra = [measured_s(r) - predict_s(r, fits) for r in rows if r.payload_bytes <= 2**19]
    return Line(base_s=float(np.median(extra)), hop_s=0.0, efficiency_ratio=1.0)


def scale_out_lines(folder: Path, fits: Fits) -> dict[str, dict[str, Line]]:
    """Lines of each measured scale-out, and of adapters that nobody has measured (as InfiniBand in the mean: assumed).

    Protocols of one share a base and an efficiency: more the rows do not tell.
    """
    found: dict[str, dict[str, Line]] = {}
    ub = {
        key: replace(line, efficiency_ratio=(_reached("bus_read") * _reached("bus_write")) ** 0.5)
        for key, line in fits["default"].items()
        if key.endswith("simple")
    }
    found["ub-a3"] = ub
    for profile in sorted({outer["profile"] for outer in fabric_tables()["outer"].values()}):
        rows = [r for r in _fitted(collectives(folder)) if r.machine.planes["scale_up"].levels[-1].profile == profile]
        timed = any(r.eager for r in rows)  # otherwise only large messages: they tell nothing about the base
        if not rows:
            continue
        bounds: Bounds = {"efficiency_ratio": (0.8, 0.3, 1.0)}
        if timed:
            bounds = {**bounds, "base_s": (5e-5, 1e-6, 1e-3)}
        best = solve(partial(_outer_errors, rows, profile, fits), bounds)
        found[profile] = _outer_lines(best, fits)
    known = [lines["all_gather/simple"].efficiency_ratio for name, lines in found.items() if name.startswith("ib-")]
    return found | {ADAPTERS: _outer_lines({"efficiency_ratio": float(np.exp(np.mean(np.log(known))))}, fits)}


def _outer_lines(constants: Constants, fits: Fits) -> dict[str, Line]:
    """The default lines of the library's own protocols with these constants, across a network (twice in an all-reduce);
    the own shard is copied in memory."""
    found = {}
    for key, line in fits["default"].items():
        kind, _, protocol = key.partition("/")
        if protocol not in DECLARED["network"]:
            continue
        hop_s, data_ratio = DECLARED["network"][protocol]
        told = constants | {"efficiency_ratio": constants["efficiency_ratio"] * data_ratio, "own_ratio": 0.0}
        passes = {"all_reduce": 2.0, "all_reduce/simple": 4.0}  # up and down a tree
        found[key] = replace(line, hop_s=hop_s * passes.get(key, passes.get(kind, 1.0)), **told)
    return found


def _outer_errors(rows: list[Published], profile: str, fits: Fits, constants: Constants) -> Array:
    trial = {**fits, profile: _outer_lines(constants, fits)}
    found: Array = np.log(np.array([predict_s(row, trial) / measured_s(row) for row in rows]))
    return found


def moves(folder: Path, fits: Fits) -> dict[str, dict[str, Line]]:
    """Lines of bulk moves: RoCE with a KV-transfer engine from measured rows, the rest from single measured figures."""
    rows = moves_measured(folder).fitted()
    size = np.asarray(rows.op.payload_bytes / PORT_BYTES_PER_S)
    took = rows.measured_s
    weight = 1.0 / took  # least squares of the relative error
    design = np.stack([np.ones_like(size), size], axis=1) * weight[:, None]
    (base_s, slope), *_ = np.linalg.lstsq(design, took * weight, rcond=None)
    roce = Line(base_s=float(base_s), hop_s=5e-6, efficiency_ratio=float(1.0 / slope))
    launch_s = fits["default"]["all_to_all/ll"].base_s  # two ranks that exchange nothing
    return {
        "roce": {"transfer/read": roce},
        "ub-a3": {"transfer/read": Line(base_s=launch_s, hop_s=1.9e-6, efficiency_ratio=_reached("bus_read"))},
        "default": {
            "transfer/read": Line(base_s=launch_s, hop_s=0.0, efficiency_ratio=_reached("copy")),
            "transfer/read/rdma": roce,
            "transfer/read/vpc": roce,
            "transfer/read/host": Line(base_s=launch_s, hop_s=0.0, efficiency_ratio=_reached("host")),
        },
    }
