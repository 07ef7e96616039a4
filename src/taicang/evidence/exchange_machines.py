"""The machines under the exchange tables, by the tables' names."""

from __future__ import annotations

from functools import cache

from taicang.hardware import Chip, Level, Machine, Memory, Plane

# system -> (chip, ranks in the NVLink domain, NVLink B/s per rank, SMs, profile)
_NVIDIA = {
    "h100_sxm": ("h100-sxm", 8, 450e9, 132, "nvlink-h100"),
    "h200_sxm": ("h200-sxm", 8, 450e9, 132, "nvlink-h200"),
    "h800": ("h800-sxm", 8, 200e9, 132, "nvlink-h100"),
    "h800-nic": ("h800-sxm", 1, 200e9, 132, "nvlink-h100"),  # the first DeepEP: every copy through the NIC
    "b200_sxm": ("b200-sxm", 8, 900e9, 148, "nvlink-b200"),
    "b300_sxm": ("b300-sxm", 8, 900e9, 148, "nvlink-b300"),
    "gb200": ("gb200", 72, 900e9, 152, "nvlink-gb200"),
    "gb300": ("gb300", 72, 900e9, 152, "nvlink-gb300"),
}


def _machine(name: str, chips: int, per_node: int, cores: int, dies: int, levels: tuple[Level, ...]) -> Machine:
    chip = Chip(
        name=name,
        vendor="huawei" if dies == 2 else "nvidia",
        dies=dies,
        peak_flop_per_s={},
        vector_flop_per_s=1e13,
        cores=cores,
        vector_cores=2 * cores,
        memory=Memory(capacity_bytes=64e9, bandwidth_bytes_per_s=1.6e12),
        l2_bytes=5e7,
        profile=name,
        measured=True,
        tdp_w=None,
        idle_w=None,
    )
    return Machine(
        name=f"{name} x {chips}",
        chip=chip,
        chips=chips,
        chips_per_node=per_node,
        planes={"scale_up": Plane(name="scale_up", levels=levels)},
        host_memory_bytes=0.0,
        power_w=None,
        pue_ratio=1.1,
        price_usd=None,
        status="measured",
    )


def _level(name: str, ranks: int, rate: float, latency: float, profile: str) -> Level:
    return Level(
        name=name, ranks=ranks, bandwidth_bytes_per_s=rate, latency_s=latency, topology="switch", profile=profile
    )


CONGESTED = "ib-ndr-congested"
"""The network of the eight-node runs of DeepEP normal: a third of the rate that four nodes of the same cluster reach,
and of what DeepSeek publishes for 64 GPUs. Constants of its own keep it from speaking for InfiniBand at large."""


@cache
def nvidia(system: str, nodes: int, network: str = "ib-ndr") -> Machine:
    """``nodes`` NVLink domains of ``system`` behind one 400 Gb/s NIC per GPU."""
    chip, ranks, rate, cores, profile = _NVIDIA[system]
    levels: tuple[Level, ...] = (_level("nvlink", ranks, rate, 1e-6, profile),)
    if nodes > 1:
        levels += (_level("scale_out", ranks * nodes, 50e9, 3e-6, network),)
    return _machine(chip, ranks * nodes, ranks, cores, 1, levels)


@cache
def cloudmatrix384() -> Machine:
    """CloudMatrix384: die pairs, nodes of 8 packages, 48 nodes, all on Unified Bus (cm_v2 3.3 and Table 1)."""
    levels = (
        _level("package", 2, 270e9, 0.2e-6, "ub-a3"),
        _level("node", 16, 196e9, 1.2e-6, "ub-a3"),
        _level("supernode", 768, 196e9, 1.9e-6, "ub-a3"),
    )
    return _machine("ascend-910c", 384, 8, 24, 2, levels)
