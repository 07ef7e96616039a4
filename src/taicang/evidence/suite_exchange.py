"""Score dispatch and combine against the shared tables and against published figures that the package carries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from taicang.catalog import calibration
from taicang.cost.exchange import ExchangeFit
from taicang.evidence.exchange_rows import Row, published, read
from taicang.evidence.fit_exchange import Fits, machine_of, predict
from taicang.evidence.score import Outcome


def outcomes(folder: Path) -> list[Outcome]:
    """Suites "alltoall_gb200", "deepep_ll" and "deepep_normal" from the kernel tables in ``folder``; microseconds."""
    return _score(read(folder))


def ascend_outcomes() -> list[Outcome]:
    """Suite "ascend_operators": CloudMatrix384, from Table 7 of its paper and others; needs no shared folder."""
    return _score([r for r in published() if r.suite == "ascend_operators"])


def h800_outcomes() -> list[Outcome]:
    """Suite "deepep_h800": published DeepEP latencies, all held out; H100 constants at H800's NVLink bandwidth."""
    return _score([r for r in published() if r.suite == "deepep_h800"])


def _score(rows: Iterable[Row]) -> list[Outcome]:
    fits: Fits = {p: dict(keyed) for p, keyed in calibration.fits("exchange", ExchangeFit).items()}
    parts: dict[tuple[str, int, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        parts[(row.system, row.nodes, row.library, row.kind)].append(row)
    scored: list[Outcome] = []
    for part in parts.values():
        for row, seconds in zip(part, predict(part, machine_of(part[0]), fits), strict=True):
            where = row.system if row.nodes == 1 else f"{row.system}x{row.nodes}"
            # Times out of a running service hold waiting for other ranks, which the kernel's price leaves out.
            live = " in-service" if row.id.startswith("xds_v6/s6") else ""
            scored.append(
                Outcome(
                    id=row.id,
                    suite=row.suite,
                    group=f"{where} {row.library} {row.kind}{live}",
                    measured=row.measured_s * 1e6,
                    predicted=float(seconds) * 1e6,
                    unit="us",
                    held_out=row.held,
                )
            )
    return scored
