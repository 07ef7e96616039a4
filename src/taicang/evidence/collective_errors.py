"""How far closed forms of collectives were off, by kind and by the links that the ranks meet over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from taicang.catalog import calibration
from taicang.catalog.trust import links_key, met
from taicang.cost.exchange import ExchangeFit
from taicang.evidence import operators
from taicang.evidence.exchange_rows import exchange_parts, exchange_published, exchange_rows, exchange_seconds
from taicang.evidence.fabrics import fabric_of, level
from taicang.evidence.fitting import quantiles
from taicang.evidence.kernels import kernel_rows
from taicang.evidence.measured import Measured, attempt
from taicang.evidence.published_collective import measured_s, predict_s, published, question
from taicang.hardware import Machine
from taicang.search.collective import flavour
from taicang.units import Num


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """One measured row that no fit has seen."""

    key: str
    """As ``catalog.trust.links_key``."""
    group: str
    """Rows of one source and system are one group."""
    ranks: int
    sent_bytes: float
    bytes_per_s: float
    """Of the links."""
    log_ratio: float
    """Logarithm of predicted over measured seconds."""


def errors(folder: Path) -> Iterator[Error]:
    """Every held-out row of a collective or an exchange in the evidence ``folder`` that is predicted."""
    for suite in ("nccl", "allreduce"):
        for rows in kernel_rows(folder, suite):
            machine = attempt(partial(_node, rows))[0]
            if machine is not None:
                seconds = operators.PRICES[suite](rows)
                name = operators.flavour_of(rows)
                yield from _of(rows, seconds, machine, rows.op.kind, name, rows.op.payload_bytes)
    for row, held in published(folder):
        if held and not row.doubtful and not row.eager:
            log = float(np.log(predict_s(row) / measured_s(row)))
            at = met(row.machine, row.ranks)
            yield Error(
                key=links_key(row.kind, at, flavour(question(row))), group=f"{row.source} {row.system}",
                ranks=row.ranks, sent_bytes=row.payload_bytes, bytes_per_s=at.bandwidth_bytes_per_s, log_ratio=log,
            )  # fmt: skip
    fits = calibration.fits("exchange", ExchangeFit)
    measured = exchange_rows(folder) if (folder / "kernels").is_dir() else []
    for part in exchange_parts([*measured, *exchange_published()]):
        if part.kind != "prepare":
            priced = attempt(partial(exchange_seconds, part, fits))[0]
            op = part.rows.op
            if priced is not None:
                yield from _of(part.rows, priced, part.machine, part.kind, "", op.tokens * op.token_bytes)


def _node(rows: Measured[Any]) -> Machine:
    return fabric_of(level(rows.system))


def _of(rows: Measured[Any], seconds: Num, machine: Machine, kind: str, name: str, sent: Any) -> Iterator[Error]:
    """Rows of one operator of arrays."""
    logs, ranks = np.log(seconds / rows.measured_s), np.broadcast_to(rows.op.ranks, rows.measured_s.shape)
    for i in np.flatnonzero(rows.held & np.isfinite(logs)):
        at = met(machine, float(ranks[i]))
        yield Error(
            key=links_key(kind, at, name), group=f"{rows.suite} {rows.system}", ranks=int(ranks[i]),
            sent_bytes=float(sent[i]), bytes_per_s=at.bandwidth_bytes_per_s, log_ratio=float(logs[i]),
        )  # fmt: skip


def collectives(folder: Path) -> dict[str, dict[str, Any]]:
    """Key -> rows, what was measured, and (median, ninth decile) of the errors, as ``catalog.trust`` reads them."""
    found: dict[str, list[Error]] = {}
    for one in errors(folder):
        found.setdefault(one.key, []).append(one)
    return {
        key: {
            "rows": len(rows),
            "errors": quantiles(np.abs([one.log_ratio for one in rows]), len({one.group for one in rows})),
            **{name: [f(getattr(one, name) for one in rows) for f in (min, max)]
               for name in ("ranks", "sent_bytes", "bytes_per_s")},
        }
        for key, rows in sorted(found.items())
        if len(rows) > 1
    }  # fmt: skip
