"""Columns of finished requests."""

from __future__ import annotations

import pytest

from taicang.serve.record import Record
from taicang.serve.request import SECOND, Request


def test_a_day_of_traffic_fits_and_keeps_picoseconds():
    day = 86_400 * SECOND  # more femtoseconds than 64 bits hold
    request = Request(7, day, 100, 11)
    request.started, request.first, request.end = day + SECOND // 10, day + SECOND, day + 2 * SECOND
    columns = Record([request]).columns()
    assert columns["arrival_s"][0] == pytest.approx(86_400.0, abs=1e-9)
    assert columns["queue_s"][0] == pytest.approx(0.1, abs=1e-9)
    assert columns["tpot_s"][0] == pytest.approx(0.1, abs=1e-9)
    assert columns["moved_s"][0] == 0.0
