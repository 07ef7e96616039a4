"""Single facts about fabrics: figures of papers, faults, routes that do not exist, logical machines."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.errors import InvalidInput, NotModelled, UnknownName
from taicang.evidence.exchange_rows import exchange_published
from taicang.evidence.suite_collective import call_outcomes
from taicang.evidence.suites import sources
from taicang.fabric.allocation import allocated_ratio, logical
from taicang.fabric.availability import draw
from taicang.fabric.collectives import ALGORITHMS, collective, contend, listed, teams_of
from taicang.fabric.draw import svg
from taicang.fabric.even import Net, even_loads, uneven_loads
from taicang.fabric.faults import cut_off, fail, parts, stopped
from taicang.fabric.names import name
from taicang.fabric.placement import place
from taicang.fabric.routing import ROUTINGS, resources, route
from taicang.fabric.topology import build
from taicang.fabric.wires import LinkRates
from taicang.hardware import Links
from taicang.ops import Collective, Exchange, Transfer
from taicang.predict.fabric import run
from taicang.predict.fabric_parts import breakage
from taicang.predict.fabric_pictures import picture
from taicang.reliability import components
from taicang.search.collective import Ask
from taicang.stacks import BARE

CM384 = catalog.machine("cloudmatrix384")


def net_of(machine, routing="adaptive", failed=(), seed=0):
    fabric = fail(build(machine), failed, seed)
    return Net(fabric=fabric, found=resources(fabric, routing), seed=seed)


def seconds(net, kind, teams, payload=1e9, algorithm=""):
    return sum(phase.wire_s for phase in collective(net, kind, teams, payload, algorithm))


def test_cloudmatrix384_has_the_links_of_its_paper():
    fabric = build(CM384)
    found = parts(fabric)
    assert (found["link"], found["l1-switch"], found["l2-switch"], found["plane"]) == (5376, 336, 112, 7)
    assert found["module"] == 5376
    stage = fabric.networks[1].stages[1]
    assert set(fabric.capacity_bytes_per_s[stage.up : stage.up + 5376]) == {28e9}
    ports = np.bincount(stage.above, minlength=112) * stage.things
    assert set(ports) == {48}  # of each second-level chip


def test_ranger_tapers_two_to_one_over_18_switches_of_128_ports():
    fabric = build(catalog.machine("dgx-h100-nvl256"))
    found = parts(fabric)
    assert (found["l2-switch"], found["link"], found["module"]) == (18, 32 * 72, 1152)
    stage = fabric.networks[0].stages[1]
    assert fabric.capacity_bytes_per_s[stage.up] == pytest.approx(25e9)


@pytest.mark.parametrize(
    ("chips", "boxes", "used"), [(384, 56, 1.00), (352, 56, 0.92), (288, 42, 1.00), (256, 42, 0.89), (192, 28, 1.00)]
)
def test_logical_machines_take_the_switches_that_the_paper_tabulates(chips, boxes, used):
    found = logical(CM384, chips)
    assert (found.switch_boxes, round(found.used_ratio, 2)) == (boxes, used)


def test_reads_and_writes_over_the_bus_are_within_three_percent():
    errors = [abs(one.error_ratio) for one in sources()["ub_links"].told()]
    assert len(errors) == 16
    assert max(errors) <= 0.03


@pytest.mark.parametrize("suite", ["ascend_operators", "deepep_h800"])
def test_dispatch_and_combine_cost_on_links_what_they_cost_in_closed_form(suite):
    rows = [row for row in exchange_published() if row.suite == suite]
    assert call_outcomes(rows)
    machine = CM384 if suite == "ascend_operators" else catalog.machine("hgx-h800 x 32")
    closed = cost_model(machine, BARE)
    linked = cost_model(replace(machine, links=Links()), BARE)
    for ranks in (8, 16, 32, 64, 128, 256):
        for kind, size in (("dispatch", 7680), ("combine", 14336)):
            op = Exchange(kind=kind, tokens=128, token_bytes=size, topk=8, experts=256, ranks=ranks)
            assert float(linked.price(op).seconds) == pytest.approx(float(closed.price(op).seconds), rel=0.02)


def test_dispatch_and_combine_of_cloudmatrix384_are_within_seven_percent_of_its_paper():
    rows = [one for one in call_outcomes(exchange_published()) if "cm384" in one.id]
    assert len(rows) >= 12
    assert max(abs(one.error_ratio) for one in rows if "/t7/" in one.id) <= 0.07


def test_a_failed_l2_chip_takes_a_hundred_and_twelfth_of_each_uplink():
    whole, broken = net_of(CM384), net_of(CM384, failed=("l2-switch#0",))
    up, _, _ = whole.found.base[1][1]
    left = broken.found.capacity_bytes_per_s[up : up + 48] / whole.found.capacity_bytes_per_s[up : up + 48]
    assert left == pytest.approx(np.full(48, 111 / 112))
    one, two = (seconds(net, "all_to_all", teams_of(768)) for net in (whole, broken))
    assert one <= two <= one * 112 / 111


def test_a_failed_plane_leaves_six_sevenths_to_everyone():
    for routing in ("adaptive", "striped"):
        broken = net_of(CM384, routing, ("plane:1",))
        whole = seconds(net_of(CM384, routing), "all_to_all", teams_of(64))
        assert seconds(broken, "all_to_all", teams_of(64)) == pytest.approx(whole * 7 / 6, rel=0.01)


def test_a_broken_mesh_link_is_passed_around_in_two_hops():
    machine = catalog.machine("atlas-800-a2")
    net = net_of(machine, failed=("mesh-link#0",))
    dead = np.flatnonzero(net.found.capacity_bytes_per_s == 0)
    assert len(dead) == 2  # both ways
    paths = route(net.fabric, net.found, np.array([0]), np.array([1]))
    assert len(paths.resource) == 12
    assert not set(paths.resource) & set(dead)
    assert paths.share.sum() == pytest.approx(2.0)


def test_hashing_collides_and_seeds_differ():
    machine = catalog.machine("hgx-a100 x 128")
    ranks, across = np.arange(1024), np.roll(np.arange(1024), 512)  # every adapter to one behind another leaf switch

    def pairs(routing, seed=0):
        net = net_of(machine, routing, seed=seed)
        return listed(net, "pairs", ranks, across, np.full(1024, 1e9), hops=1).wire_s

    assert pairs("adaptive") == pytest.approx(1e9 / 25e9)
    hashed = [pairs("ecmp", seed) for seed in range(5)]
    assert len(set(np.round(hashed, 6))) > 1
    # 64 flows on 64 links at random: the fullest of 1,024 has about five or six
    assert all(4 <= each * 25 <= 9 for each in hashed)


def test_even_exchanges_are_counted_as_they_are_listed():
    for spec in ("cloudmatrix384", "hgx-h20 x 4", "mi300x-8 x 2", "dgx-h100-nvl256", "hgx-h100 x 16"):
        machine = catalog.machine(spec)
        net = net_of(machine)
        for teams in (teams_of(12), teams_of(8, 2, 2), teams_of(machine.ranks // 2)):
            source = np.repeat(teams, teams.shape[1], axis=1).ravel()
            target = np.tile(teams, (1, teams.shape[1])).ravel()
            apart = source != target
            flows = listed(net, "", source[apart], target[apart], np.full(int(apart.sum()), 1e6), hops=1)
            assert even_loads(net, teams, 1e6) == pytest.approx(flows.carried_bytes)


@pytest.mark.parametrize("spec", ["cloudmatrix384", "hgx-h20 x 4", "mi300x-8 x 2", "dgx-h100-nvl256", "hgx-h100 x 16",
                                  "atlas-800-a2 x 4", "gb200-nvl72 x 2"])  # fmt: skip
def test_uneven_exchanges_of_many_are_counted_as_they_are_listed(spec):
    machine, rng = catalog.machine(spec), np.random.default_rng(3)
    net = net_of(machine, failed=["rank:1"])
    for count in (11, min(machine.ranks, 96)):
        ranks = np.setdiff1d(rng.permutation(machine.ranks)[:count], cut_off(net.fabric))
        sizes = rng.lognormal(0.0, 2.0, (len(ranks), len(ranks))) * 1e6
        source, target = np.nonzero(~np.eye(len(ranks), dtype=bool))
        flows = listed(net, "", ranks[source], ranks[target], sizes[source, target], hops=1)
        assert uneven_loads(net, ranks, sizes) == pytest.approx(flows.carried_bytes)
        fullest = (flows.carried_bytes / np.maximum(net.found.capacity_bytes_per_s, 1.0)).max()
        assert fullest * (1 - 1e-9) <= flows.wire_s < 1.25 * fullest


def test_an_exchange_of_more_flows_than_are_followed_is_answered():
    found = run("hgx-h100 x 400", Ask(kind="all-to-all", payload_bytes=256e6, skew=1.1))
    assert any("fullest link" in note for note in found.assumptions)
    assert found.wire_s > 100 * found.even_s


@pytest.mark.parametrize("kind", sorted(ALGORITHMS))
def test_every_algorithm_moves_what_the_collective_needs(kind):
    machine = catalog.machine("hgx-h100 x 4")
    net = net_of(machine)
    for algorithm in ALGORITHMS[kind]:
        teams = teams_of(8) if algorithm == "in_switch" else teams_of(32)
        phases = collective(net, kind, teams, 1e9, algorithm)
        assert sum(phase.wire_s for phase in phases) > 0
        assert all(phase.carried_bytes.sum() > 0 for phase in phases)


def test_collectives_at_once_share_links_and_lose_nothing():
    net = net_of(catalog.machine("hgx-h100 x 4"))
    jobs = [("all_to_all", teams_of(32), 1e9), ("all_reduce", teams_of(32), 4e9)]
    alone = [contend(net, [job])[0][0] for job in jobs]
    assert alone[0] == pytest.approx(seconds(net, "all_to_all", teams_of(32)), rel=0.01)
    together = contend(net, jobs)[0]
    assert max(together) <= sum(alone) * 1.03
    assert all(both >= one * (1 - 1e-9) for both, one in zip(together, alone, strict=True))
    twice = contend(net, [jobs[0], jobs[0]])[0]
    assert twice == pytest.approx([2 * alone[0]] * 2, rel=0.01)


def test_switches_that_add_send_the_buffer_once():
    node = net_of(catalog.machine("hgx-h100"))
    in_switch = seconds(node, "all_reduce", teams_of(8), 450e6, "in_switch")
    assert in_switch == pytest.approx(1e-3 * 9 / 8)
    nodes = net_of(catalog.machine("hgx-h100 x 4"))
    added, across = collective(nodes, "all_reduce", teams_of(32), 8e9, "in_switch")
    assert added.wire_s == pytest.approx(2 * 3 / 4 * 1e9 / 50e9)  # 2 (u - 1) / u of a rank's share, as others are added
    assert (across.wire_s, across.hops) == (0.0, 6)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (("planes.scale_up.nvlink.topology=torus",), InvalidInput, "dims"),
        (("planes.scale_up.nvlink.topology=torus", "planes.scale_up.nvlink.dims=3x3"), InvalidInput, "3x3"),
        (("planes.scale_up.scale_out.ranks=4", "planes.scale_up.nvlink.ranks=4"), NotModelled, "joins 4 ranks of 8"),
    ],
)
def test_what_cannot_be_built_is_refused(change, error, said):
    with pytest.raises(error, match=said):
        build(catalog.machine("hgx-h100", change))


@pytest.mark.parametrize(
    ("spec", "error", "said"),
    [
        ("l2-swich:2", UnknownName, "l2-switch"),
        ("l2-switch:113", InvalidInput, "113 of 112"),
        ("l2-switch#112", InvalidInput, "numbered from 0"),
        ("plane:7", InvalidInput, "no plane|no route"),
        ("!", InvalidInput, "KIND:COUNT"),
    ],
)
def test_faults_that_cannot_be_are_refused(spec, error, said):
    with pytest.raises(error, match=said):
        seconds(net_of(CM384, failed=(spec,)), "all_to_all", teams_of(64))


def test_ranks_that_are_cut_off_are_left_out():
    broken = fail(build(CM384), ("node:1", "rank:1"), seed=3)
    assert 16 <= len(cut_off(broken)) <= 17
    answer = run(CM384, Ask(kind="all-reduce", payload_bytes=1e9, failed=("node:1",)))
    assert (answer.ranks, answer.lost_ranks) == (752, 16)


def test_a_rank_outside_the_fabric_is_named():
    net = net_of(CM384)
    with pytest.raises(InvalidInput, match="rank 768"):
        route(net.fabric, net.found, np.array([0]), np.array([768]))
    with pytest.raises(InvalidInput, match="--ranks"):
        run(CM384, Ask(kind="all-reduce", payload_bytes=1e9, ranks=769))


def test_every_part_of_every_kind_stops_links():
    for spec in ("cloudmatrix384", "hgx-h20 x 16", "mi300x-8 x 2", "dgx-h100-nvl256"):
        fabric = build(catalog.machine(spec))
        for kind, count in parts(fabric).items():
            for index in (0, count - 1):
                links = stopped(fabric, kind, index)
                assert len(links) > 0, (spec, kind, index)
                assert 0 <= links.min() <= links.max() < len(fabric.capacity_bytes_per_s)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_every_resource_has_a_name(routing):
    for spec in ("cloudmatrix384", "hgx-h20 x 16", "mi300x-8 x 2"):
        net = net_of(catalog.machine(spec), routing)
        count = len(net.found.capacity_bytes_per_s)
        names = [name(net, index) for index in range(0, count, max(count // 500, 1))]
        assert len(set(names)) == len(names)


def test_a_thousand_draws_leave_what_little_law_says():
    fabric = build(CM384)
    found = draw(fabric, components(CM384), 4000, 1, dies=2)
    rate = components(CM384)["chip"]
    assert found.broken["rank"].mean() == pytest.approx(384 * rate.failures_per_s * rate.repair_s, rel=0.15)
    assert (found.bandwidth_ratio <= 1.0).all()
    often = breakage(CM384, draws=200, mtbf={"optical module": 1e7}, seed=1)
    assert often.fabric_whole_ratio < 0.7
    assert sum(part.count for part in often.parts if part.kind == "module") == 5376


def test_prices_by_links_take_arrays_and_feel_faults():
    linked = LinkRates(machine=CM384, failed=("l2-switch:28",))
    ranks = np.array([16.0, 64.0, 768.0])
    table = linked.rates("scale_up", "all_to_all", ranks, 1)
    for index, count in enumerate(ranks):
        assert [float(column[index]) for column in table] == linked.rates("scale_up", "all_to_all", float(count), 1)
    healthy = cost_model(replace(CM384, links=Links()), BARE)
    broken = cost_model(replace(CM384, links=Links(failed=("l2-switch:28",))), BARE)
    big = Collective(kind="all_to_all", payload_bytes=1e9, ranks=768)
    assert float(broken.price(big).seconds) > 1.2 * float(healthy.price(big).seconds)
    far = Transfer(payload_bytes=1e9, plane="scale_up", distance=100)
    assert float(healthy.price(far).seconds) == float(cost_model(CM384, BARE).price(far).seconds)


def test_inner_axes_stay_near_and_random_places_do_not():
    tensor, data = place(net_of(catalog.machine("hgx-h100 x 16")), {"tp": 8, "dp": 16}, 1e9)
    assert tensor.reached_ratio["nvlink"] == pytest.approx(1.0)
    assert data.reached_ratio["scale_out"] == pytest.approx(1.0)
    assert tensor.shuffled_s > 5 * tensor.wire_s
    with pytest.raises(InvalidInput, match="--axes"):
        place(net_of(CM384), {"tp": 1000}, 1.0)


def test_small_jobs_pack_better_than_large_ones():
    assert allocated_ratio(48, [1, 2]) > 0.93 > allocated_ratio(48, [16, 24])


def test_a_picture_is_well_formed_and_shows_what_failed():
    net = net_of(CM384, failed=("module#0",))
    phase = collective(net, "all_to_all", teams_of(768), 1e9)[0]
    text = svg(net, phase.carried_bytes, phase.wire_s, "all-to-all & more")
    assert ET.fromstring(text).tag.endswith("svg")


@pytest.mark.parametrize("count", [2, 12, 300])
def test_a_graph_is_drawn_link_by_link(tmp_path, count):
    path = tmp_path / "net.yaml"
    ranks = {"topology": ["Switch", "Ring"], "npus_count": [count, 3], "bandwidth": [50, 10], "latency": [500, 500]}
    path.write_text(json.dumps(ranks))
    drawn = ET.fromstring(picture(str(path), Ask(kind="all-gather", payload_bytes=1e6, failed=("switch:1",))))
    lines = [each for each in drawn.iter() if each.tag.endswith("path")]
    assert len(lines) == 3 * count + 3 * count
    assert sum(each.get("stroke") == "#111111" for each in lines) == count  # those of the switch that failed
