"""Latent attention: which constants price what, and the mechanisms that the formula names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from taicang import catalog
from taicang.cost.attend_mla import MlaDecodeFit, attend_mla, fit_for
from taicang.errors import NotModelled
from taicang.evidence.kernels import absorbed, mla_constants, unabsorbed
from taicang.evidence.suites import sources
from taicang.hardware import Chip
from taicang.ops import Attend

FIT = MlaDecodeFit(
    arithmetic="bf16",
    matrix_efficiency_ratio=0.5,
    bandwidth_efficiency_ratio=0.5,
    floor_s=1e-5,
    tile_rows=64.0,
    tile_s=1e-6,
    piece_s=1e-7,
    partials=0.0,
)


def decode(sequences: float, length: float, heads: float, kv: str = "bf16") -> Attend:
    return absorbed(np.array([sequences]), np.array([length]), np.array([heads]), kv)


def price(op: Attend, chip: Chip) -> float:
    return float(attend_mla(op, chip, mla_constants(chip, op)).seconds[0])


def test_the_nearest_combination_is_taken() -> None:
    eight = replace(FIT, arithmetic="fp8")
    fits = {"bf16/bf16": FIT, "bf16/fp8": eight}
    assert fit_for(fits, "bf16", "fp8") is eight
    assert fit_for(fits, "fp8", "fp8") is eight
    assert fit_for(fits, "fp16", "fp16") is FIT
    assert fit_for({"bf16/bf16": FIT}, "bf16", "fp8") is FIT
    assert fit_for(fits, "int8", "int8") is FIT
    assert fit_for(fits, "bf16", "int8") is FIT


@pytest.mark.parametrize(("dtype", "kv"), [("int8", "bf16"), ("int8", "fp8"), ("nvfp4", "bf16"), ("bf16", "nvfp4")])
def test_other_formats_are_refused(dtype: str, kv: str) -> None:
    with pytest.raises(NotModelled, match="latent attention"):
        fit_for({"bf16/bf16": FIT}, dtype, kv)


def test_a_profile_without_constants_is_refused() -> None:
    with pytest.raises(NotModelled, match="none"):
        fit_for({}, "bf16", "bf16")


def test_constants_of_the_other_kernel_are_refused() -> None:
    prompt = unabsorbed(np.array([1.0]), np.array([512.0]), np.array([128.0]), "bf16")
    with pytest.raises(NotModelled, match="prefill"):
        attend_mla(prompt, catalog.chip("h100"), FIT)


def test_a_chip_without_the_arithmetic_is_refused() -> None:
    with pytest.raises(NotModelled, match="fp8"):
        attend_mla(decode(1, 512, 128, "fp8"), catalog.chip("a100"), replace(FIT, arithmetic="fp8"))


def test_few_heads_cost_a_whole_tile() -> None:
    chip = catalog.chip("a100")
    assert price(decode(512, 8192, 1), chip) == pytest.approx(price(decode(512, 8192, 8), chip), rel=0.02)


def test_ampere_does_not_split_the_context() -> None:
    """Eight times the context of a single sequence takes eight times as long on A100, far less on H100."""
    short, long = decode(1, 16384, 128), decode(1, 131072, 128)
    ampere, hopper = catalog.chip("a100"), catalog.chip("h100")
    assert price(long, ampere) / price(short, ampere) > 7.5
    assert price(long, hopper) / price(short, hopper) < 4.0


def test_an_8_bit_cache_shortens_a_memory_bound_step() -> None:
    """By less than half: the FP8 kernels stream at 3 TB/s on H200, where the bf16 ones reach 4.4."""
    chip = catalog.chip("h200")
    ratio = price(decode(512, 16384, 8, "fp8"), chip) / price(decode(512, 16384, 8), chip)
    assert 0.5 < ratio < 0.75


def test_draft_tokens_are_free_until_arithmetic_binds() -> None:
    """Four query tokens of 16 heads fill the tile that one token wastes; of 128 heads they cost nearly four times."""
    chip = catalog.chip("ascend-910c")
    times = []
    for heads in (8.0, 128.0):
        one = decode(96, 4096, heads)
        four = replace(one, queries=one.queries * 4, pairs=one.pairs * 4)
        times.append(price(four, chip) / price(one, chip))
    assert times[0] < 1.1
    assert times[1] > 2.5


def test_published_ascend_rates_within_seven_percent() -> None:
    found = list(sources()["ascend_latent"].told())
    assert {o.suite for o in found} == {"ascend_operators"}
    assert len(found) == 2
    for outcome in found:
        assert outcome.error_ratio is not None
        assert abs(outcome.error_ratio) < 0.07, outcome
        assert not outcome.held_out
