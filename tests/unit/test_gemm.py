"""Borrowed constants, missing arithmetic, batched products."""

import pytest

from taicang.catalog import calibration
from taicang.cost.gemm import NEAREST, GemmFit, fit_for, gemm
from taicang.errors import NotModelled
from taicang.evidence.systems import chip_of
from taicang.formats import FORMATS
from taicang.ops import Gemm

FITS = calibration.fits("gemm", GemmFit)


@pytest.mark.parametrize(
    ("dtype", "source"),
    [("int8", "fp8"), ("w4a8", "fp8"), ("mxfp8", "fp8_block"), ("mxfp4", "nvfp4"), ("w4a16", "bf16"), ("fp16", "bf16")],
)
def test_formats_borrow_from_their_nearest_kin(dtype: str, source: str) -> None:
    assert fit_for(FITS["b200"], dtype) is FITS["b200"][source]


def test_every_format_finds_constants_on_a_chip_with_all_tables() -> None:
    assert set(NEAREST) <= set(FORMATS)
    for dtype in FORMATS:
        fit_for(FITS["b200"], dtype)


def test_nothing_near_is_refused() -> None:
    with pytest.raises(NotModelled, match="nvfp4"):
        fit_for({"bf16": FITS["h100"]["bf16"]}, "nvfp4")


def test_a_chip_without_the_arithmetic_is_refused() -> None:
    with pytest.raises(NotModelled, match="fp8"):
        gemm(Gemm(m=1, n=1, k=1, dtype="fp8"), chip_of("a100-sxm"), FITS["h100"]["fp8"])


def test_a_batch_is_one_launch() -> None:
    chip, fit = chip_of("h100-sxm"), FITS["h100"]["bf16"]
    head = Gemm(m=32, n=512, k=128, dtype="bf16")
    batched = gemm(Gemm(m=32, n=512, k=128, batch=128, dtype="bf16"), chip, fit)
    one = gemm(head, chip, fit)
    assert one.seconds < batched.seconds < 16 * one.seconds
    assert batched.moved_bytes == 128 * one.moved_bytes


def test_weight_formats_pay_their_own_bytes() -> None:
    chip = chip_of("h100-sxm")
    bf16, w4 = (
        gemm(Gemm(m=8, n=16384, k=16384, dtype=d), chip, fit_for(FITS["h100"], d)).seconds for d in ("bf16", "w4a16")
    )
    assert 3.0 < bf16 / w4 < 4.0
