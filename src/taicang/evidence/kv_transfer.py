"""Measured moves of KV caches between machines (Mooncake on eight RoCE ports of an H800 node)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from taicang.evidence.measured import Measured
from taicang.evidence.split import held_out
from taicang.evidence.tables import lines
from taicang.ops import Transfer

PORTS = 8
PORT_BYTES_PER_S = 25e9
"""The source states about 200 GB/s for the eight ports together."""


def moves_measured(folder: Path) -> Measured[Transfer]:
    """One rank's share of the moves of source ``mooncake_kv`` in ``published_serving.csv``; MB are 1e6 bytes."""
    listed = [line for line in lines(folder / "published_serving.csv") if line["src"] == "mooncake_kv"]
    read = [(line["id"], json.loads(line["extra"]), json.loads(line["seq"])) for line in listed]
    moves = [(name, extra, seq["isl"]) for name, extra, seq in read if "kv_transfer_ms" in extra]
    payload = np.array([extra["kv_mb"] * 1e6 / PORTS for _, extra, _ in moves])
    return Measured(
        suite="kv_transfer",
        system="hgx-h800",
        kernel="roce",
        op=Transfer(payload_bytes=payload, plane="rdma", distance=8),
        ids=tuple(name for name, _, _ in moves),
        measured_s=np.array([extra["kv_transfer_ms"] * 1e-3 for _, extra, _ in moves]),
        held=np.array([held_out("kv_transfer", length) for _, _, length in moves]),
    )
