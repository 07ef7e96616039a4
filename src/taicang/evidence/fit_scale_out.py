"""Fit what lies beyond the kernel tables: scale-out tiers, the eager launch, and bulk moves between machines."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from taicang.cost.collective import ADAPTERS, Fits, Line
from taicang.evidence.fabrics import declared
from taicang.evidence.fitting import Bounds, Constants, solve
from taicang.evidence.kv_transfer import PORT_BYTES_PER_S, moves_measured
from taicang.evidence.published_collective import Published, collectives, measured_s, predict_s
from taicang.evidence.tables import Array

# Read and write bandwidth of one die over the Unified Bus, as shares of its line rate (facts: 164-167 and 135-137 of
# 196 GB/s measured); a collective both reads and writes, so its lines get the geometric mean.
UB_READ_RATIO, UB_WRITE_RATIO = 165.5 / 196, 136.0 / 196
COPY_ENGINE_RATIO = 0.92
"""Peer copy by the copy engine: 276 of 300 GB/s (A100 sample of nvbandwidth); for lack of others, of any fabric."""
NETWORK = {"ll": (5e-6, 0.25), "ll128": (8.5e-6, 0.92), "simple": (14e-6, 1.0), "in_switch": (10.45e-6, 1.0)}
"""From GPU to GPU through two adapters and a switch, by protocol: a hop, and the share of the bytes that are data, as
the library's own tuner has them (NCCL, src/graph/tuning.cc: flags beside each word, or line; whole pieces wait for a
proxy, and twice as long in a tree)."""
HOST_RATIO = 26.0 / 32.0
"""Pinned host to device over PCIe 4 x16 (same sample)."""


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
        key: replace(line, efficiency_ratio=(UB_READ_RATIO * UB_WRITE_RATIO) ** 0.5)
        for key, line in fits["default"].items()
        if key.endswith("simple")
    }
    found["ub-a3"] = ub
    for profile in sorted({outer["profile"] for outer in declared()["outer"].values()}):
        rows = [r for r in _fitted(collectives(folder)) if r.machine.planes["scale_up"].levels[-1].profile == profile]
        timed = any(r.eager for r in rows)  # otherwise only large messages: they tell nothing about the base
        if not rows:
            continue
        bounds: Bounds = {"efficiency_ratio": (0.8, 0.3, 1.0)}
        if timed:
            bounds = {**bounds, "base_s": (5e-5, 1e-6, 1e-3)}
        best = solve(partial(_errors, rows, profile, fits), bounds)
        found[profile] = _lines(best, fits)
    known = [lines["all_gather/simple"].efficiency_ratio for name, lines in found.items() if name.startswith("ib-")]
    return found | {ADAPTERS: _lines({"efficiency_ratio": float(np.exp(np.mean(np.log(known))))}, fits)}


def _lines(constants: Constants, fits: Fits) -> dict[str, Line]:
    """The default lines of the library's own protocols with these constants, across a network (twice in an all-reduce);
    the own shard is copied in memory."""
    found = {}
    for key, line in fits["default"].items():
        kind, _, protocol = key.partition("/")
        if protocol not in NETWORK:
            continue
        hop_s, data_ratio = NETWORK[protocol]
        told = constants | {"efficiency_ratio": constants["efficiency_ratio"] * data_ratio, "own_ratio": 0.0}
        passes = {"all_reduce": 2.0, "all_reduce/simple": 4.0}  # up and down a tree
        found[key] = replace(line, hop_s=hop_s * passes.get(key, passes.get(kind, 1.0)), **told)
    return found


def _errors(rows: list[Published], profile: str, fits: Fits, constants: Constants) -> Array:
    trial = {**fits, profile: _lines(constants, fits)}
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
        "ub-a3": {"transfer/read": Line(base_s=launch_s, hop_s=1.9e-6, efficiency_ratio=UB_READ_RATIO)},
        "default": {
            "transfer/read": Line(base_s=launch_s, hop_s=0.0, efficiency_ratio=COPY_ENGINE_RATIO),
            "transfer/read/rdma": roce,
            "transfer/read/vpc": roce,
            "transfer/read/host": Line(base_s=launch_s, hop_s=0.0, efficiency_ratio=HOST_RATIO),
        },
    }
