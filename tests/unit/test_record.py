"""Columns of finished requests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taicang.serve.cluster import Cluster
from taicang.serve.record import Record, quantiles
from taicang.serve.request import SECOND, Request
from taicang.serve.summary import Limits, summarise


def test_a_day_of_traffic_fits_and_keeps_picoseconds():
    day = 86_400 * SECOND  # more femtoseconds than 64 bits hold
    request = Request(7, day, 100, 11)
    request.started, request.first, request.end = day + SECOND // 10, day + SECOND, day + 2 * SECOND
    columns = Record([request]).columns()
    assert columns["arrival_s"][0] == pytest.approx(86_400.0, abs=1e-9)
    assert columns["queue_s"][0] == pytest.approx(0.1, abs=1e-9)
    assert columns["tpot_s"][0] == pytest.approx(0.1, abs=1e-9)
    assert columns["moved_s"][0] == 0.0


def test_a_request_that_was_turned_away_has_no_latency():
    away = Request(1, SECOND, 100, 11)
    away.end = 3 * SECOND
    columns = Record([away]).columns()
    assert np.isnan([columns[name][0] for name in ("ttft_s", "tpot_s", "queue_s")]).all()
    assert columns["e2e_s"][0] == 2.0
    served = Request(2, SECOND, 100, 11)
    served.started, served.first, served.end = SECOND, 2 * SECOND, 12 * SECOND
    found = summarise(Record([served, away]).columns(), Cluster([]), requests=2, limits=Limits(ttft_s=5.0))
    assert (found.finished, found.turned_away, found.goodput_ratio) == (1, 1, 0.5)
    assert found.ttft.max_s == 1.0
    assert found.goodput_per_s == pytest.approx(found.requests_per_s) == pytest.approx(1.0 / 11.0)


@given(
    values=st.lists(st.floats(0.0, 1e6), min_size=1, max_size=60).map(np.array),
    shares=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4),
)
def test_quantiles_are_those_of_numpy(values, shares):
    assert quantiles(values, shares) == np.quantile(values, shares).tolist()
