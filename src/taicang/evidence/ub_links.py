"""Reads and writes over the Unified Bus as its paper measured them: half calibrates, half is held out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from taicang import catalog
from taicang.catalog import calibration
from taicang.evidence.fitting import write
from taicang.evidence.score import Outcome
from taicang.evidence.tables import CARRIED, Cells, lines
from taicang.fabric.links import VerbFit, message_s

FILE = CARRIED / "ub_links.csv"
PROFILE = "ub-a3"
SMALL_BYTES, LARGE_BYTES = 512.0, 1e12
"""Latency was measured with 512 bytes; bandwidth is that of a message without end."""
TIERS = {"node": 1, "supernode": 2}


def rate_bytes_per_s() -> float:
    """Line rate of a die."""
    return catalog.machine("cloudmatrix384").plane("scale_up").levels[1].bandwidth_bytes_per_s


def fit_links(folder: Path) -> Path:
    """Each verb from its row inside a node; one crossing from both verbs between NPUs of two nodes."""
    del folder  # the rows are carried
    rows = {row["id"]: row for row in lines(FILE)}
    crossings = [
        (float(rows[f"npu/{verb}/supernode"]["latency_us"]) - float(rows[f"npu/{verb}/node"]["latency_us"])) * 1e-6
        for verb in ("read", "write")
    ]
    keyed = {}
    for memory in ("npu", "cpu"):
        for verb in ("read", "write"):
            near = rows[f"{memory}/{verb}/node"]
            reached = float(near["bandwidth_gb_s"]) * 1e9
            keyed[f"{memory}/{verb}"] = {
                "efficiency_ratio": reached / rate_bytes_per_s(),
                "latency_s": float(near["latency_us"]) * 1e-6 - SMALL_BYTES / reached,
                "crossing_s": float(np.mean(crossings)),
            }
    return write("links", {PROFILE: keyed}, evidence=FILE, rows=len(keyed),
                 note="rows inside a node; the crossing from the latencies between NPUs of two nodes")  # fmt: skip


def outcomes() -> Iterator[Outcome]:
    """Suite "ub_links": bandwidth in GB/s and latency in us of each row."""
    fits = calibration.fits("links", VerbFit)[PROFILE]
    for row in lines(FILE):
        fit, tiers = fits[f"{row['memory']}/{row['verb']}"], TIERS[row["scope"]]
        for what, size in (("latency", SMALL_BYTES), ("bandwidth", LARGE_BYTES)):
            seconds = float(message_s(fit, size, rate_bytes_per_s(), tiers))
            yield Outcome(
                id=f"{row['id']}/{what}", suite="ub_links", group=f"{row['memory']} {row['verb']}",
                measured=float(row["latency_us" if what == "latency" else "bandwidth_gb_s"]),
                predicted=seconds * 1e6 if what == "latency" else size / seconds / 1e9,
                unit="us" if what == "latency" else "GB/s", held_out=_held(row, what),
            )  # fmt: skip


def _held(row: Cells, what: str) -> bool:
    return row["scope"] == "supernode" and not (what == "latency" and row["memory"] == "npu")
