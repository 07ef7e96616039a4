"""Stand-ins for unmeasured formats, and the arithmetic that a chip must have."""

import pytest

from taicang.catalog import calibration
from taicang.cost.experts import ExpertsFit, dispatched_key, fit_for
from taicang.errors import NotModelled

ONE = ExpertsFit(compute_ratio=0.5, stream_ratio=0.8, width_waste=0, activation_ratio=1, floor_s=1e-5, expert_s=0)
TWO = ExpertsFit(compute_ratio=0.6, stream_ratio=0.8, width_waste=0, activation_ratio=1, floor_s=1e-5, expert_s=0)


@pytest.mark.parametrize(
    ("dtype", "have"), [("int8", "fp8"), ("w4a8", "fp8_block"), ("mxfp4_w4a16", "bf16"), ("mxfp4", "nvfp4")]
)
def test_unmeasured_formats_stand_on_their_like(dtype, have):
    assert fit_for({have: ONE}, dtype) is ONE


def test_own_format_first_and_dispatched_kernels_where_measured():
    fits = {"fp8_block": ONE, dispatched_key("fp8_block"): TWO}
    assert fit_for(fits, "fp8_block") is ONE
    assert fit_for(fits, "fp8_block", gathered=False) is TWO
    assert fit_for({"bf16": ONE}, "bf16", gathered=False) is ONE


def test_a_format_without_likeness_is_refused():
    with pytest.raises(NotModelled, match="fp32"):
        fit_for({"bf16": ONE}, "fp32")


def test_calibration_file_holds_sane_constants():
    for profile, keyed in calibration.fits("experts", ExpertsFit).items():
        for key, fit in keyed.items():
            assert 0.1 <= fit.compute_ratio <= 1.0, (profile, key)
            assert 0.2 <= fit.stream_ratio <= 1.0, (profile, key)
            assert 3e-6 <= fit.floor_s <= 1e-4, (profile, key)


def test_an_engine_runs_its_own_kernels_unless_a_dispatch_feeds_them():
    fits = {"fp8_block": ONE, "fp8_block@sglang": TWO, "bf16@vllm": TWO}
    assert fit_for(fits, "fp8_block", engine="sglang") is TWO
    assert fit_for(fits, "fp8_block", engine="vllm") is ONE
    assert fit_for(fits, "fp8_block", engine="sglang", gathered=False) is ONE
    assert fit_for({"bf16": ONE} | fits, "mxfp4_w4a16", engine="vllm") is TWO
