"""Published wholes, against what the catalogue's parts make."""

import pytest

from taicang import catalog


@pytest.mark.parametrize(
    ("name", "peak", "published_flop_per_s", "rel"),
    [
        ("cloudmatrix384", "fp16", 288.7e15, 1e-3),
        ("cloudmatrix384", "int8", 577.5e15, 1e-3),
        ("atlas-800t-a3", "fp16", 6.016e15, 1e-9),
        ("atlas-800t-a3-626t", "fp16", 5.008e15, 1e-9),
        ("atlas-800t-a2", "fp16", 3.008e15, 1e-9),
        ("atlas-800t-a2-313t", "fp16", 2.504e15, 1e-9),
        ("gb200-nvl72", "bf16", 180e15, 1e-9),
        ("gb300-nvl72", "fp4", 1080e15, 1e-9),
        ("atlas-950-superpod", "fp8", 8e18, 0.005),
        ("atlas-950-superpod-1024", "fp8", 1e18, 0.005),
        ("hgx-b200", "fp8", 36e15, 1e-9),
        ("dgx-h100-nvl256", "fp8", 512e15, 0.011),
    ],
)
def test_peak(name: str, peak: str, published_flop_per_s: float, rel: float) -> None:
    machine = catalog.machine(name)
    assert machine.ranks * machine.chip.peak(peak) == pytest.approx(published_flop_per_s, rel=rel)


def test_800t_bin_makes_the_larger_product() -> None:
    machine = catalog.machine("cloudmatrix384", ("chip=ascend-910c-800t",))
    assert machine.ranks * machine.chip.peak("fp16") == pytest.approx(307.2e15)


def test_cloudmatrix384() -> None:
    machine = catalog.machine("cloudmatrix384")
    assert (machine.chips, machine.ranks, machine.chips_per_node) == (384, 768, 8)
    assert machine.ranks * machine.chip.memory.capacity_bytes == pytest.approx(49.2e12, rel=2e-3)
    assert machine.ranks * machine.chip.memory.bandwidth_bytes_per_s == pytest.approx(1229e12, rel=1e-3)
    package, node, supernode = machine.plane("scale_up").levels
    assert package.bandwidth_bytes_per_s == 270e9
    assert node.bandwidth_bytes_per_s == supernode.bandwidth_bytes_per_s == 7 * 28e9
    assert 8 * 2 * supernode.bandwidth_bytes_per_s == 3136e9
    assert (package.latency_s, node.latency_s, supernode.latency_s) == pytest.approx((0.2e-6, 1.2e-6, 1.9e-6))
    assert machine.chip.cores == 24
    assert set(machine.planes) == {"scale_up", "rdma", "vpc", "host"}


def test_ranger_tapers_two_to_one() -> None:
    node, whole = catalog.machine("dgx-h100-nvl256").plane("scale_up").levels
    assert node.bandwidth_bytes_per_s == 2 * whole.bandwidth_bytes_per_s
    assert 256 * whole.bandwidth_bytes_per_s == pytest.approx(57.6e12)
    assert catalog.machine("ranger").status == "cancelled"


def test_bins_keep_their_published_ratios() -> None:
    for fp16, bf16 in ((376, 353.9), (313, 294.9), (280, 245.8)):
        chip = catalog.chip(f"ascend-910b-{fp16}t")
        assert (chip.peak("fp16"), chip.peak("bf16")) == pytest.approx((fp16 * 1e12, bf16 * 1e12))
