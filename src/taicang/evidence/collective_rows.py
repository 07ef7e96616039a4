"""Measured collectives: readers of the evidence tables and the fabrics that they ran on.

In ``nccl.csv`` and ``custom_allreduce.csv`` ``message_size`` counts two-byte elements of the whole buffer: the output
of an all-gather, the input of everything else (checked: only so do large messages stay under the line rate).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taicang.evidence.split import held_out
from taicang.hardware import Chip, Level, Machine, Memory, Plane
from taicang.ops import CollectiveKind

ELEMENT_BYTES = 2.0
KINDS: dict[str, CollectiveKind] = {
    "all_gather": "all_gather",
    "all_reduce": "all_reduce",
    "alltoall": "all_to_all",
    "reduce_scatter": "reduce_scatter",
}
# system of the tables -> (profile, one-way bandwidth of a rank, ranks of the level, whether switches reduce)
# SGLang 0.5.12 was measured on another L40S host than everything else, whose ranks do not share a bus. SGLang 0.5.9 and
# vLLM from 0.19 saw a third of the bandwidth between two GB200 and all of it among four: an NVL4 mesh, not an NVL72.
SYSTEMS: dict[str, tuple[str, float, int, bool]] = {
    "a100_sxm": ("nvlink-a100", 300e9, 8, False),
    "h100_sxm": ("nvlink-h100", 450e9, 8, True),
    "h200_sxm": ("nvlink-h200", 450e9, 8, True),
    "b200_sxm": ("nvlink-b200", 900e9, 8, True),
    "b300_sxm": ("nvlink-b300", 900e9, 8, True),
    "gb200": ("nvlink-gb200", 900e9, 72, True),
    "gb200_nvl4": ("nvlink-gb200-nvl4", 900e9, 4, False),
    "gb300": ("nvlink-gb300", 900e9, 72, True),
    "l40s": ("pcie-l40s", 32e9, 8, False),
    "l40s_b": ("pcie-l40s-b", 32e9, 8, False),
    "rtx_pro_6000_server": ("pcie-rtx6000", 64e9, 8, False),
}
ELSEWHERE = {("l40s", "0.5.12"): "l40s_b"} | {("gb200", v): "gb200_nvl4" for v in ("0.5.9", "0.19.0", "0.24.0")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured collective."""

    id: str
    system: str
    kind: CollectiveKind
    flavour: str
    ranks: int
    payload_bytes: float
    measured_s: float
    held_out: bool


def table(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a CSV file as dictionaries."""
    with path.open(newline="", encoding="utf-8") as lines:
        yield from csv.DictReader(lines)


def _flavour(kernel: str, version: str, system: str) -> str:
    if kernel.startswith("SGLang"):
        newest = system == "a100_sxm" or version not in ("0.5.9", "0.5.10")  # A100 was measured before the change only
        return "sglang" if newest else "sglang_v1"
    return "vllm" if kernel.startswith("vLLM") else "trtllm"


def nccl_rows(folder: Path) -> list[Row]:
    """Rows of ``kernels/nccl.csv`` under the evidence ``folder``."""
    rows = []
    for number, r in enumerate(table(folder / "kernels" / "nccl.csv")):
        ranks, size = int(r["num_gpus"]), int(r["message_size"])
        rows.append(
            Row(
                id=f"nccl-{number}",
                system=r["system"],
                kind=KINDS[r["op_name"]],
                flavour="nccl",
                ranks=ranks,
                payload_bytes=size * ELEMENT_BYTES,
                measured_s=float(r["latency_ms"]) * 1e-3,
                held_out=held_out("nccl", r["op_name"], ranks, size),
            )
        )
    return rows


def custom_rows(folder: Path) -> list[Row]:
    """Rows of ``kernels/custom_allreduce.csv`` under the evidence ``folder``."""
    rows = []
    for number, r in enumerate(table(folder / "kernels" / "custom_allreduce.csv")):
        ranks, size, kernel = int(r["num_gpus"]), int(r["message_size"]), r["kernel_source"]
        rows.append(
            Row(
                id=f"allreduce-{number}",
                system=ELSEWHERE.get((r["system"], r["fwver"]), r["system"]),
                kind="all_reduce",
                flavour=_flavour(kernel, r["fwver"], r["system"]),
                ranks=ranks,
                payload_bytes=size * ELEMENT_BYTES,
                measured_s=float(r["latency_ms"]) * 1e-3,
                held_out=held_out("allreduce", kernel, ranks, size),
            )
        )
    return rows


def published_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of ``published_collective.csv`` that are plain collectives or copies; JSON columns are read."""
    rows: list[dict[str, Any]] = []
    for r in table(folder / "published_collective.csv"):
        if not r["model"].startswith("MoE"):
            rows.append({**r, "batch": json.loads(r["batch"] or "{}"), "extra": json.loads(r["extra"] or "{}")})
    return rows


def level(system: str, *, reduces: bool | None = None) -> Level:
    """The level that ``system`` of the tables was measured on; ``reduces`` switches in-switch reduction off or on."""
    profile, bandwidth, ranks, has = SYSTEMS[system]
    return Level(
        name="node",
        ranks=ranks,
        bandwidth_bytes_per_s=bandwidth,
        latency_s=1e-6,
        topology="mesh" if system == "gb200_nvl4" else "switch",
        reduces=has if reduces is None else reduces,
        profile=profile,
    )


def scale_out(profile: str, ranks: int, bandwidth_bytes_per_s: float, *, reduces: bool = False) -> Level:
    """A scale-out tier that joins nodes into a cluster of ``ranks``."""
    return Level(
        name="scale_out",
        ranks=ranks,
        bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        latency_s=5e-6,
        topology="clos",
        reduces=reduces,
        profile=profile,
    )


def machine_of(*levels: Level, plane: str = "scale_up") -> Machine:
    """A machine with one plane of these levels; its chip does not matter to a collective."""
    chip = Chip(
        name="any",
        vendor="any",
        dies=1,
        peak_flop_per_s={},
        vector_flop_per_s=0.0,
        cores=1,
        vector_cores=1,
        memory=Memory(capacity_bytes=0.0, bandwidth_bytes_per_s=1e12),
        l2_bytes=0.0,
        profile="",
        measured=False,
        tdp_w=None,
        idle_w=None,
    )
    return Machine(
        name="measured",
        chip=chip,
        chips=levels[-1].ranks,
        chips_per_node=4 if levels[0].ranks == 72 else levels[0].ranks,  # a tray of the NVL72 runs four GPUs
        planes={plane: Plane(name=plane, levels=levels)},
        host_memory_bytes=0.0,
        power_w=None,
        pue_ratio=1.0,
        price_usd=None,
        status="measured",
    )
