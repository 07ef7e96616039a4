"""What a dispatch puts on each tier, and which constants price it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from taicang.catalog import calibration, machine
from taicang.cost.exchange import ExchangeFit, Setting, exchange, lower_bound_s, prepare, traffic
from taicang.errors import UnknownName
from taicang.ops import Exchange

FITS = calibration.fits("exchange", ExchangeFit)
OP = Exchange(kind="dispatch", tokens=128, token_bytes=7168.0, topk=8, experts=256, ranks=32)


def test_a_copy_per_expert_spreads_evenly_over_nodes() -> None:
    flow = traffic(OP, machine("hgx-h100 x 4"), "expert", Setting())
    assert (flow.near, flow.far) == pytest.approx((8 * 7 / 32, 8 * 24 / 32))
    assert flow.far_s_per_byte == pytest.approx(8 * 24 / 32 / 50e9)


def test_a_copy_per_node_crosses_once_and_fans_out_inside() -> None:
    flow = traffic(OP, machine("hgx-h100 x 4"), "node", Setting())
    assert flow.far < 3.0 < flow.near < 8.0


def test_a_node_limit_keeps_copies_at_home() -> None:
    op = replace(OP, ranks=64)
    free = traffic(op, machine("hgx-h100 x 8"), "node", Setting())
    held = traffic(op, machine("hgx-h100 x 8"), "node", Setting(node_limit=4))
    assert held.far < free.far


def test_a_stride_of_a_node_sends_everything_out() -> None:
    flow = traffic(replace(OP, ranks=4, stride=8), machine("hgx-h100 x 4"), "expert", Setting())
    assert (flow.near, flow.far) == pytest.approx((0.0, 6.0))


def test_a_wide_exchange_of_many_tokens_cannot_finish_in_ten_microseconds() -> None:
    op = replace(OP, tokens=256, experts=384, ranks=384)
    where = machine("cloudmatrix384")
    assert exchange(op, where, FITS).seconds > lower_bound_s(op, where) > 70e-6


@pytest.mark.parametrize(
    ("name", "low", "origin"),
    [
        ("cloudmatrix384", True, "exchange/ub-a3/cann.dispatch"),
        ("gb200-nvl72", True, "exchange/nvlink-gb200/trtllm_onesided.dispatch"),
        ("hgx-h100 x 4", True, "exchange/nvlink-h100/deepep_ll.dispatch"),
        ("hgx-h100 x 4", False, "exchange/nvlink-h100/deepep_normal.dispatch"),
    ],
)
def test_each_machine_runs_the_library_measured_on_it(name: str, low: bool, origin: str) -> None:
    assert exchange(replace(OP, low_latency=low), machine(name), FITS).origin == origin


def test_a_two_sided_dispatch_holds_the_exchange_of_counts() -> None:
    where = machine("gb200-nvl72")
    bare = {p: dict(keyed) for p, keyed in FITS.items()}
    bare["nvlink-gb200"]["trtllm_twosided.prepare"] = ExchangeFit(floor_s=0.0)
    counts = prepare(OP, where, FITS, library="trtllm_twosided")
    without = exchange(OP, where, bare, library="trtllm_twosided").seconds
    assert exchange(OP, where, FITS, library="trtllm_twosided").seconds == pytest.approx(without + counts)


def test_more_cores_speed_up_a_throughput_kernel() -> None:
    op = replace(OP, tokens=8192, low_latency=False, ranks=8)
    few, many = (exchange(op, machine("hgx-h100"), FITS, setting=Setting(cores=c)).seconds for c in (4, 24))
    assert many < few / 2


def test_an_unknown_library_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="deepep_ll"):
        exchange(OP, machine("hgx-h100"), FITS, library="deepep-ll")
