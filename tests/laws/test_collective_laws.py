"""Laws of collectives and transfers: zero, arrays, monotonicity and the bound, on five kinds of fabric."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog import calibration
from taicang.cost.collective import FLAVOURS, Line, collective
from taicang.cost.collective_bound import lower_bound_s
from taicang.cost.transfer import transfer
from taicang.errors import TaicangError, UnknownName
from taicang.evidence.systems import fabric_of
from taicang.hardware import Level
from taicang.ops import Collective, Transfer

FITS = calibration.fits("collective", Line)
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")


def tier(name, ranks, gbs, us, *, topology="switch", reduces=False, profile=""):
    return Level(
        name=name,
        ranks=ranks,
        bandwidth_bytes_per_s=gbs * 1e9,
        latency_s=us * 1e-6,
        topology=topology,
        reduces=reduces,
        profile=profile,
    )


CM384 = fabric_of(
    tier("package", 2, 270, 0.2, topology="mesh", profile="ub-a3"),
    tier("node", 16, 196, 1.2, profile="ub-a3"),
    tier("supernode", 768, 196, 1.9, profile="ub-a3"),
)
NVL72 = fabric_of(tier("nvlink", 72, 900, 1, reduces=True, profile="nvlink-gb200"))
NVL256 = fabric_of(
    tier("node", 8, 450, 1, reduces=True, profile="nvlink-h100"),
    tier("nvl256", 256, 225, 2, topology="clos", reduces=True),
)
HGX = fabric_of(
    tier("nvlink", 8, 450, 1, reduces=True, profile="nvlink-h100"),
    tier("ib", 1024, 50, 3, topology="clos", profile="ib-ndr"),
)
A2 = fabric_of(
    tier("hccs", 8, 196, 0.5, topology="mesh", profile="hccs-a2"), tier("roce", 4096, 25, 5, profile="roce-a2")
)
MACHINES = {"cm384": CM384, "nvl72": NVL72, "nvl256": NVL256, "hgx": HGX, "a2": A2}

machines = st.sampled_from(sorted(MACHINES))
kinds = st.sampled_from(KINDS)
flavours = st.sampled_from(FLAVOURS)
sizes = st.floats(0.0, 35.0).map(lambda x: float(np.exp2(x)))


@st.composite
def groups(draw):
    """A machine, a group size that fits in it, and a stride of whole inner units."""
    name = draw(machines)
    total = MACHINES[name].planes["scale_up"].levels[-1].ranks
    ranks = int(np.exp2(draw(st.floats(1.0, float(np.log2(total))))))
    stride = draw(st.sampled_from([s for s in (1, 2, 4, 8, 16) if s * ranks <= total]))
    return MACHINES[name], ranks, stride


def scaled_up(machine):
    return machine.planes["scale_up"].levels


def seconds(kind, payload, ranks, machine, *, stride=1, flavour="nccl"):
    op = Collective(kind=kind, payload_bytes=payload, ranks=ranks, stride=stride)
    return collective(op, machine, FITS, flavour).seconds


@given(machines, kinds, sizes, flavours)
@settings(max_examples=60, deadline=None)
def test_one_rank_costs_exactly_nothing(name, kind, payload, flavour):
    op = Collective(kind=kind, payload_bytes=payload, ranks=1)
    cost = collective(op, MACHINES[name], FITS, flavour)
    assert cost.seconds == 0.0
    assert cost.network_s == 0.0
    assert cost.sent_bytes == 0.0


@given(kinds, flavours, st.lists(st.tuples(sizes, groups()), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_an_array_prices_like_its_elements_bit_for_bit(kind, flavour, draws):
    machine = draws[0][1][0]
    total = machine.planes["scale_up"].levels[-1].ranks
    payload = np.array([p for p, _ in draws])
    ranks = np.array([float(min(g[1], total)) for _, g in draws])
    stride = np.array([float(g[2]) for _, g in draws])
    together = seconds(kind, payload, ranks, machine, stride=stride, flavour=flavour)
    alone = [
        seconds(kind, float(p), float(n), machine, stride=float(s), flavour=flavour)
        for p, n, s in zip(payload, ranks, stride, strict=True)
    ]
    assert together.tolist() == [float(a) for a in alone]


@given(groups(), kinds, sizes, st.floats(1.0, 100.0), flavours)
@settings(max_examples=120, deadline=None)
def test_more_bytes_are_never_faster(group, kind, payload, more, flavour):
    machine, ranks, stride = group
    less = seconds(kind, payload, ranks, machine, stride=stride, flavour=flavour)
    assert seconds(kind, payload * more, ranks, machine, stride=stride, flavour=flavour) >= less * (1 - 1e-12)


@given(groups(), kinds, sizes, st.integers(1, 64))
@settings(max_examples=120, deadline=None)
def test_more_ranks_with_the_same_shard_each_are_never_faster(group, kind, shard, more):
    """The shard is what a rank sends to (or gets for) each peer; an all-reduce keeps its buffer.

    Not where switches reduce: a larger group moves (n + 1) / n of the buffer, and measured ones are faster. Not on a
    mesh: a larger group has more links. Not of a group whose last unit is not full: its few ranks have few ports.
    """
    machine, ranks, stride = group
    assume(all(ranks * stride <= level.ranks or ranks * stride % level.ranks == 0 for level in scaled_up(machine)))
    plain = fabric_of(*(replace(level, reduces=False) for level in scaled_up(machine)))
    total = scaled_up(machine)[-1].ranks
    wider = min(ranks + more, total // stride)
    assume(machine is not A2)
    few, many = (shard, shard) if kind == "all_reduce" else (shard * ranks, shard * wider)
    before = seconds(kind, few, ranks, plain, stride=stride)
    assert seconds(kind, many, wider, plain, stride=stride) >= before * (1 - 1e-12)


@given(st.sampled_from(catalog.names("machine")), st.sampled_from(KINDS[:3]), sizes, st.integers(2, 20))
@settings(max_examples=150, deadline=None)
def test_several_units_are_no_faster_than_one(name, kind, payload, units):
    try:
        one, many = catalog.machine(name), catalog.machine(f"{name} x {units}")
    except TaicangError:  # nothing is known of its chip, or of what joins several
        assume(False)
    before = seconds(kind, payload, one.domain, one)
    assert seconds(kind, payload, many.domain * units, many) >= before * (1 - 1e-12)


@given(st.sampled_from(["hgx-h100", "hgx-h200"]), st.floats(1e9, 16e9))
@settings(max_examples=30, deadline=None)
def test_switches_that_add_help_two_nodes_and_no_more(name, payload):
    """As measured (NVIDIA/nccl issue 1221): 430 against 330 GB/s on two nodes, the same on four."""

    def seconds(nodes, *sets):
        made = catalog.machine(f"{name} x {nodes}", sets)
        op = Collective(kind="all_reduce", payload_bytes=payload, ranks=8 * nodes)
        return float(collective(op, made, FITS).seconds)

    alone = seconds(1)
    for nodes, gain in ((2, 330 / 430), (4, 1.0)):
        ratio = seconds(nodes) / seconds(nodes, "planes.scale_up.nvlink.reduces=false")
        assert ratio == pytest.approx(gain, abs=0.1 if nodes == 2 else 0.08)
    assert alone <= seconds(2) <= 1.15 * alone


@given(groups(), kinds, sizes, st.floats(1.0, 10.0), flavours)
@settings(max_examples=80, deadline=None)
def test_more_bandwidth_is_never_slower(group, kind, payload, faster, flavour):
    machine, ranks, stride = group
    levels = machine.planes["scale_up"].levels
    for changed in range(len(levels)):
        better = fabric_of(
            *(
                replace(level, bandwidth_bytes_per_s=level.bandwidth_bytes_per_s * (faster if i == changed else 1.0))
                for i, level in enumerate(levels)
            )
        )
        before = seconds(kind, payload, ranks, machine, stride=stride, flavour=flavour)
        assert seconds(kind, payload, ranks, better, stride=stride, flavour=flavour) <= before * (1 + 1e-12)


@given(groups(), kinds, sizes, flavours)
@settings(max_examples=250, deadline=None)
def test_nothing_beats_the_wires(group, kind, payload, flavour):
    machine, ranks, stride = group
    op = Collective(kind=kind, payload_bytes=payload, ranks=ranks, stride=stride)
    cost = collective(op, machine, FITS, flavour)
    assert 0.0 < lower_bound_s(op, machine) <= cost.seconds
    assert cost.network_s + cost.latency_s == pytest.approx(cost.seconds)
    assert cost.latency_s >= 0.0


@given(groups(), sizes)
@settings(max_examples=100, deadline=None)
def test_an_all_reduce_is_bound_by_at_least_each_of_its_halves(group, payload):
    machine, ranks, stride = group
    bounds = {
        kind: lower_bound_s(Collective(kind=kind, payload_bytes=payload, ranks=ranks, stride=stride), machine)
        for kind in ("all_reduce", "all_gather", "reduce_scatter")
    }
    assert bounds["all_reduce"] >= max(bounds["all_gather"], bounds["reduce_scatter"]) * (1 - 1e-12)


@given(kinds, sizes, st.integers(2, 9), st.sampled_from([1, 2, 4, 8]))
@settings(max_examples=60, deadline=None)
def test_a_flat_fabric_does_not_care_about_stride(kind, payload, ranks, stride):
    assert seconds(kind, payload, ranks, NVL72, stride=stride) == seconds(kind, payload, ranks, NVL72)


@given(st.sampled_from(["all_gather", "reduce_scatter"]), st.integers(2, 128), st.sampled_from([1, 8]))
def test_a_ring_between_nodes_passes_every_rank_however_many(kind, nodes, stride):
    op = Collective(kind=kind, payload_bytes=8.0, ranks=nodes * 8 / stride, stride=stride)
    assert collective(op, HGX, FITS).seconds > (nodes * 8 / stride - 1) * 1e-6  # what the proxy of a step needs


def test_an_all_to_all_of_384_cannot_take_ten_microseconds():
    """A peer reports 9.9 us for 16.7 MB among 384 ranks of 196 GB/s each; the wires alone need 85 us."""
    op = Collective(kind="all_to_all", payload_bytes=16.7e6, ranks=384)
    assert lower_bound_s(op, CM384) > 80e-6
    assert seconds("all_to_all", 16.7e6, 384, CM384) > 85e-6


def test_an_unknown_flavour_is_refused_with_a_hint():
    with pytest.raises(UnknownName, match="nccl"):
        seconds("all_reduce", 1.0, 2, NVL72, flavour="ncll")


distances = st.integers(0, 700)


@given(sizes, distances, st.integers(1, 100))
@settings(max_examples=80, deadline=None)
def test_transfers_respect_the_line_rate_and_add_messages(payload, distance, messages):
    op = Transfer(payload_bytes=payload, plane="scale_up", distance=distance, messages=messages)
    cost = transfer(op, CM384, FITS)
    assert cost.seconds >= cost.network_s >= 0.0
    assert (cost.seconds == 0.0) == (distance == 0)
    more = transfer(replace(op, messages=messages + 1), CM384, FITS)
    assert more.seconds >= cost.seconds
    assert transfer(replace(op, payload_bytes=payload * 2), CM384, FITS).seconds >= cost.seconds


@given(st.lists(st.tuples(sizes, distances), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_an_array_of_transfers_prices_like_its_elements(draws):
    payload, distance = (np.array([d[i] for d in draws], dtype=float) for i in (0, 1))
    together = transfer(Transfer(payload_bytes=payload, plane="scale_up", distance=distance), CM384, FITS).seconds
    for got, p, d in zip(together, payload, distance, strict=True):
        assert (
            got == transfer(Transfer(payload_bytes=float(p), plane="scale_up", distance=float(d)), CM384, FITS).seconds
        )


def test_a_kv_cache_of_4k_tokens_crosses_one_die_of_rdma_in_at_least_eleven_milliseconds():
    """DeepSeek's 288 MB at 25 GB/s: 11.5 ms at line rate (facts of CloudMatrix384); an engine needs somewhat more."""
    rdma = fabric_of(tier("cluster", 768, 25, 5, profile="roce-a3"), plane="rdma")
    op = Transfer(payload_bytes=288e6, plane="rdma", distance=32)
    assert 11.5e-3 < transfer(op, rdma, FITS).seconds < 18e-3


def test_a_move_on_a_mesh_has_one_link_and_each_rank_a_host_of_its_own():
    rack, box = catalog.machine("gb200-nvl72"), catalog.machine("atlas-800-a2")
    host = rack.plane("host").levels[0].bandwidth_bytes_per_s
    assert transfer(Transfer(payload_bytes=1e9, plane="host", distance=1), rack, FITS).network_s == 1e9 / host
    link = box.plane("scale_up").levels[0].bandwidth_bytes_per_s / 7
    assert transfer(Transfer(payload_bytes=1e9, plane="scale_up", distance=1), box, FITS).network_s == pytest.approx(
        1e9 / link
    )
