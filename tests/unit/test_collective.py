"""Single facts about collectives: who lies where, what a mesh gives, which kernels reach how far."""

from __future__ import annotations

import numpy as np
import pytest

from taicang.catalog import calibration, machine
from taicang.cost.collective import Line, collective
from taicang.cost.collective_bound import lower_bound_s, members, usable_bytes_per_s
from taicang.cost.transfer import transfer
from taicang.errors import NotModelled
from taicang.evidence.systems import fabric_of, level, scale_out
from taicang.hardware import Level
from taicang.ops import Collective, Transfer

FITS = calibration.fits("collective", Line)
MESH = Level(name="hccs", ranks=8, bandwidth_bytes_per_s=196e9, latency_s=1e-6, topology="mesh")


def all_reduce(fabric, ranks, payload, flavour="nccl", stride=1):
    op = Collective(kind="all_reduce", payload_bytes=payload, ranks=ranks, stride=stride)
    return float(collective(op, fabric, FITS, flavour).seconds)


def test_members_follow_the_stride():
    levels = (level("h100_sxm"), scale_out("ib-ndr", 1024, 50e9))
    assert [float(m) for m in members(levels, 32, 1)] == [1, 8, 32]
    assert [float(m) for m in members(levels, 32, 4)] == [1, 2, 32]
    assert [float(m) for m in members(levels, 32, 8)] == [1, 1, 32]
    assert [float(m) for m in members(levels, 4, 1)] == [1, 4, 4]


@pytest.mark.parametrize(("joined", "links"), [(2.0, 1), (4.0, 3), (8.0, 7)])
def test_a_mesh_gives_one_link_per_peer(joined, links):
    assert usable_bytes_per_s(MESH, 8, joined) == pytest.approx(links * 28e9)


def test_two_ranks_of_a_mesh_are_bound_by_their_one_link():
    op = Collective(kind="all_gather", payload_bytes=28e6, ranks=2)
    assert lower_bound_s(op, fabric_of(MESH)) == pytest.approx(0.5e-3)


def test_an_all_reduce_over_reducing_switches_is_bound_by_its_buffer_once():
    op = Collective(kind="all_reduce", payload_bytes=450e6, ranks=8)
    assert lower_bound_s(op, fabric_of(level("h100_sxm"))) == pytest.approx(1e-3)
    assert lower_bound_s(op, fabric_of(level("h100_sxm", reduces=False))) == pytest.approx(1.75e-3)


def test_a_tapered_outer_tier_binds_an_all_to_all():
    node = level("h100_sxm")
    op = Collective(kind="all_to_all", payload_bytes=256e6, ranks=256)
    bound = lower_bound_s(op, fabric_of(node, scale_out("", 256, 225e9)))
    assert bound == pytest.approx(248e6 / 225e9)


def test_strided_groups_pay_the_network_that_packed_ones_do_not():
    fabric = fabric_of(level("h100_sxm"), scale_out("ib-ndr", 1024, 50e9))
    assert all_reduce(fabric, 8, 1e8, stride=8) > 3 * all_reduce(fabric, 8, 1e8)


def test_an_engines_kernels_win_small_messages_and_leave_large_ones_to_the_library():
    fabric = fabric_of(level("h200_sxm"))
    assert all_reduce(fabric, 8, 8192, "trtllm") < 0.5 * all_reduce(fabric, 8, 8192)
    assert all_reduce(fabric, 8, 2.0**30, "trtllm") == pytest.approx(all_reduce(fabric, 8, 2.0**30), rel=0.1)


def test_best_is_at_least_as_fast_as_each_flavour():
    fabric = fabric_of(level("b200_sxm"))
    for size in (1e3, 1e5, 1e7, 1e9):
        best = all_reduce(fabric, 8, size, "best")
        assert best <= min(all_reduce(fabric, 8, size, f) for f in ("nccl", "trtllm", "sglang", "vllm"))


def test_kernels_over_cuda_ipc_end_at_the_tray_and_multicast_does_not():
    rack = fabric_of(level("gb300"))
    assert all_reduce(rack, 16, 8192, "sglang") == all_reduce(rack, 16, 8192)
    assert all_reduce(rack, 16, 8192, "trtllm") < 0.3 * all_reduce(rack, 16, 8192)


def test_switches_that_reduce_help_large_groups():
    with_it = all_reduce(fabric_of(level("h200_sxm")), 8, 2.0**30)
    without = all_reduce(fabric_of(level("h200_sxm", reduces=False)), 8, 2.0**30)
    assert with_it < 0.85 * without


def test_transfers_pick_the_tier_by_distance_and_refuse_absent_planes():
    fabric = fabric_of(level("h100_sxm"), scale_out("ib-ndr", 1024, 50e9))

    def seconds(distance):
        return transfer(Transfer(payload_bytes=1e9, plane="scale_up", distance=distance), fabric, FITS).seconds

    assert seconds(7) < 0.2 * seconds(8)
    together = transfer(Transfer(payload_bytes=1e9, plane="scale_up", distance=np.array([0.0, 7.0, 8.0])), fabric, FITS)
    assert together.seconds.tolist() == [0.0, seconds(7), seconds(8)]
    with pytest.raises(NotModelled, match="no rdma plane"):
        transfer(Transfer(payload_bytes=1.0, plane="rdma"), fabric, FITS)


@pytest.mark.parametrize(
    ("name", "system"),
    [("hgx-a100", "a100_sxm"), ("hgx-h100", "h100_sxm"), ("hgx-b200", "b200_sxm"), ("gb200-nvl72", "gb200")],
)
def test_constants_are_relative_to_the_catalogues_bandwidths(name, system):
    found, fitted = machine(name).planes["scale_up"].levels[0], level(system)
    assert (found.profile, found.bandwidth_bytes_per_s) == (fitted.profile, fitted.bandwidth_bytes_per_s)
    assert (found.ranks, found.reduces) == (fitted.ranks, fitted.reduces)


@pytest.mark.parametrize("ranks", [9, 12, 16, 17, 20, 23, 24, 31])
def test_an_all_to_all_takes_in_at_the_fewest_ports_what_comes_from_elsewhere(ranks):
    """Ranks in nodes of eight, the last of which has few: each takes in its share of all buffers but its node's own."""
    on = machine("hgx-h100 x 4")
    last = ranks % 8 or 8
    seconds = 1e9 * (ranks - last) / ranks / on.plane("scale_up").levels[-1].bandwidth_bytes_per_s
    op = Collective(kind="all_to_all", payload_bytes=1e9, ranks=ranks)
    assert float(lower_bound_s(op, on)) == pytest.approx(seconds, rel=1e-9)


@pytest.mark.parametrize("ranks", [9, 12, 17, 20])
@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter"])
def test_a_gather_passes_the_ports_of_the_fewest(kind, ranks):
    """All that others hold passes the few ranks' ports: by rings over nodes, a share of (nodes - 1) / nodes of it."""
    on = machine("hgx-h100 x 4")
    last, nodes = ranks % 8, -(-ranks // 8)
    seconds = 1e9 * (nodes - 1) / nodes / last / on.plane("scale_up").levels[-1].bandwidth_bytes_per_s
    assert float(lower_bound_s(Collective(kind=kind, payload_bytes=1e9, ranks=ranks), on)) == pytest.approx(seconds)
