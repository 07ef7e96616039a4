"""Chips of the measured attention kernels: from the catalogue, or from here while it lacks them.

Figures of the stand-ins: NVIDIA data sheets and whitepapers, dense peaks.
"""

from __future__ import annotations

from types import MappingProxyType

from taicang import catalog
from taicang.errors import NotModelled, UnknownName
from taicang.hardware import Chip, Memory

# name in the catalogue -> (bf16, fp8, FP32 vector FLOP/s, SMs, memory B/s, level-2 bytes)
_STAND_INS = MappingProxyType(
    {
        "a100": (312e12, None, 19.5e12, 108, 2.039e12, 40 * 2**20),
        "b300": (2250e12, 4500e12, 75e12, 148, 8e12, 126e6),
        "gb300": (2500e12, 5000e12, 80e12, 152, 8e12, 126e6),
        "l40s": (362e12, 733e12, 91.6e12, 142, 0.864e12, 96 * 2**20),
    }
)


def measured_chip(system: str) -> Chip:
    """The chip that a system name of the evidence ("h100_sxm") stands for; ``NotModelled`` for others."""
    name = system.removesuffix("_sxm")
    try:
        return catalog.chip(name)
    except UnknownName:
        if name not in _STAND_INS:
            raise NotModelled(f"no chip for the measured system {system!r}") from None
    bf16, fp8, vector, cores, bandwidth, l2 = _STAND_INS[name]
    return Chip(
        name=name,
        vendor="NVIDIA",
        dies=1,
        peak_flop_per_s={"bf16": bf16} | ({"fp8": fp8} if fp8 else {}),
        vector_flop_per_s=vector,
        cores=cores,
        vector_cores=cores,
        memory=Memory(capacity_bytes=80e9, bandwidth_bytes_per_s=bandwidth),
        l2_bytes=float(l2),
        profile=name,
        measured=True,
        tdp_w=None,
        idle_w=None,
    )
