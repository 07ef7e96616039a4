"""Fit the lines of collectives and transfers: least squares on the log of the time, robust to protocol switches.

The forms (three protocols, one hop time per operation, one-shot and two-shot kernels of an engine, the sharpness of
the smooth minimum) were chosen by cross-validation inside the calibrated part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from taicang.cost.collective import PROTOCOLS, SHOTS, Line, collective
from taicang.evidence.fabrics import declared, fabric_of, level
from taicang.evidence.fit_scale_out import eager, moves, scale_out_lines
from taicang.evidence.fitting import Bounds, Constants, solve, stated, write
from taicang.evidence.kernels import kernel_rows
from taicang.evidence.measured import Measured, count, log_errors
from taicang.evidence.operators import flavour_of
from taicang.evidence.published_collective import collectives, measured_s, predict_s
from taicang.evidence.tables import Array
from taicang.hardware import Machine
from taicang.ops import Collective
from taicang.units import Num

Lines: TypeAlias = dict[str, Line]
Rows: TypeAlias = Measured[Collective]
SPREADS = (0.4, 0.4, 0.0)
NODE = 8.0
LARGE_BYTES = 2.0**26
"""From here on the published single-node rows of PyTorch tell about the fabric: the launch no longer counts."""
SWITCHES = {"nvlink-h100": "nvlink-h200", "nvlink-b300": "nvlink-b200", "nvlink-gb200": "nvlink-b200"}
SWITCHES |= {"nvlink-gb300": "nvlink-b200"}
"""Levels without a calibrated row of more than four ranks at large sizes -> a level with the same switches."""
# protocol -> first guess of base (in shortest measured times) and of efficiency
GUESS = {
    "ll": (0.8, 0.05),
    "ll128": (1.5, 0.3),
    "simple": (3.0, 0.8),
    "in_switch": (4.0, 0.6),
    "one_shot": (1.0, 0.5),
    "two_shot": (2.0, 0.5),
}
LIMITS = {
    "base_s": (5e-7, 1e-3),
    "hop_s": (1e-8, 2e-4),
    "efficiency_ratio": (5e-4, 1.0),
    "own_ratio": (2e-3, 1.0),
    "shared_ratio": (1e-3, 7.0),
    "shared_power": (0.01, 3.0),
}

TYPICAL = ("base_s", "hop_s", "efficiency_ratio", "own_ratio")
TWINS = {"gb200_nvl4": "nvlink-gb200"}
PRIOR = 0.1
"""Pull of each log constant towards its first guess, in log errors per unit: weak, but it keeps what the rows do not
tell from running to a limit (chosen by cross-validation: 8.3 % without, 8.0 % with it, 8.4 % at three times this)."""


def _guess(key: str) -> tuple[float, float]:
    return next(guess for name, guess in GUESS.items() if key.endswith(name) and (name != "ll" or "128" not in key))


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
        spreads=SPREADS,
        prior=PRIOR,
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
    if system in TWINS:  # the same links in another arrangement: the library's lines carry over
        lines |= {key: line for key, line in known[TWINS[system]].items() if key.startswith("all_reduce/")}
        lines = {key: line for key, line in lines.items() if not key.endswith(("shot", "in_switch"))}
    for kind in sorted({part.op.kind for part in here or own} if not lines else ()):
        keys = [f"{kind}/{protocol}" for protocol in PROTOCOLS]
        behind: Lines = {}
        if kind == "all_reduce" and level(system).reduces:
            switch = "all_reduce/in_switch"
            lender = SWITCHES.get(level(system).profile)
            if lender is None:
                keys.append(switch)
            else:
                behind = {switch: known[lender][switch]}
        parts = [part for part in here or own if part.op.kind == kind]
        lines |= behind | fit_lines(parts, keys, behind, machine, shared)
    for part in sorted(own, key=lambda part: part.kernel) if lines and (here or system in TWINS) else ():
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


def fit_collective(folder: Path) -> Path:
    """Fit every level of the evidence ``folder`` and write ``collective.yaml``; seconds of work on one core."""
    nccl = [part.fitted() for part in kernel_rows(folder, "nccl")]
    custom = [part.fitted() for part in kernel_rows(folder, "allreduce")]
    profiles: dict[str, Lines] = {}
    for system in sorted(declared()["levels"], key=lambda name: (name in TWINS, level(name).profile in SWITCHES)):
        profile = level(system).profile  # which a system without rows shares with one that has them
        lines = level_lines(system, nccl + large_rows(folder, system), custom, profiles)
        profiles[profile] = profiles.get(profile, {}) | lines
    profiles = spread(folder, profiles)
    profiles["default"] = typical(profiles)
    for profile, lines in [*scale_out_lines(folder, profiles).items(), *moves(folder, profiles).items()]:
        profiles[profile] = profiles.get(profile, {}) | lines
    profiles["host"] = {"eager/launch": eager(folder, profiles)}
    return write(
        "collective",
        {profile: {key: stated(line) for key, line in lines.items()} for profile, lines in profiles.items()},
        evidence=folder / "kernels" / "nccl.csv",
        rows=count([*nccl, *custom]),
        note="with custom_allreduce.csv, published_collective.csv and published_serving.csv; 'default' is assumed",
    )
