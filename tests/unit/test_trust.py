"""Bands come from the frozen scoreboard, wider for chips without kernel data."""

import pytest

from taicang.predict import Prediction, infer
from taicang.predict.trust import TRANSFER_RATIO


def bands(machine):
    found = infer("llama-3.1-8b", machine, input_tokens=512, output_tokens=128)
    assert isinstance(found, Prediction)
    return {band.suite: band for band in found.bands}


def test_a_chip_without_kernel_data_has_wider_bands():
    measured, borrowed = bands("hgx-h100"), bands("hgx-h20")
    assert set(measured) == set(borrowed)
    assert measured
    for name, band in measured.items():
        assert borrowed[name].mape_ratio == pytest.approx(TRANSFER_RATIO * band.mape_ratio)
        assert "without kernel data" in borrowed[name].title


def test_ascend_speaks_for_ascend():
    assert set(bands("cloudmatrix384")) == {"ascend_serving", "ascend_steps"}
