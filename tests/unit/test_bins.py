"""Bins whose matrix peak was cut: nearer to their own peak, never faster than the whole chip, others untouched."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from taicang import catalog
from taicang.catalog.costing import CUT_RATIO, book, cost_model, cut_ratio, for_bin
from taicang.catalog.resolve import names
from taicang.cost.model import CostModel
from taicang.cost.sustained import Sustained, under_load
from taicang.errors import MissingFigure
from taicang.ops import Gemm

SIZES = ((16, 4096, 7168), (4096, 4096, 7168), (16384, 36864, 7168))


@pytest.mark.parametrize("name", ["h800", "h200-nvl", "mi300x", "h100"])
def test_uncut_chips_keep_their_constants(name: str) -> None:
    part = catalog.chip(name)
    known = book(part.profile)
    assert for_bin(known, part, catalog.chip(part.profile)) is known


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["bf16", "fp8_block"])
def test_a_cut_chip_is_slower_than_the_whole_and_closer_to_its_peak(size: tuple[int, int, int], dtype: str) -> None:
    machine = catalog.machine("hgx-h20")
    stack = replace(catalog.stack("sglang"), kernel_ratio=MappingProxyType({}))  # kernels alone, as measured
    m, n, k = size
    op = Gemm(m=m, n=n, k=k, dtype=dtype)
    mine = cost_model(machine, stack).price(op)
    plain = CostModel(machine=machine, stack=stack, book=book("h100")).price(op)
    whole = cost_model(catalog.machine("hgx-h100"), stack).price(op)
    assert plain.seconds >= mine.seconds >= mine.flop / machine.chip.peak("bf16" if dtype == "bf16" else "fp8")
    if m > 1000:  # small products wait for memory, of which the bin has more
        assert mine.seconds >= whole.seconds


def test_the_cut_is_of_matrix_over_vector_rate() -> None:
    assert cut_ratio(catalog.chip("h20"), catalog.chip("h100")) == pytest.approx(148 / 44 / (989 / 67))


def test_which_bins_of_the_catalogue_count_as_cut() -> None:
    """H20 (148 of 989 TFLOP/s) and its kin, L20 and GeForce, whose matrix rate is halved; the H800, a whole die, and
    the SXM-to-PCIe bins are not."""
    found: dict[str, float] = {}
    for name in names("chip"):
        try:
            chip = catalog.chip(name)
        except MissingFigure:  # of a chip with few public figures
            continue
        if chip.profile and "bf16" in chip.peak_flop_per_s and "bf16" in catalog.chip(chip.profile).peak_flop_per_s:
            found[name] = cut_ratio(chip, catalog.chip(chip.profile))
    cut = {name for name, ratio in found.items() if ratio < CUT_RATIO}
    assert cut >= {"h20-96g", "l20", "rtx-3090", "rtx-4090", "rtx-5090"}
    assert not cut & {"h100", "h200", "h200-nvl", "h800", "b200", "a100", "l4", "rtx-a6000"}
    assert found["h20-96g"] == pytest.approx(148.0 / 989.4 * 66.9 / 44.0, rel=0.02)


@pytest.mark.parametrize("name", ["mi300x-8", "mi325x-8", "mi350x-8", "mi355x-8"])
def test_borrowed_shares_are_of_what_the_maker_says_is_sustained_once(name: str) -> None:
    machine = catalog.machine(name)
    chip, op = machine.chip, Gemm(m=16384, n=36864, k=7168, dtype="bf16")
    stack = replace(catalog.stack("sglang"), kernel_ratio=MappingProxyType({}))
    cool = replace(machine, chip=replace(chip, sustained_ratio=None))
    ratio = chip.sustained_ratio or 1.0
    slower = cost_model(machine, stack).price(op).seconds / cost_model(cool, stack).price(op).seconds
    assert slower == pytest.approx(1.0 / ratio, rel=0.05)
    loaded = under_load(machine, Sustained(clock_ratio=0.5))
    assert cost_model(loaded, stack).price(op) == cost_model(under_load(cool, Sustained(clock_ratio=0.5)), stack).price(
        op
    )
