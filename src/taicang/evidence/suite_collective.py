"""Collectives and transfers against measurements: suites nccl, allreduce, published_collective and kv_transfer."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from taicang.catalog import calibration
from taicang.cost.collective import Fits, Line, collective
from taicang.cost.transfer import transfer
from taicang.evidence.collective_rows import custom_rows, flavour_of, level, machine_of, nccl_rows, scale_out
from taicang.evidence.fit_scale_out import predict_s
from taicang.evidence.kv_transfer import PORT_BYTES_PER_S, moves_measured
from taicang.evidence.measured import Measured
from taicang.evidence.published_collective import collectives
from taicang.evidence.score import Outcome
from taicang.ops import Collective
from taicang.units import Num


def _seconds(rows: Measured[Collective], fits: Fits) -> Num:
    return collective(rows.op, machine_of(level(rows.system)), fits, flavour_of(rows)).seconds


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
    rows = moves_measured(folder)
    machine = machine_of(scale_out("roce", 16, PORT_BYTES_PER_S), plane="rdma")
    return rows.outcomes(lambda: transfer(rows.op, machine, fits).seconds, unit="ms")


def outcomes(folder: Path) -> list[Outcome]:
    """All outcomes of the evidence ``folder``, with the constants that the package carries."""
    fits = calibration.fits("collective", Line)
    kernels = [*nccl_rows(folder), *custom_rows(folder)]
    return [
        *(outcome for rows in kernels for outcome in rows.outcomes(partial(_seconds, rows, fits), unit="us")),
        *_published(folder, fits),
        *_moves(folder, fits),
    ]
