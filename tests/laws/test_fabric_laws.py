"""Laws of the fabric: fair shares by definition, bounds, symmetry, and one price with the closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog import calibration
from taicang.cost.collective import Line, _tiers, _volume
from taicang.cost.collective import collective as priced
from taicang.cost.collective_bound import lower_bound_s
from taicang.fabric import demand
from taicang.fabric.collectives import collective, listed, teams_of
from taicang.fabric.even import Net
from taicang.fabric.faults import fail, parts
from taicang.fabric.flows import drain, max_min
from taicang.fabric.routing import ROUTINGS, Paths, resources, route
from taicang.fabric.topology import build
from taicang.fabric.wires import LinkRates
from taicang.hardware import Level, Plane
from taicang.ops import Collective
from taicang.predict.fabric import run
from taicang.search.collective import Ask

FITS = calibration.fits("collective", Line)
BUILT_IN = (
    "cloudmatrix384", "cloudmatrix384 x 2", "atlas-800-a2 x 4", "atlas-800-a3 x 2", "gb200-nvl72", "gb200-nvl72 x 2",
    "dgx-h100-nvl256", "hgx-h100 x 16", "hgx-h20 x 8", "hgx-a100 x 2", "mi300x-8 x 4", "l40s-pcie x 2",
    "atlas-950-superpod-1024",
)  # fmt: skip
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
seeds = st.integers(0, 2**31)


def net_of(machine, routing="adaptive", failed=(), seed=0):
    fabric = fail(build(machine), failed, seed)
    return Net(fabric=fabric, found=resources(fabric, routing), seed=seed)


def seconds(net, kind, teams, payload=1e9, algorithm=""):
    return sum(phase.wire_s for phase in collective(net, kind, teams, payload, algorithm))


def paths_of(rows, count):
    """Random routes: each row a list of (resource, share)."""
    first = np.cumsum([0, *(len(row) for row in rows)])
    return Paths(
        first=first,
        resource=np.array([r for row in rows for r, _ in row], dtype=np.int64),
        share=np.array([s for row in rows for _, s in row]),
    )


@st.composite
def networks(draw):
    count = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(seeds))
    rows = []
    for _ in range(draw(st.integers(1, 40))):
        used = rng.choice(count, rng.integers(1, min(count, 4) + 1), replace=False)
        rows.append([(int(r), float(rng.choice([1.0, 0.5, 0.25]))) for r in used])
    return paths_of(rows, count), 10.0 ** rng.uniform(0, 3, count), rng


@st.composite
def tapered(draw, least=1):
    """A machine whose outer levels are no wider than its inner ones: switches, meshes, tori, adapters."""
    ranks, width, levels = 1, 10.0 ** draw(st.floats(1.0, 3.0)), []
    near = True
    for index in range(draw(st.integers(least, 3))):
        joined = draw(st.sampled_from([2, 3, 4, 8]))
        outward = index > 0 and (not near or draw(st.booleans()))
        near = near and not outward
        topology = (
            "clos"
            if outward or (index and draw(st.booleans()))
            else draw(st.sampled_from(["switch", "mesh", "cube", "torus"]))
        )
        dims = ()
        if topology in ("cube", "torus"):
            dims = draw(st.sampled_from([(4,), (2, 3), (3, 3), (4, 2), (2, 2, 2), (3, 4), (5,)]))
            joined = int(np.prod(dims))
            topology = "mesh" if topology == "cube" else topology
        ranks *= joined
        levels.append(
            Level(
                name=f"level{index}", ranks=ranks, bandwidth_bytes_per_s=width * 1e9, latency_s=0.0, topology=topology,
                switches=0 if outward else draw(st.sampled_from([0, 1, 2, 4])), profile="roce" if outward else "",
                leaf=draw(st.sampled_from([0, 2, 64])) if outward else 0, rails=draw(st.booleans()), dims=dims,
            )
        )  # fmt: skip
        width *= draw(st.sampled_from([1.0, 0.5, 0.1]))
    base = catalog.machine("hgx-h100")
    node = levels[0].ranks
    return replace(
        base, chips=ranks, chips_per_node=node, planes={"scale_up": Plane(name="scale_up", levels=tuple(levels))}
    )


@given(networks())
@settings(max_examples=150, deadline=None)
def test_rates_are_max_min_fair_by_definition(case):
    paths, capacity, _ = case
    rates = max_min(paths, capacity)
    flow = np.repeat(np.arange(len(rates)), np.diff(paths.first))
    used = np.bincount(paths.resource, weights=rates[flow] * paths.share, minlength=len(capacity))
    assert (used <= capacity * (1 + 1e-9)).all()
    top = np.zeros(len(capacity))
    np.maximum.at(top, paths.resource, rates[flow])
    for index in range(len(rates)):  # a full link on which nobody has more
        mine = paths.resource[paths.first[index] : paths.first[index + 1]]
        full = used[mine] >= capacity[mine] * (1 - 1e-9)
        assert (full & (top[mine] <= rates[index] * (1 + 1e-9))).any()


@given(networks())
@settings(max_examples=60, deadline=None)
def test_flows_drain_as_event_after_event_does(case):
    paths, capacity, rng = case
    size = 10.0 ** rng.uniform(0, 2, len(paths.first) - 1)
    done = drain(paths, size, capacity)
    left, now, rows = size.copy(), 0.0, np.arange(len(size))
    while len(rows):
        spans = [slice(paths.first[r], paths.first[r + 1]) for r in rows]
        few = paths_of([list(zip(paths.resource[s], paths.share[s], strict=True)) for s in spans], len(capacity))
        rates = max_min(few, capacity)
        step = (left[rows] / rates).min()
        left[rows] -= rates * step
        now += step
        rows = rows[left[rows] > 1e-9 * size[rows]]
    assert now * (1 - 0.01) <= done.seconds <= now * 1.12
    assert done.seconds >= (done.busy_bytes / capacity).max() * (1 - 1e-9)


def assert_links_take_what_tiers_say(machine, op):
    rows = _tiers(op, machine.plane("scale_up").levels, machine.chip)
    tiers = [
        op.payload_bytes * _volume(op, f"{op.kind}/simple", t, machine.ranks, 0.0) / t.rate_bytes_per_s for t in rows
    ]
    direct = seconds(net_of(machine), op.kind, teams_of(machine.ranks), op.payload_bytes)
    assert direct == pytest.approx(max(map(float, tiers)), rel=0.02)


@given(st.one_of(tapered(), tapered(least=3)), st.sampled_from(KINDS), st.floats(3.0, 10.0))
@settings(max_examples=250, deadline=None)
def test_flows_and_closed_forms_agree_on_an_idle_symmetric_fabric(machine, kind, digits):
    op = Collective(kind=kind, payload_bytes=10.0**digits, ranks=machine.ranks)
    wires = LinkRates(machine=machine)
    assert float(priced(op, machine, FITS, wires=wires).seconds) == pytest.approx(
        float(priced(op, machine, FITS).seconds), rel=0.02
    )
    assert_links_take_what_tiers_say(machine, op)


@given(
    st.sampled_from(["hgx-h100 x 4", "hgx-a100 x 3", "gb200-nvl72 x 2", "hgx-b200 x 5"]),
    st.sampled_from(KINDS),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_the_last_node_of_a_group_passes_what_it_needs_by_the_adapters_of_few(spec, kind, data):
    machine = catalog.machine(spec, links=True)
    node, adapters = (level for level in machine.plane("scale_up").levels)
    ranks = data.draw(st.integers(node.ranks + 1, machine.ranks))
    rest = (ranks - 1) % node.ranks + 1
    op = Collective(kind=kind, payload_bytes=1e9, ranks=ranks)
    closed = float(priced(op, machine, FITS).seconds)
    assert float(priced(op, machine, FITS, wires=LinkRates(machine=machine)).seconds) == pytest.approx(closed, rel=0.02)
    taken_in = {"all_reduce": 1.0 / rest, "all_to_all": (ranks - rest) / ranks}.get(kind, (ranks - rest) / ranks / rest)
    assert closed >= taken_in * 1e9 / adapters.bandwidth_bytes_per_s


@given(
    st.sampled_from([*BUILT_IN, "atlas-800-a2 x 3", "hgx-h20 x 3", "mi300x-8 x 2"]),
    st.sampled_from([*KINDS[1:], "send"]), st.sampled_from([1, 1, 1, 2, 3, 7, 8, 16]), st.floats(3.0, 10.0), st.data(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_library_never_beats_the_links_of_any_group(name, kind, stride, digits, data):
    machine = catalog.machine(name, links=True)
    assume(machine.ranks > stride)
    ranks = data.draw(st.integers(2, (machine.ranks - 1) // stride + 1))
    found = run(machine, Ask(kind=kind, payload_bytes=10.0**digits, ranks=ranks, stride=stride))
    assert min(found.closed_s, found.library_s) >= 0.97 * found.wire_s


@given(st.lists(st.integers(2, 5), min_size=1, max_size=3), st.sampled_from([1, 2, 4]), st.sampled_from(KINDS))
@settings(max_examples=60, deadline=None)
def test_meshes_of_several_dimensions_alone_and_under_a_switch(dims, units, kind):
    inner = Level(name="mesh", ranks=int(np.prod(dims)), bandwidth_bytes_per_s=1e10, latency_s=0.0, topology="mesh",
                  dims=tuple(dims))  # fmt: skip
    ranks = inner.ranks * units
    levels = (inner, replace(inner, name="clos", ranks=ranks, topology="clos", dims=()))[: 1 + (units > 1)]
    planes = {"scale_up": Plane(name="scale_up", levels=levels)}
    machine = replace(catalog.machine("hgx-h100"), chips=ranks, chips_per_node=inner.ranks, planes=planes)
    op = Collective(kind=kind, payload_bytes=1e9, ranks=ranks)
    assert_links_take_what_tiers_say(machine, op)


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_machines_cost_the_same_by_links(name):
    machine = catalog.machine(name)
    wires = LinkRates(machine=machine)
    for kind in KINDS:
        for ranks, stride in ((machine.ranks, 1), (machine.ranks // 4, 4), (4, 2)):
            for payload in (1e4, 1e9):
                op = Collective(kind=kind, payload_bytes=payload, ranks=ranks, stride=stride)
                closed = float(priced(op, machine, FITS).seconds)
                assert float(priced(op, machine, FITS, wires=wires).seconds) == pytest.approx(closed, rel=0.02)


@given(tapered(), st.sampled_from(KINDS))
@settings(max_examples=60, deadline=None)
def test_no_algorithm_beats_its_bound(machine, kind):
    net = net_of(machine)
    op = Collective(kind=kind, payload_bytes=1e9, ranks=machine.ranks)
    levels = machine.plane("scale_up").levels
    port = sum(level.bandwidth_bytes_per_s for level in levels)
    least = (machine.ranks - 1) / machine.ranks * (2 if kind == "all_reduce" else 1) * 1e9 / port
    assert seconds(net, kind, teams_of(machine.ranks)) >= least * (1 - 1e-9)
    assert seconds(net, kind, teams_of(machine.ranks)) >= float(lower_bound_s(op, machine)) * (1 - 1e-9)


@given(st.sampled_from(("4x4", "8x2", "4x4x4", "3x5", "6x2x2")), st.sampled_from(("torus", "mesh")))
@settings(max_examples=20, deadline=None)
def test_a_torus_pays_its_bisection_and_a_mesh_its_hops(dims, topology):
    sizes = tuple(int(d) for d in dims.split("x"))
    ranks = int(np.prod(sizes))
    level = Level(name="grid", ranks=ranks, bandwidth_bytes_per_s=1e9, latency_s=1e-6, topology=topology, dims=sizes)
    machine = replace(
        catalog.machine("hgx-h100"), chips=ranks, planes={"scale_up": Plane(name="scale_up", levels=(level,))}
    )
    each = 1e9 / (2 * len(sizes) if topology == "torus" else sum(d - 1 for d in sizes))
    found = seconds(net_of(machine), "all_to_all", teams_of(ranks), 1e9)
    longest, others = max(sizes), ranks // max(sizes)
    half = longest // 2
    across = half * (longest - half) * others * others * (1e9 / ranks)
    wires = (2 if longest > 2 else 1) if topology == "torus" else half * (longest - half)
    cut = others * wires * each
    assert found >= across / cut * (1 - 1e-9)
    assert found >= 1e9 * (ranks - 1) / ranks / 1e9 * (1 - 1e-9)
    if topology == "torus" and all(d % 2 == 0 for d in sizes):
        for kind in KINDS:
            op = Collective(kind=kind, payload_bytes=1e9, ranks=ranks)
            closed = float(priced(op, machine, FITS).seconds)
            assert float(priced(op, machine, FITS, wires=LinkRates(machine=machine)).seconds) == pytest.approx(
                closed, rel=0.02
            )
    ring = seconds(net_of(machine), "all_reduce", teams_of(ranks), 1e9)
    assert ring == pytest.approx(2e9 * (ranks - 1) / ranks / 1e9, rel=1e-6)


@given(st.sampled_from(BUILT_IN), st.sampled_from(KINDS), st.sampled_from(ROUTINGS), seeds)
@settings(max_examples=40, deadline=None)
def test_losing_a_part_never_speeds_a_collective(name, kind, routing, seed):
    machine = catalog.machine(name)
    count = min(machine.ranks, 256)
    rng = np.random.default_rng(seed)
    whole = net_of(machine, routing)
    kinds = [k for k in parts(whole.fabric) if k not in ("node", "rank", "adapter")]
    part = str(rng.choice(kinds))
    left = rng.choice(["0.5", "0.25"]) if part in ("port", "mesh-link", "link", "leaf-switch") else "0.5"
    broken = net_of(machine, routing, (f"{part}:1@{left}",), seed)
    one, two = (seconds(replace(net, seed=0), kind, teams_of(count)) for net in (whole, broken))
    assert two >= one * (1 - 1e-9)


@given(st.sampled_from(BUILT_IN), seeds)
@settings(max_examples=30, deadline=None)
def test_permuting_ranks_inside_a_level_changes_nothing(name, seed):
    machine = catalog.machine(name)
    net = net_of(machine)
    rng = np.random.default_rng(seed)
    level = machine.plane("scale_up").levels[0]
    count = min(machine.ranks, 128) // level.ranks * level.ranks
    assume(count > 1)
    sizes = np.array(demand.skewed(count, 1e8, 1.1, rng)) * rng.uniform(0.5, 1.5, (count, count))
    place = np.arange(count).reshape(-1, level.ranks)
    moved = np.concatenate([rng.permutation(unit) for unit in place])
    s, t = (x.ravel() for x in np.meshgrid(np.arange(count), np.arange(count), indexing="ij"))
    apart = s != t
    s, t = s[apart], t[apart]
    one = listed(net, "exchange", s, t, sizes[s, t], hops=1).wire_s
    two = listed(net, "exchange", moved[s], moved[t], sizes[s, t], hops=1).wire_s
    shared = machine.plane("scale_up").levels[-1].adapters  # ranks that share an adapter are not alike
    assert two == pytest.approx(one, rel=0.05) or shared


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_the_unified_bus_does_not_block(seed):
    net = net_of(catalog.machine("cloudmatrix384"))
    target = np.random.default_rng(seed).permutation(768)
    source = np.arange(768)
    apart = source // 2 != target // 2
    paths = route(net.fabric, net.found, source[apart], target[apart])
    assert max_min(paths, net.found.capacity_bytes_per_s) == pytest.approx(196e9)


@given(st.integers(2, 40), st.integers(1, 64), st.integers(1, 8), st.sampled_from([8, 32, 256]), seeds)
@settings(max_examples=40, deadline=None)
def test_a_dispatch_sends_each_token_to_as_many_ranks_as_it_chose_at_most(ranks, tokens, topk, experts, seed):
    rng = np.random.default_rng(seed)
    kw = {"ranks": ranks, "tokens": tokens, "topk": topk, "experts": experts, "exponent": 1.0}
    merged = demand.dispatched(**kw, rng=rng)
    assert merged.shape == (ranks, ranks)
    assert (merged.sum(axis=1) <= tokens * topk).all()
    assert (merged.sum(axis=1) >= tokens).all()
    assert (merged <= tokens).all()
    assert (demand.dispatched(**kw, rng=rng, merged=False).sum(axis=1) == tokens * topk).all()
