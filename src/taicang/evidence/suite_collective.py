"""Collectives, exchanges and moves beyond the kernel tables of ``kernels``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from taicang.catalog import calibration
from taicang.cost.collective import Line
from taicang.cost.exchange import ExchangeFit
from taicang.cost.transfer import transfer
from taicang.evidence import published_collective
from taicang.evidence.exchange_rows import Row, exchange_parts, exchange_published, exchange_rows, exchange_seconds
from taicang.evidence.fabrics import fabric_of, scale_out
from taicang.evidence.kv_transfer import PORT_BYTES_PER_S, moves_measured
from taicang.evidence.score import Outcome


def outcomes(folder: Path) -> Iterator[Outcome]:
    """Suites "published_collective", "kv_transfer", "alltoall_gb200", "deepep_ll" and "deepep_normal"."""
    yield from published_collective.outcomes(folder)
    moves, machine = moves_measured(folder), fabric_of(scale_out("roce", 16, PORT_BYTES_PER_S), plane="rdma")
    fits = calibration.fits("collective", Line)
    yield from moves.outcomes(lambda: transfer(moves.op, machine, fits).seconds, unit="ms")
    yield from call_outcomes(exchange_rows(folder))


def carried_calls(suite: str) -> list[Outcome]:
    """Published figures that the package carries: "ascend_operators" (CloudMatrix384) or "deepep_h800".

    The latter is all held out: H100 constants at H800's NVLink bandwidth.
    """
    return call_outcomes(row for row in exchange_published() if row.suite == suite)


def call_outcomes(rows: Iterable[Row]) -> list[Outcome]:
    """One outcome per dispatch or combine, in microseconds."""
    fits = calibration.fits("exchange", ExchangeFit)
    parts = exchange_parts(rows)
    return [o for part in parts for o in part.rows.outcomes(partial(exchange_seconds, part, fits), unit="us")]
