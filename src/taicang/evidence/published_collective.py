"""Published bus bandwidths of whole machines, as operators on the fabrics that they were measured on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from taicang.evidence.collective_rows import KINDS, level, machine_of, scale_out
from taicang.evidence.split import held_out
from taicang.evidence.tables import Cells, lines
from taicang.hardware import Machine
from taicang.ops import CollectiveKind

LARGE_BYTES = 8 * 2.0**30
"""Assumed buffer behind a slide that says "large messages" (nccl-tests end at 8 or 16 GiB)."""
CHIPS = {"A100-80G": "a100_sxm", "H100-SXM": "h100_sxm", "H200-SXM": "h200_sxm", "B200": "b200_sxm", "B300": "b300_sxm"}
CHIPS |= {"GB200": "gb200", "GB300": "gb300"}
# scale-out of the multi-node rows -> (profile, one-way bandwidth of one rank's network port)
OUTER = {
    "DGX-A100 multi-node": ("ib-hdr", 25e9),
    "DGX-H100 multi-node": ("ib-ndr", 50e9),
    "P6-B200 4 nodes EFAv4": ("efa-v4", 50e9),
}


DOUBTFUL = {"col-0057": "first, cold call: 6.3 ms for 32 KiB, 17 times the next sizes; printed with one digit"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One published collective; ``metric`` "busbw" is in GB/s, "latency" in microseconds."""

    id: str
    source: str
    system: str
    kind: CollectiveKind
    metric: str
    value: float
    ranks: int
    payload_bytes: float
    eager: bool
    """Timed through PyTorch, launch by launch, rather than inside a graph or a benchmark loop."""
    machine: Machine
    held_out: bool
    doubtful: str = ""
    """Why the figure does not tell about the collective."""

    @property
    def bus_ratio(self) -> float:
        """Bus bytes per byte of payload (the convention of nccl-tests)."""
        passes = 2.0 if self.kind == "all_reduce" else 1.0
        return passes * (self.ranks - 1) / self.ranks


def _machine(row: Cells) -> Machine:
    said = f"{row['model']} {row['notes']}"
    switched = None
    if row["src"] == "nv_gtc" and row["model"] == "all_reduce":
        switched = "SHARP" in said  # the slide gives ring and in-switch figures side by side
    elif "NVLS off" in said:
        switched = False
    near = level(CHIPS[row["chip"]], reduces=switched)
    if row["system"] not in OUTER:
        return machine_of(near)
    profile, bandwidth = OUTER[row["system"]]
    return machine_of(near, scale_out(profile, int(row["count"]), bandwidth, reduces=switched is True))


def collectives(folder: Path) -> list[Published]:
    """The collectives of ``published_collective.csv`` whose machine is known; MoE kernels and copies are elsewhere.

    Rows that repeat the kernel table keep its split.
    """
    found = []
    for row in lines(folder / "published_collective.csv"):
        name, ranks = row["model"].split()[0], int(row["count"])
        if name not in KINDS or row["chip"] not in CHIPS:
            continue
        stated = json.loads(row["batch"] or "{}")
        size = float(stated.get("bytes", LARGE_BYTES))
        key: tuple[object, ...] = ("published_collective", row["model"], ranks, int(size))
        if row["src"] == "aic":
            key = ("nccl", name, ranks, int(size) // 2)
        found.append(
            Published(
                id=row["id"],
                source=row["src"],
                system=row["system"] if row["src"] != "aic" else row["chip"],
                kind=KINDS[name],
                metric=row["metric"],
                value=float(row["value"]),
                ranks=ranks,
                payload_bytes=size,
                eager="bytes" in stated and row["src"] == "stas_net",
                machine=_machine(row),
                held_out=held_out(*key),
                doubtful=DOUBTFUL.get(row["id"], ""),
            )
        )
    return found
