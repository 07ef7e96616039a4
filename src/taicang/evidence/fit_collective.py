"""Fit the lines of collectives and transfers: least squares on the log of the time, robust to protocol switches.

The forms (three protocols, one hop time per operation, one-shot and two-shot kernels of an engine, the sharpness of
the smooth minimum) were chosen by cross-validation inside the calibrated part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taicang.cost.collective import PROTOCOLS, SHOTS, Fits, Line, collective
from taicang.evidence.collective_rows import SYSTEMS, Row, custom_rows, level, machine_of, nccl_rows
from taicang.evidence.fit_scale_out import eager, measured_s, moves, scale_out_lines
from taicang.evidence.fitting import write
from taicang.evidence.published_collective import collectives
from taicang.hardware import Machine
from taicang.ops import Collective

Array = NDArray[np.float64]
Lines = dict[str, Line]
STARTS = 3
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
LIMITS = {"base_s": (5e-7, 1e-3), "hop_s": (1e-8, 2e-4), "efficiency_ratio": (5e-4, 1.0), "shared_ratio": (1e-3, 7.0)}

TWINS = {"gb200_nvl4": "nvlink-gb200"}
PRIOR = 0.1
"""Pull of each log constant towards its first guess, in log errors per unit: weak, but it keeps what the rows do not
tell from running to a limit (chosen by cross-validation: 8.3 % without, 8.0 % with it, 8.4 % at three times this)."""


def _guess(key: str) -> tuple[float, float]:
    return next(guess for name, guess in GUESS.items() if key.endswith(name) and (name != "ll" or "128" not in key))


def _lines(x: Array, keys: Sequence[str], shared: bool) -> Lines:
    """Unpack log parameters: a base and an efficiency per line; hop, own and shared ratio for all lines together."""
    count = len(keys)
    return {
        key: Line(
            base_s=float(np.exp(x[i])),
            hop_s=float(np.exp(x[2 * count])),
            efficiency_ratio=float(np.exp(x[count + i])),
            own_ratio=float(np.exp(x[2 * count + 1])),
            shared_ratio=float(np.exp(x[2 * count + 2])) if shared else 0.0,
        )
        for i, key in enumerate(keys)
    }


def fit_lines(rows: Sequence[Row], keys: Sequence[str], behind: Lines, machine: Machine, shared: bool) -> Lines:
    """Constants of ``keys`` that best price ``rows`` (one operation and flavour) beside the lines ``behind``."""
    from scipy.optimize import least_squares  # noqa: PLC0415 - only fitting needs scipy

    payload = np.array([r.payload_bytes for r in rows])
    ranks = np.array([float(r.ranks) for r in rows])
    measured = np.array([r.measured_s for r in rows])
    op = Collective(kind=rows[0].kind, payload_bytes=payload, ranks=ranks)
    profile = machine.planes["scale_up"].levels[0].profile
    flavour = rows[0].flavour if keys[0].endswith("shot") else "nccl"

    def residual(x: Array) -> Array:
        fits = {profile: behind | _lines(x, keys, shared)}
        errors = np.log(collective(op, machine, fits, flavour).seconds / measured)
        return np.concatenate([errors, PRIOR * (x - first)])

    guesses = [_guess(key) for key in keys]
    shortest = float(measured.min())
    first = np.log([g[0] * shortest for g in guesses] + [g[1] for g in guesses] + [1e-6, 0.5] + [0.5] * shared)
    spans = [LIMITS["base_s"]] * len(keys) + [LIMITS["efficiency_ratio"]] * len(keys)
    spans += [LIMITS["hop_s"], (2e-3, 1.0)] + [LIMITS["shared_ratio"]] * shared
    low, high = (np.log([span[i] for span in spans]) for i in (0, 1))
    random = np.random.default_rng(0)
    best = None
    for start in range(STARTS):
        x0 = np.clip(first + (random.normal(0.0, 0.4, first.size) if start else 0.0), low + 1e-3, high - 1e-3)
        found = least_squares(residual, x0, bounds=(low, high), loss="soft_l1", f_scale=0.1, max_nfev=80)
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    return _lines(best.x, keys, shared)


def _of(rows: Sequence[Row], test: Callable[[Row], bool]) -> list[Row]:
    return [row for row in rows if test(row)]


def large_rows(folder: Path, system: str) -> list[Row]:
    """Calibrated-on published all-reduces of one node of ``system``, large enough to show the switches' reduction."""
    return [
        Row(
            id=row.id,
            system=system,
            kind="all_reduce",
            flavour="nccl",
            ranks=row.ranks,
            payload_bytes=row.payload_bytes,
            measured_s=measured_s(row),
            held_out=False,
        )
        for row in collectives(folder)
        if row.eager
        and not row.held_out
        and row.kind == "all_reduce"
        and row.payload_bytes >= LARGE_BYTES
        and row.machine.planes["scale_up"].levels == (level(system),)
    ]


def level_lines(system: str, nccl: Sequence[Row], custom: Sequence[Row], known: Mapping[str, Lines]) -> Lines:
    """All lines of one system of the tables, from calibrated-on rows; ``known`` levels lend the switches' reduction."""
    machine = machine_of(level(system))
    shared = SYSTEMS[system][0].startswith("pcie")
    lines: Lines = {}
    here = _of(nccl, lambda r: r.system == system)
    if system in TWINS:  # the same links in another arrangement: the library's lines carry over
        lines |= {key: line for key, line in known[TWINS[system]].items() if key.startswith("all_reduce/")}
        lines = {key: line for key, line in lines.items() if not key.endswith(("shot", "in_switch"))}
    own = _of(custom, lambda r: r.system == system)
    for kind in sorted({r.kind for r in here or own} if not lines else ()):
        keys = [f"{kind}/{protocol}" for protocol in PROTOCOLS]
        behind: Lines = {}
        if kind == "all_reduce" and level(system).reduces:
            switch = "all_reduce/in_switch"
            lender = SWITCHES.get(SYSTEMS[system][0])
            if lender is None:
                keys.append(switch)
            else:
                behind = {switch: known[lender][switch]}
        lines |= behind | fit_lines([r for r in here or own if r.kind == kind], keys, behind, machine, shared)
    for flavour in sorted({r.flavour for r in own} if lines and (here or system in TWINS) else ()):
        keys = [f"all_reduce/{flavour}_{shot}" for shot in SHOTS]
        lines |= fit_lines([r for r in own if r.flavour == flavour], keys, lines, machine, shared)
    return lines


def typical(profiles: Mapping[str, Lines]) -> Lines:
    """Geometric means over the switched NVLink levels: what serves a level that nobody has measured (assumed)."""
    known = [lines for profile, lines in profiles.items() if profile.startswith("nvlink")]
    keys = sorted({key for lines in known for key in lines if not key.endswith("shot")})

    def mean(key: str, name: str) -> float:
        values = [getattr(lines[key], name) for lines in known if key in lines]
        return float(np.exp(np.mean(np.log(values))))

    return {
        key: Line(**{n: mean(key, n) for n in ("base_s", "hop_s", "efficiency_ratio", "own_ratio")}) for key in keys
    }


def plain(lines: Lines) -> dict[str, Any]:
    """Constants as plain data, zeros left out."""
    return {
        key: {n: v for n, v in asdict(line).items() if v or not n.endswith("_ratio")} for key, line in lines.items()
    }


def fit(folder: Path) -> Path:
    """Fit every level of the evidence ``folder`` and write ``collective.yaml``; seconds of work on one core."""
    nccl = [row for row in nccl_rows(folder) if not row.held_out]
    custom = [row for row in custom_rows(folder) if not row.held_out]
    profiles: dict[str, Lines] = {}
    for system, (profile, *_) in sorted(SYSTEMS.items(), key=lambda item: (item[0] in TWINS, item[1][0] in SWITCHES)):
        profiles[profile] = level_lines(system, nccl + large_rows(folder, system), custom, profiles)
    profiles["default"] = typical(profiles)
    fits: Fits = profiles
    for profile, lines in [*scale_out_lines(folder, fits).items(), *moves(folder, fits).items()]:
        profiles[profile] = profiles.get(profile, {}) | lines
    profiles["host"] = {"eager/launch": eager(folder, profiles)}
    return write(
        "collective",
        {profile: plain(lines) for profile, lines in profiles.items()},
        evidence=folder / "kernels" / "nccl.csv",
        rows=len(nccl) + len(custom),
        note="with custom_allreduce.csv, published_collective.csv and published_serving.csv; 'default' is assumed",
    )
