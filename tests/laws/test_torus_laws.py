"""Collectives on a torus: nothing beats its bisection or its links; collectives between units of switches that add."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.cost.collective_bound import lower_bound_s, pair_bytes_per_s, rest_ratio, usable_bytes_per_s
from taicang.errors import InvalidInput
from taicang.evidence.systems import fabric_of
from taicang.hardware import Level, Machine
from taicang.ops import Collective

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
EXTENTS = st.lists(st.sampled_from((2, 3, 4, 8, 16)), min_size=1, max_size=3)


def _torus(dims: list[int], link_gbs: float = 50.0) -> Machine:
    """A torus of single ranks with two links of ``link_gbs`` in each dimension."""
    rate = 2.0 * len(dims) * link_gbs * 1e9
    return fabric_of(
        Level(name="ici", ranks=math.prod(dims), bandwidth_bytes_per_s=rate, latency_s=1e-6, topology="torus",
              dims=tuple(dims))
    )  # fmt: skip


@given(EXTENTS, st.sampled_from([1, 2, 8]), st.floats(1.0, 1000.0), st.integers(1, 64))
def test_a_mesh_has_a_link_for_each_pair(dims: list[int], inner: int, rate: float, joined: int) -> None:
    """All of a unit's links together are its bandwidth: a pair has one of them, a few units those between them."""
    units, links = math.prod(dims), sum(each - 1 for each in dims)
    level = Level(name="links", ranks=units * inner, bandwidth_bytes_per_s=rate, latency_s=1e-6, topology="mesh")
    assert pair_bytes_per_s(level, inner) == pytest.approx(rate / (units - 1))
    assert pair_bytes_per_s(replace(level, dims=tuple(dims)), inner) == pytest.approx(rate / links)
    between = min(max(joined - 1, 1), units - 1)
    assert usable_bytes_per_s(level, units, float(joined)) == pytest.approx(rate * between / (units - 1))
    switch = replace(level, topology="switch")
    assert pair_bytes_per_s(switch, inner) == usable_bytes_per_s(switch, units, float(joined)) == rate


@given(st.sampled_from(KINDS), st.integers(2, 200), st.sampled_from((1, 2, 4, 8, 16)))
def test_the_last_unit_of_a_group_has_the_ports_of_those_who_are_there(kind: str, ranks: int, inner: int) -> None:
    """What comes in is for all of them; what each sends in an all-to-all goes to all that are not there."""
    op = Collective(kind=kind, payload_bytes=1e6, ranks=ranks)  # type: ignore[arg-type]
    inside = min(inner, ranks)
    there = ranks % inside or inside
    sends = (ranks - inside) / (ranks - there) if ranks > inside else 1.0
    share = sends if kind == "all_to_all" else there / inside
    assert rest_ratio(op, float(inside), float(ranks)) == pytest.approx(share)
    assert rest_ratio(op, float(inside), float(inside)) == 1.0  # a tier that nothing crosses


@given(EXTENTS, st.floats(3, 10), st.floats(1.0, 400.0))
def test_an_all_to_all_passes_the_bisection(dims: list[int], size: float, link: float) -> None:
    """Half of what one half sends crosses the two cuts of the longest dimension."""
    ranks, longest, payload = math.prod(dims), max(dims), 10.0**size
    cuts = 2.0 * ranks / longest * link * 1e9
    half = (longest // 2) * (longest - longest // 2) / longest**2
    op = Collective(kind="all_to_all", payload_bytes=payload, ranks=ranks)
    assert float(lower_bound_s(op, _torus(dims, link))) >= ranks * payload * half / cuts * (1.0 - 1e-9)


@given(EXTENTS, st.floats(3, 10), st.floats(1.0, 400.0))
def test_an_all_to_all_on_meshes_of_meshes_takes_what_its_fullest_links_do(
    dims: list[int], size: float, link: float
) -> None:
    """A link between two places of a dimension d carries what each rank sends to one of the d: payload / d."""
    ranks, links, payload = math.prod(dims), sum(each - 1 for each in dims), 10.0**size
    level = Level(name="links", ranks=ranks, bandwidth_bytes_per_s=links * link * 1e9, latency_s=1e-6, topology="mesh",
                  dims=tuple(dims))  # fmt: skip
    op = Collective(kind="all_to_all", payload_bytes=payload, ranks=ranks)
    took = payload / (link * 1e9) * max(1.0 / min(dims), (ranks - 1) / ranks / links)
    assert float(lower_bound_s(op, fabric_of(level))) == pytest.approx(took)


@given(EXTENTS, st.sampled_from(KINDS), st.floats(3, 10), st.integers(0, 4))
def test_idle_dimensions_carry_nothing(dims: list[int], kind: str, size: float, at: int) -> None:
    """A group along one dimension has that dimension's two links, wherever in the torus it lies."""
    axis = at % len(dims)
    stride = math.prod(dims[:axis])
    payload, count = 10.0**size, dims[axis]
    op = Collective(kind=kind, payload_bytes=payload, ranks=count, stride=stride)  # type: ignore[arg-type]
    passes = 2.0 if kind == "all_reduce" else 1.0
    least = passes * payload * (count - 1) / count / 100e9
    assert float(lower_bound_s(op, _torus(dims))) >= least * (1.0 - 1e-9)


@given(EXTENTS, st.sampled_from(KINDS), st.floats(3, 10))
def test_a_torus_is_never_faster_than_a_switch_of_the_same_ports(dims: list[int], kind: str, size: float) -> None:
    torus = _torus(dims)
    (level,) = torus.planes["scale_up"].levels
    plain = Level(name="ici", ranks=level.ranks, bandwidth_bytes_per_s=level.bandwidth_bytes_per_s, latency_s=1e-6,
                  topology="switch")  # fmt: skip
    op = Collective(kind=kind, payload_bytes=10.0**size, ranks=level.ranks)  # type: ignore[arg-type]
    stack = catalog.stack("nemo")
    slow, fast = (float(cost_model(one, stack).price(op).seconds) for one in (torus, fabric_of(plain)))
    assert slow >= fast * (1.0 - 1e-9)


@pytest.mark.parametrize(("dims", "says"), [("", "needs its extents"), (", dims: 4x4x4", "are not the 128 units")])
def test_extents_must_be_those_of_the_torus(tmp_path: Path, dims: str, says: str) -> None:
    level = f"{{ranks: 128, bandwidth: 300 GB/s, latency: 1 us, topology: torus{dims}}}"
    head = "title: t\nstatus: announced\nchip: h100\nchips: 128\nchips_per_node: 4\n"
    text = f"{head}planes: {{scale_up: {{ici: {level}}}}}"
    (tmp_path / "torus.yaml").write_text(text)
    with pytest.raises(InvalidInput, match=says):
        catalog.machine(str(tmp_path / "torus.yaml"))


@pytest.mark.parametrize("units", [2, 3, 4, 8, 32])
def test_slow_adapters_carry_the_sums_of_units_only(units: int) -> None:
    """Switches add within each unit first: between units 2 (u - 1) / u of a shard passes each adapter."""
    machine = catalog.machine(f"hgx-h100 x {units}", ("planes.scale_up.scale_out.bandwidth=2 GB/s",))
    payload = 8.0 * 2**30
    op = Collective(kind="all_reduce", payload_bytes=payload, ranks=8 * units)
    least = payload / 8.0 * 2.0 * (units - 1) / units / 2e9
    seconds = float(cost_model(machine, catalog.stack("nemo")).price(op).seconds)
    assert least <= seconds <= least * 1.25
