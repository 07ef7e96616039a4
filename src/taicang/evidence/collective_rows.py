"""Measured collectives: readers of the evidence tables and the fabrics that they ran on.

In ``nccl.csv`` and ``custom_allreduce.csv`` ``message_size`` counts two-byte elements of the whole buffer: the output
of an all-gather, the input of everything else (checked: only so do large messages stay under the line rate).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from taicang import catalog
from taicang.evidence.measured import Measured
from taicang.evidence.split import held_out
from taicang.evidence.tables import Cells, column, grouped, lines
from taicang.hardware import Level, Machine, Plane
from taicang.ops import Collective, CollectiveKind

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


def _flavour(line: Cells) -> str:
    if line["kernel_source"].startswith("SGLang"):
        # A100 was measured before the change only
        old = line["system"] != "a100_sxm" and line["fwver"] in ("0.5.9", "0.5.10")
        return "sglang_v1" if old else "sglang"
    return "vllm" if line["kernel_source"].startswith("vLLM") else "trtllm"


def _part(listed: Sequence[Cells], suite: str, kind: CollectiveKind, kernel: str, key: str) -> Measured[Collective]:
    """Lines of one kernel on one system; the column ``key`` names the kernel for the evidence split."""
    ranks, size = column(listed, "num_gpus"), column(listed, "message_size")
    return Measured(
        suite=suite,
        system=listed[0]["system"],
        kernel=kernel,
        op=Collective(kind=kind, payload_bytes=size * ELEMENT_BYTES, ranks=ranks),
        ids=tuple(f"{suite}-{int(line['line']) - 2}" for line in listed),
        measured_s=column(listed, "latency_ms") * 1e-3,
        held=np.array([held_out(suite, line[key], line["num_gpus"], line["message_size"]) for line in listed]),
    )


def nccl_rows(folder: Path) -> list[Measured[Collective]]:
    """Rows of ``kernels/nccl.csv`` under the evidence ``folder``; the kernel is the operation."""
    parts = grouped(lines(folder / "kernels" / "nccl.csv"), "system", "op_name")
    kinds = [KINDS[listed[0]["op_name"]] for listed in parts]
    return [_part(listed, "nccl", kind, kind, "op_name") for listed, kind in zip(parts, kinds, strict=True)]


def custom_rows(folder: Path) -> list[Measured[Collective]]:
    """Rows of ``kernels/custom_allreduce.csv`` under the evidence ``folder``; the kernel is the engine's flavour."""
    listed = [
        {**line, "system": ELSEWHERE.get((line["system"], line["fwver"]), line["system"]), "flavour": _flavour(line)}
        for line in lines(folder / "kernels" / "custom_allreduce.csv")
    ]
    parts = grouped(listed, "system", "flavour")
    return [_part(part, "allreduce", "all_reduce", part[0]["flavour"], "kernel_source") for part in parts]


def flavour_of(rows: Measured[Collective]) -> str:
    """Kernels of the rows as ``cost.collective`` names them."""
    return "nccl" if rows.kernel == rows.op.kind else rows.kernel


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
    """A machine with one plane of these levels; the rest of it does not matter to a collective."""
    return replace(
        catalog.machine("hgx-h100"),
        name="measured",
        chips=levels[-1].ranks,
        chips_per_node=4 if levels[0].ranks == 72 else levels[0].ranks,  # a tray of the NVL72 runs four GPUs
        planes={plane: Plane(name=plane, levels=levels)},
    )
