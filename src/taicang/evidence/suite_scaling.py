"""Scaling curves of one layout: step time of its largest run over that of its smallest, at the same work per chip.

A curve is the runs of one publisher, epoch, chip, model, format and layout that differ in data parallelism only. Equal
work per chip makes the ratio one where scaling is perfect, so its error is that of the curve's slope. All curves are
held out: their large ends are runs beyond the size that constants are fitted on.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from taicang.evidence.measured import answered
from taicang.evidence.score import Outcome
from taicang.evidence.suite_training import predict
from taicang.evidence.training_rows import FILE, Row, training_rows

LEAST = 2
"""Times that a curve's largest run has its smallest one's chips."""


def _curve(row: Row) -> tuple[object, ...]:
    raw, extra = row.raw, row.raw["extra"]
    par = {key: value for key, value in raw["par"].items() if key != "dp"}
    batch = raw["batch"].get("mbs"), raw["batch"].get("ga"), row.batch / row.count
    shape = extra.get("layers"), extra.get("hidden"), extra.get("recompute"), extra.get("submitter")
    return (row.source, raw["sw"], row.chip, row.model, raw["dtype"], json.dumps(par, sort_keys=True), batch, row.seq,
            *shape)  # fmt: skip


def curves(path: Path) -> list[tuple[Row, Row]]:
    """Smallest and largest run of every curve."""
    found = defaultdict(list)
    for row in training_rows(path) if path.is_file() else ():
        if not row.refused:
            found[_curve(row)].append(row)
    ends = [(min(rows, key=lambda row: row.count), max(rows, key=lambda row: row.count)) for rows in found.values()]
    return [(small, large) for small, large in ends if large.count >= LEAST * small.count]


def _slope(small: Row, large: Row) -> float:
    return predict(large).seconds / predict(small).seconds


def outcomes(folder: Path) -> Iterator[Outcome]:
    """One outcome per curve; a refusal names its reason."""
    for small, large in curves(folder / FILE):
        yield answered(
            partial(_slope, small, large),
            id=f"{small.id}:{large.id}", suite="training_scaling", group=f"{small.source} {small.chip}",
            measured=large.step_s / small.step_s, unit="x", held_out=True,
        )  # fmt: skip
