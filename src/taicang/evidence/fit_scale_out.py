"""Fit what lies beyond the kernel tables: scale-out tiers, the eager launch, and bulk moves between machines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taicang.cost.collective import PROTOCOLS, Fits, Line, collective
from taicang.evidence.kv_transfer import moves_measured
from taicang.evidence.published_collective import OUTER, Published, collectives
from taicang.ops import Collective

# Read and write bandwidth of one die over the Unified Bus, as shares of its line rate (facts: 164-167 and 135-137 of
# 196 GB/s measured); a collective both reads and writes, so its lines get the geometric mean.
UB_READ_RATIO, UB_WRITE_RATIO = 165.5 / 196, 136.0 / 196
COPY_ENGINE_RATIO = 0.92
"""Peer copy by the copy engine: 276 of 300 GB/s (A100 sample of nvbandwidth); for lack of others, of any fabric."""
HOST_RATIO = 26.0 / 32.0
"""Pinned host to device over PCIe 4 x16 (same sample)."""


def predict_s(row: Published, fits: Fits) -> float:
    """Seconds that one published row should take, without the eager launch."""
    op = Collective(kind=row.kind, payload_bytes=row.payload_bytes, ranks=float(row.ranks))
    return float(collective(op, row.machine, fits).seconds)


def measured_s(row: Published) -> float:
    """Seconds that one published row took."""
    return row.value * 1e-6 if row.metric == "latency" else row.payload_bytes * row.bus_ratio / (row.value * 1e9)


def _fitted(rows: list[Published]) -> list[Published]:
    return [row for row in rows if not row.held_out and not row.doubtful]


def eager(folder: Path, fits: Fits) -> Line:
    """The launch that PyTorch adds to each collective of the single-node rows: median over small messages."""
    rows = [r for r in _fitted(collectives(folder)) if r.eager and len(r.machine.planes["scale_up"].levels) == 1]
    extra = [measured_s(r) - predict_s(r, fits) for r in rows if r.payload_bytes <= 2**19]
    return Line(base_s=float(np.median(extra)), hop_s=0.0, efficiency_ratio=1.0)


def scale_out_lines(folder: Path, fits: Fits) -> dict[str, dict[str, Line]]:
    """Lines of each measured scale-out; its protocols share a base and an efficiency: more the rows do not tell."""
    from scipy.optimize import least_squares  # noqa: PLC0415 - only fitting needs scipy

    found: dict[str, dict[str, Line]] = {}
    ub = {
        key: replace(line, efficiency_ratio=(UB_READ_RATIO * UB_WRITE_RATIO) ** 0.5)
        for key, line in fits["default"].items()
        if key.endswith("simple")
    }
    found["ub-a3"] = ub
    for profile in sorted({profile for profile, _ in OUTER.values()}):
        rows = [r for r in _fitted(collectives(folder)) if r.machine.planes["scale_up"].levels[-1].profile == profile]
        timed = any(r.eager for r in rows)  # otherwise only large messages: they tell nothing about the base
        goal = np.array([measured_s(r) for r in rows])

        def lines(x: NDArray[np.float64], timed: bool = timed) -> dict[str, Line]:
            made = {}
            for key, line in fits["default"].items():
                if key.split("/")[-1] in (*PROTOCOLS, "in_switch"):
                    base_s = float(np.exp(x[1])) if timed else line.base_s
                    made[key] = replace(
                        line, base_s=base_s, hop_s=max(line.hop_s, 5e-6), efficiency_ratio=float(np.exp(x[0]))
                    )
            return made

        def residual(
            x: NDArray[np.float64],
            profile: str = profile,
            rows: list[Published] = rows,
            goal: NDArray[np.float64] = goal,
        ) -> NDArray[np.float64]:
            trial = {**fits, profile: lines(x)}
            return np.log(np.array([predict_s(r, trial) for r in rows]) / goal)

        if rows:
            best = least_squares(
                residual,
                np.log([0.8, 5e-5][: 1 + timed]),
                bounds=(np.log([0.3, 1e-6][: 1 + timed]), np.log([1.0, 1e-3][: 1 + timed])),
                loss="soft_l1",
                f_scale=0.1,
            )
            found[profile] = lines(best.x)
    return found


def moves(folder: Path, fits: Fits) -> dict[str, dict[str, Line]]:
    """Lines of bulk moves: RoCE with a KV-transfer engine from measured rows, the rest from single measured figures."""
    rows = [row for row in moves_measured(folder) if not row.held_out]
    size = np.array([row.payload_bytes / row.bandwidth_bytes_per_s for row in rows])
    took = np.array([row.measured_s for row in rows])
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
