"""Chips of the measured kernel tables (until the catalogue has them)."""

from __future__ import annotations

from taicang.errors import NotModelled
from taicang.hardware import Chip, Memory

_FIGURES: dict[str, tuple[str, int, float, float, float, float]] = {
    # profile, SMs, bandwidth TB/s, dense TFLOP/s in bf16, fp8, fp4
    "a100_sxm": ("a100", 108, 2.039, 312.0, 0.0, 0.0),
    "l40s": ("l40s", 142, 0.864, 362.0, 733.0, 0.0),
    "h100_sxm": ("h100", 132, 3.35, 989.0, 1979.0, 0.0),
    "h200_sxm": ("h200", 132, 4.8, 989.0, 1979.0, 0.0),
    "b200_sxm": ("b200", 148, 8.0, 2250.0, 4500.0, 9000.0),
    "b300_sxm": ("b300", 148, 8.0, 2250.0, 4500.0, 13500.0),
    "gb200": ("gb200", 148, 8.0, 2500.0, 5000.0, 10000.0),
    "gb300": ("gb300", 148, 8.0, 2500.0, 5000.0, 15000.0),
}


def chip_of(system: str) -> Chip:
    """The chip of a measured system; ``NotModelled`` if it is not among them."""
    if system not in _FIGURES:
        raise NotModelled(f"no figures for {system}")
    profile, cores, bandwidth, bf16, fp8, fp4 = _FIGURES[system]
    peaks = {key: tera * 1e12 for key, tera in (("bf16", bf16), ("fp8", fp8), ("fp4", fp4)) if tera}
    return Chip(
        name=system,
        vendor="nvidia",
        dies=1,
        peak_flop_per_s=peaks,
        vector_flop_per_s=60e12,
        cores=cores,
        vector_cores=cores,
        memory=Memory(capacity_bytes=80e9, bandwidth_bytes_per_s=bandwidth * 1e12),
        l2_bytes=50e6,
        profile=profile,
        measured=True,
        tdp_w=None,
        idle_w=None,
    )
