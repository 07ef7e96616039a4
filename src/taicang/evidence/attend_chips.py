"""Chips of the measured attention kernels, until the catalogue holds them (to be deleted then).

Figures: NVIDIA data sheets and whitepapers (dense peaks; GB200 and GB300 as their evidence was normalised).
"""

from __future__ import annotations

from types import MappingProxyType

from taicang.errors import NotModelled
from taicang.hardware import Chip, Memory

# system -> (profile, bf16, fp8, FP32 vector FLOP/s, SMs, memory B/s, level-2 bytes)
_CHIPS = MappingProxyType(
    {
        "a100_sxm": ("ampere", 312e12, None, 19.5e12, 108, 2.039e12, 40 * 2**20),
        "h100_sxm": ("hopper", 989e12, 1979e12, 67e12, 132, 3.35e12, 50 * 2**20),
        "h200_sxm": ("hopper", 989e12, 1979e12, 67e12, 132, 4.8e12, 50 * 2**20),
        "b200_sxm": ("blackwell", 2250e12, 4500e12, 80e12, 148, 8e12, 126e6),
        "b300_sxm": ("blackwell", 2250e12, 4500e12, 80e12, 148, 8e12, 126e6),
        "gb200": ("blackwell", 2500e12, 5000e12, 80e12, 148, 8e12, 126e6),
        "gb300": ("blackwell", 2500e12, 5000e12, 80e12, 148, 8e12, 126e6),
        "l40s": ("ada", 362e12, 733e12, 91.6e12, 142, 0.864e12, 96 * 2**20),
    }
)


def measured_chip(system: str) -> Chip:
    """The chip that a system name of the evidence stands for; ``NotModelled`` for others."""
    if system not in _CHIPS:
        raise NotModelled(f"no chip for the measured system {system!r}")
    profile, bf16, fp8, vector, cores, bandwidth, l2 = _CHIPS[system]
    peaks = {"bf16": bf16} | ({"fp8": fp8} if fp8 else {})
    return Chip(
        name=system,
        vendor="nvidia",
        dies=1,
        peak_flop_per_s=peaks,
        vector_flop_per_s=vector,
        cores=cores,
        vector_cores=cores,
        memory=Memory(capacity_bytes=80e9, bandwidth_bytes_per_s=bandwidth),
        l2_bytes=float(l2),
        profile=profile,
        measured=True,
        tdp_w=None,
        idle_w=None,
    )
