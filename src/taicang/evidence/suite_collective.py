"""Collectives and transfers against measurements: suites nccl, allreduce, published_collective and kv_transfer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from taicang.catalog import calibration
from taicang.cost.collective import Fits, Line, collective
from taicang.cost.transfer import transfer
from taicang.evidence.collective_rows import Row, custom_rows, level, machine_of, nccl_rows, scale_out
from taicang.evidence.fit_scale_out import predict_s
from taicang.evidence.kv_transfer import moves_measured
from taicang.evidence.published_collective import collectives
from taicang.evidence.score import Outcome
from taicang.ops import Collective, Transfer


def _kernels(suite: str, rows: Sequence[Row], fits: Fits) -> list[Outcome]:
    """One call of the formula per system, operation and flavour."""
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.system, row.kind, row.flavour].append(row)
    found: list[Outcome] = []
    for (system, _, flavour), group in groups.items():
        op = Collective(
            kind=group[0].kind,
            payload_bytes=np.array([r.payload_bytes for r in group]),
            ranks=np.array([float(r.ranks) for r in group]),
        )
        seconds = collective(op, machine_of(level(system)), fits, flavour).seconds
        what = group[0].kind if flavour == "nccl" else flavour
        found.extend(
            Outcome(
                id=row.id,
                suite=suite,
                group=f"{system} {what}",
                measured=row.measured_s * 1e6,
                predicted=float(predicted) * 1e6,
                unit="us",
                held_out=row.held_out,
            )
            for row, predicted in zip(group, np.asarray(seconds), strict=True)
        )
    return found


def _published(folder: Path, fits: Fits) -> list[Outcome]:
    launch_s = fits["host"]["eager/launch"].base_s
    found: list[Outcome] = []
    for row in collectives(folder):
        seconds = predict_s(row, fits) + (launch_s if row.eager else 0.0)
        busbw = row.payload_bytes * row.bus_ratio / seconds / 1e9
        found.append(
            Outcome(
                id=row.id,
                suite="published_collective",
                group=f"{row.source} {row.system} {row.kind}",
                measured=row.value,
                predicted=None if row.doubtful else (seconds * 1e6 if row.metric == "latency" else busbw),
                unit="us" if row.metric == "latency" else "GB/s",
                held_out=row.held_out,
                refused=row.doubtful,
            )
        )
    return found


def _moves(folder: Path, fits: Fits) -> list[Outcome]:
    found: list[Outcome] = []
    for move in moves_measured(folder):
        machine = machine_of(scale_out("roce", 16, move.bandwidth_bytes_per_s), plane="rdma")
        op = Transfer(payload_bytes=move.payload_bytes, plane="rdma", distance=8)
        found.append(
            Outcome(
                id=move.id,
                suite="kv_transfer",
                group="hgx-h800 roce",
                measured=move.measured_s * 1e3,
                predicted=float(transfer(op, machine, fits).seconds) * 1e3,
                unit="ms",
                held_out=move.held_out,
            )
        )
    return found


def outcomes(folder: Path) -> list[Outcome]:
    """All outcomes of the evidence ``folder``, with the constants that the package carries."""
    fits = calibration.fits("collective", Line)
    return [
        *_kernels("nccl", nccl_rows(folder), fits),
        *_kernels("allreduce", custom_rows(folder), fits),
        *_published(folder, fits),
        *_moves(folder, fits),
    ]
