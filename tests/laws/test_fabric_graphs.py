"""Graphs of users: routes, what they agree with, and what they are refused for."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.app.main import cli
from taicang.errors import InvalidInput, TaicangError
from taicang.fabric import graph
from taicang.fabric.collectives import collective, teams_of
from taicang.fabric.even import Net
from taicang.fabric.faults import fail
from taicang.fabric.routing import resources, route
from taicang.fabric.topology import Direct, build
from taicang.hardware import Level, Plane
from taicang.interop import graphs

BOX = """\
nodes:
- {id: "gpu[0-3]", kind: gpu, through: memory0}
- {id: "gpu[4-7]", kind: gpu, through: memory1}
- {id: "cpu[0-1]", kind: switch}
- {id: "memory[0-1]", kind: memory}
links:
- {source: "gpu[0-3]", target: cpu0, bandwidth: 64 GB/s, latency: 0.5 us}
- {source: "gpu[4-7]", target: cpu1, bandwidth: 64 GB/s, latency: 0.5 us}
- {source: cpu0, target: cpu1, bandwidth: 96 GB/s, latency: 0.3 us}
- {source: cpu0, target: memory0, bandwidth: 200 GB/s, latency: 0.1 us}
- {source: cpu1, target: memory1, bandwidth: 200 GB/s, latency: 0.1 us}
"""


def net(fabric, routing="adaptive", seed=0):
    return Net(fabric=fabric, found=resources(fabric, routing), seed=seed)


def seconds(fabric, kind, ranks, payload=1e9, **how):
    return sum(p.wire_s for p in collective(net(fabric, **how), kind, teams_of(ranks), payload))


def written(fabric, tmp_path):
    """A switchless fabric of ``build`` as NetworkX writes graphs."""
    (network,) = fabric.networks
    assert isinstance(network, Direct)
    links, width = [], sum(network.widths)
    for unit in range(network.units):
        stride, link = 1, 0
        for size, count in zip(network.dims, network.widths, strict=True):
            here = unit // stride % size
            for step in (1, size - 1)[:count] if network.torus else range(1, size):
                rate = fabric.capacity_bytes_per_s[network.first + unit * width + link]
                other = unit + ((here + step) % size - here) * stride
                links.append({"source": unit, "target": other, "bandwidth": f"{rate} B/s", "latency": "1 us"})
                link += 1
            stride *= size
    path = tmp_path / "graph.json"
    nodes = [{"id": unit} for unit in range(network.units)]
    path.write_text(json.dumps({"directed": True, "multigraph": False, "graph": {}, "nodes": nodes, "links": links}))
    return path


def machine(level):
    base = catalog.machine("hgx-h100")
    return base, Plane(name="scale_up", levels=(level,))


@pytest.mark.parametrize("dims", [(7,), (4, 5), (3, 2, 4)])
@pytest.mark.parametrize("kind", ["all_to_all", "all_gather", "all_reduce"])
def test_a_mesh_as_a_graph_is_the_mesh(dims, kind, tmp_path):
    count = int(np.prod(dims))
    level = Level(name="mesh", ranks=count, bandwidth_bytes_per_s=1e11, latency_s=1e-6, topology="mesh", dims=dims)
    base, plane = machine(level)
    fabric = build(replace(base, chips=count, chips_per_node=count, planes={"scale_up": plane}))
    same = graph.build(graphs.read(written(fabric, tmp_path)))
    mine, theirs = (seconds(each, kind, count) for each in (same, fabric))
    if kind == "all_to_all":
        # a graph takes all shortest ways, the mesh one dimension after the other: links fill alike
        assert mine == pytest.approx(theirs, rel=0.02)
    assert mine >= 1e9 * (count - 1) / count / 1e11 * 0.999 * (2 if kind == "all_reduce" else 1)


def graph_of(ends, rates, ranks, nodes, both=True):
    ways = [*ends, *[(b, a) for a, b in ends]] if both else ends
    return graph.build(graphs.Graph(
        name="any", nodes=tuple(map(str, range(nodes))), ranks=ranks, through=(-1,) * len(ranks), links=tuple(ways),
        bandwidth_bytes_per_s=tuple(np.tile(rates, 1 + both)), latency_s=(1e-6,) * len(ways),
    ))  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    nodes=st.integers(3, 12), seed=st.integers(0, 9999), links=st.integers(0, 14), both=st.booleans(),
    kind=st.sampled_from(["all_to_all", "all_gather", "all_reduce", "send"]),
)  # fmt: skip
def test_a_link_more_never_slows_and_one_less_never_speeds(nodes, seed, links, both, kind):
    rng = np.random.default_rng(seed)
    ends = [(k, (k + 1) % nodes) for k in range(nodes)]  # a ring, which leads everywhere even one way, and some more
    ends += [tuple(map(int, rng.choice(nodes, 2, replace=False))) for _ in range(links + 1)]
    rates = 10.0 ** rng.uniform(9, 11, len(ends))
    ranks = tuple(sorted(map(int, rng.choice(nodes, int(rng.integers(2, nodes + 1)), replace=False))))
    place = rng.permutation(len(ends))
    few = [at for at in place if at != len(ends) - 1]
    more, less = (graph_of([ends[at] for at in kept], rates[kept], ranks, nodes, both) for kept in (place, few))
    one, two = (seconds(each, kind, len(ranks)) for each in (less, more))
    assert two <= one * (1 + 1e-6)
    tails = [ends[at][0] for at in place] + [ends[at][1] for at in place] * both
    dead = np.flatnonzero(np.argsort(tails, kind="stable") % len(ends) == np.flatnonzero(place == len(ends) - 1))
    alive = np.ones(len(tails))
    alive[dead] = 0.0
    cut = replace(more, alive_ratio=alive)
    assert seconds(cut, kind, len(ranks)) >= two * (1 - 1e-6)


@settings(max_examples=8, deadline=None)
@given(nodes=st.integers(15, 60), seed=st.integers(0, 9999), kind=st.sampled_from(["all_to_all", "all_gather"]))
def test_a_link_more_never_slows_a_large_graph(nodes, seed, kind):
    rng = np.random.default_rng(seed)
    ends = [(k, (k + 1) % nodes) for k in range(nodes)]
    ends += [tuple(map(int, rng.choice(nodes, 2, replace=False))) for _ in range(nodes)]
    rates = 10.0 ** rng.uniform(9, 11, len(ends))
    less, more = (
        graph_of(ends[:kept], rates[:kept], tuple(range(nodes)), nodes) for kept in (len(ends) - 1, len(ends))
    )
    assert seconds(more, kind, nodes) <= seconds(less, kind, nodes) * (1 + 2e-5)
    shortest = sum(p.wire_s for p in collective(net(more, "striped"), kind, teams_of(nodes), 1e9))
    assert seconds(more, kind, nodes) <= shortest * (1 + 1e-9)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), nodes=st.integers(3, 12), seed=st.integers(0, 99))
def test_routes_of_any_graph_lead_from_end_to_end(data, nodes, seed):
    rng = np.random.default_rng(seed)
    pairs = {(int(rng.integers(k)), k) for k in range(1, nodes)}  # a tree, and some more
    pairs |= {tuple(sorted(map(int, rng.choice(nodes, 2, replace=False)))) for _ in range(nodes)}
    ends = [(a, b) for a, b in sorted(pairs)]
    ranks = tuple(range(data.draw(st.integers(2, nodes))))
    fabric = graph_of(ends, rng.uniform(1e9, 1e11, len(ends)), ranks, nodes)
    network = fabric.networks[0]
    source, target = (np.array(x) for x in zip(*[(a, b) for a in ranks for b in ranks if a != b], strict=True))
    for routing in ("adaptive", "ecmp"):
        paths = route(fabric, resources(fabric, routing), source, target, seed)
        for flow, (a, b) in enumerate(zip(source, target, strict=True)):
            mine = slice(paths.first[flow], paths.first[flow + 1])
            flux = np.zeros(nodes)
            np.add.at(flux, network.tail[paths.resource[mine]], paths.share[mine])
            np.add.at(flux, network.head[paths.resource[mine]], -paths.share[mine])
            expected = np.zeros(nodes)
            expected[network.node[a]], expected[network.node[b]] = 1.0, -1.0
            np.testing.assert_allclose(flux, expected, atol=1e-9)
            if routing == "ecmp":
                assert (paths.share[mine] == 1.0).all()
    even = seconds(fabric, "all_to_all", len(ranks))  # no rank sends faster than its links
    out = np.bincount(network.tail, weights=fabric.capacity_bytes_per_s, minlength=nodes)[network.node]
    assert even >= 1e9 * (len(ranks) - 1) / len(ranks) / out.min() * (1 - 1e-9)
    for _ in range(20):  # nor does more cross a cut than its links carry
        side = rng.random(nodes) < 0.5
        width = fabric.capacity_bytes_per_s[side[network.tail] & ~side[network.head]].sum()
        near = side[network.node].sum()
        if width > 0 and 0 < near < len(ranks):
            assert even >= 1e9 / len(ranks) * near * (len(ranks) - near) / width * (1 - 1e-9)


def test_cards_without_peer_access_pass_host_memory(tmp_path):
    box, peers = tmp_path / "box.yaml", tmp_path / "peers.yaml"
    box.write_text(BOX)
    peers.write_text(BOX.replace(", through: memory0", "").replace(", through: memory1", ""))
    staged, direct = (graph.build(graphs.read(each)) for each in (box, peers))
    for kind in ("all_reduce", "all_to_all", "all_gather"):
        assert seconds(staged, kind, 8) >= seconds(direct, kind, 8)
    assert seconds(staged, "all_reduce", 8) == pytest.approx(4 * 1.75 * 1e9 / 200e9)
    broken = fail(direct, ["link#8"])
    assert broken.alive_ratio.sum() == direct.alive_ratio.sum() - 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("bandwidth: 96 GB/s", "bandwidth: 96"), "no unit"),
        (("target: cpu1, bandwidth: 64", "target: cpu2, bandwidth: 64"), "cpu1"),
        (("kind: memory", "kind: memry"), "memory"),
        (("- {source: cpu0, target: cpu1, bandwidth: 96 GB/s, latency: 0.3 us}\n", ""), "not connected"),
        (("links:", "lnks:"), "links"),
        (("latency: 0.3 us", "latncy: 0.3 us"), "latency"),
        (('"cpu[0-1]"', '"gpu[0-1]"'), "two nodes"),
    ],
)
def test_a_wrong_graph_is_refused_in_one_line(tmp_path, change, says):
    path = tmp_path / "wrong.yaml"
    assert change[0] in BOX
    path.write_text(BOX.replace(*change))
    with pytest.raises(TaicangError, match=says) as error:
        graph.build(graphs.read(path))
    assert "\n" not in str(error.value)


def test_the_command_takes_graphs(tmp_path):
    path = tmp_path / "box.yaml"
    path.write_text(BOX)
    said = CliRunner().invoke(
        cli, ["fabric", str(path), "--collective", "all-reduce", "--bytes", "1GB", "--json"], standalone_mode=False
    )
    assert said.exception is None
    found = json.loads(said.output)
    assert found["closed_s"] is None
    assert found["hottest"][0]["link"] == "cpu0 to memory0"
    refused = CliRunner().invoke(cli, ["fabric", str(path), "--draws", "5"], standalone_mode=False)
    assert refused.exception is not None
    with pytest.raises(InvalidInput, match="such file"):
        graphs.read(tmp_path / "none.json")


@settings(max_examples=30, deadline=None)
@given(dims=st.lists(st.integers(2, 6), min_size=1, max_size=3), kind=st.sampled_from(["Ring", "FullyConnected"]))
def test_dimensions_of_astra_sim_are_tori_and_meshes(dims, kind, tmp_path_factory):
    path = tmp_path_factory.mktemp("astra") / "net.yml"
    rows = {
        "topology": [kind] * len(dims),
        "npus_count": dims,
        "bandwidth": [50] * len(dims),
        "latency": [500.0] * len(dims),
    }
    path.write_text(json.dumps(rows))
    links = sum(min(size - 1, 2) if kind == "Ring" else size - 1 for size in dims)
    count, torus = int(np.prod(dims)), kind == "Ring"
    found = graph.build(graphs.read(path))
    assert len(found.capacity_bytes_per_s) == count * links
    assert found.levels[0].latency_s == pytest.approx(sum(size // 2 if torus else 1 for size in dims) * 5e-7)
    if torus and min(dims) > 2:  # a torus deals its bandwidth over dimensions
        level = Level(name="torus", ranks=count, bandwidth_bytes_per_s=links * 50 * 2.0**30, latency_s=1e-6,
                      topology="torus", dims=tuple(dims))  # fmt: skip
        base, plane = machine(level)
        built = build(replace(base, chips=count, chips_per_node=count, planes={"scale_up": plane}))
        assert seconds(found, "all_to_all", count) == pytest.approx(seconds(built, "all_to_all", count), rel=0.02)
