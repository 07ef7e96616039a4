"""The shipped constants against the measured kernels: held-out shapes, and no over-fit."""

from pathlib import Path

import pytest

from taicang.evidence.kernels import outcomes as kernel_outcomes
from taicang.evidence.score import Outcome, score_parts

EVIDENCE = Path(__file__).resolve().parents[2].parent / "shared" / "evidence"
pytestmark = pytest.mark.skipif(
    not (EVIDENCE / "kernels" / "gemm.csv").exists(), reason="the evidence folder `shared` is not beside the repository"
)


def gemm_outcomes() -> list[Outcome]:
    return [o for o in kernel_outcomes(EVIDENCE) if o.suite == "gemm"]


def test_measured_products_are_predicted() -> None:
    scores = {s.part: s for s in score_parts(gemm_outcomes())}
    held, fitted = scores["held-out"], scores["calibrated-on"]
    assert held.coverage_ratio == fitted.coverage_ratio == 1.0
    assert held.mape_ratio < 0.10
    assert held.median_ratio < 0.07
    assert abs(held.bias_ratio) < 0.03
    assert held.mape_ratio < fitted.mape_ratio + 0.02


def test_no_system_or_format_is_left_behind() -> None:
    for s in score_parts(gemm_outcomes(), by_group=True):
        assert s.mape_ratio < 0.20, s


def test_ascend_products() -> None:
    for o in gemm_outcomes():
        if o.group == "ascend-910c int8":
            assert o.error_ratio is not None
            assert abs(o.error_ratio) < 0.07, o
