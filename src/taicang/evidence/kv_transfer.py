"""Measured moves of KV caches between machines (Mooncake on eight RoCE ports of an H800 node)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from taicang.evidence.collective_rows import table
from taicang.evidence.split import held_out

PORTS = 8
PORT_BYTES_PER_S = 25e9
"""The source states about 200 GB/s for the eight ports together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One rank's share of a measured move."""

    id: str
    payload_bytes: float
    bandwidth_bytes_per_s: float
    measured_s: float
    held_out: bool


def moves_measured(folder: Path) -> list[Move]:
    """Rows of source ``mooncake_kv`` in ``published_serving.csv`` under the evidence ``folder``; MB are 1e6 bytes."""
    found = []
    for row in table(folder / "published_serving.csv"):
        if row["src"] != "mooncake_kv":
            continue
        extra, seq = json.loads(row["extra"]), json.loads(row["seq"])
        if "kv_transfer_ms" not in extra:
            continue
        found.append(
            Move(
                id=row["id"],
                payload_bytes=extra["kv_mb"] * 1e6 / PORTS,
                bandwidth_bytes_per_s=PORT_BYTES_PER_S,
                measured_s=extra["kv_transfer_ms"] * 1e-3,
                held_out=held_out("kv_transfer", seq["isl"]),
            )
        )
    return found
