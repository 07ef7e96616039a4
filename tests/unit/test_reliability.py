"""Failures of parts against the counts that were published: what a table says of its own run comes back out."""

from __future__ import annotations

import pytest

from taicang import catalog
from taicang.reliability import DAY, broken_chips, components, rates_per_s, with_mtbf

RUN = catalog.machine("hgx-h100 x 2048")


def test_54_days_on_16384_chips_fail_as_often_as_the_table_counts():
    per_run = {name: rate * 54 * DAY for name, rate in rates_per_s(components(RUN), RUN.chips).items()}
    assert per_run["chip"] == pytest.approx(268)
    assert per_run["node"] == pytest.approx(53)
    assert per_run["software"] == pytest.approx(63)
    assert per_run["switch"] + per_run["optical module"] == pytest.approx(35, rel=0.05)
    assert components(RUN)["rack"].failures_per_s * 16384 / 16 * 54 * DAY == pytest.approx(0.5)  # racks of two nodes


def test_parts_of_the_network_fail_as_often_as_their_reports_say():
    """Of switches 0.051 % a month and of links, which have two ends, 0.057 % (HPN, SIGCOMM 2024, section 2)."""
    month = {name: part.failures_per_s * 30 * DAY for name, part in components(RUN).items()}
    assert month["switch"] == pytest.approx(0.00051)
    assert 2.0 * month["optical module"] == pytest.approx(0.00057)


def test_a_failure_rate_is_one_over_the_time_between_failures_and_adds_up_over_parts():
    parts = with_mtbf(components(RUN), {"node": 1000 * 3600.0})
    assert rates_per_s(parts, RUN.chips)["node"] == pytest.approx(RUN.chips / 8 / 3.6e6)


def test_chips_under_repair_are_rate_times_repair_times_those_that_stop():
    parts = components(RUN)
    only = {"node": parts["node"]}
    rate = rates_per_s(only, RUN.chips)["node"]
    assert broken_chips(only, RUN.chips) == pytest.approx(rate * DAY * 8)
