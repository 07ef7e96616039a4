"""Score dispatch and combine against the shared tables and against published figures that the package carries."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from taicang.catalog import calibration
from taicang.cost.exchange import ExchangeFit
from taicang.evidence.exchange_rows import Row, parts, published, read
from taicang.evidence.fit_exchange import Fits, predict
from taicang.evidence.score import Outcome


def outcomes(folder: Path) -> list[Outcome]:
    """Suites "alltoall_gb200", "deepep_ll" and "deepep_normal" from the kernel tables in ``folder``; microseconds."""
    return _score(read(folder))


def ascend_outcomes() -> list[Outcome]:
    """Suite "ascend_operators": CloudMatrix384, from Table 7 of its paper and others; needs no shared folder."""
    return _score(row for row in published() if row.suite == "ascend_operators")


def h800_outcomes() -> list[Outcome]:
    """Suite "deepep_h800": published DeepEP latencies, all held out; H100 constants at H800's NVLink bandwidth."""
    return _score(row for row in published() if row.suite == "deepep_h800")


def _score(rows: Iterable[Row]) -> list[Outcome]:
    fits: Fits = {profile: dict(keyed) for profile, keyed in calibration.fits("exchange", ExchangeFit).items()}
    return [o for part in parts(rows) for o in part.rows.outcomes(partial(predict, part, fits), unit="us")]
