"""What goes wrong during a replay: parts fail, planes weaken, instances slow down or change their pool."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.app.main import cli
from taicang.errors import InvalidInput, UnknownName
from taicang.plans import ServePlan
from taicang.predict.faults import Change, Faults, Outage, unit_ranks
from taicang.predict.replay import Replay, replay
from taicang.predict.system import System
from taicang.reliability import components
from taicang.serve.pace import PERIOD, Jitter
from taicang.serve.request import SECOND
from taicang.traffic.generate import arriving, fixed

TRACE = arriving(fixed(240, 1000, 100), 12.0)


def serve(faults: Faults, trace=TRACE, *, seed: int = 0, **system: object) -> Replay:
    chosen: dict[str, object] = {"plan": ServePlan(tp=2), "instances": 4} | system
    return replay("llama-3.1-8b", "hgx-h100", trace, System(faults=faults, **chosen), seed=seed)  # type: ignore[arg-type]


def by_id(result: Replay, name: str):
    return result.table[name][np.argsort(result.table["id"])]


def test_a_chip_takes_its_instance_and_a_node_all_of_them():
    chip, node = (
        serve(Faults(outages=[Outage(part=part, number=number, at_s=5.0, down_s=2.0)]))
        for part, number in (("chip", 5), ("node", 0))
    )
    assert [(each.instance, each.from_s, each.until_s) for each in chip.outages] == [(2, 5.0, 7.0)]
    assert [each.instance for each in node.outages] == [0, 1, 2, 3]
    for result in (chip, node):
        assert result.summary.finished == 240
        assert result.summary.losses.retries == result.table["retries"].sum() > 0
        assert result.summary.losses.lost_tokens == result.table["lost_tokens"].sum() > 0
        hit = result.table["retries"] > 0
        assert np.isnan(result.table["itl_p99_s"][hit]).all()
    assert chip.summary.losses.down_s == pytest.approx(2.0)
    waited = node.table["arrival_s"] + node.table["ttft_s"]
    late = (node.table["arrival_s"] > 5.0) & (node.table["arrival_s"] < 7.0)
    assert late.any()
    assert (waited[late] > 7.0).all()


def test_what_is_lost_is_what_was_computed():
    result = serve(Faults(outages=[Outage(part="instance", number=0, at_s=6.0)]))
    lost, tries = result.table["lost_tokens"], result.table["retries"]
    assert ((lost > 0) <= (tries > 0)).all()
    assert (lost <= tries * (1000 + 100)).all()
    assert result.summary.losses.stranded == 0
    assert not (result.table["instance"][result.table["arrival_s"] > 6.0] == 0).any()


def test_requests_that_start_over_too_often_are_given_up():
    every = [Outage(part="node", number=0, at_s=at, down_s=1.0) for at in (4.0, 8.0, 12.0)]
    result = serve(Faults(outages=every, retries=0))
    given_up = result.table["failed"] == 1
    assert result.summary.losses.given_up == given_up.sum() > 0
    assert result.summary.finished == 240 - given_up.sum()
    assert np.isnan(result.table["ttft_s"][given_up]).all()
    assert serve(Faults(outages=every, retries=3)).summary.losses.given_up == 0


def test_without_an_instance_left_requests_are_stranded_not_lost():
    result = serve(Faults(outages=[Outage(part="node", number=0, at_s=6.0)]))
    losses = result.summary.losses
    assert losses.stranded == 240 - result.summary.finished > 0
    assert not result.summary.partial


def test_spare_chips_shorten_an_outage_while_there_are_any():
    long = [Outage(part="chip", number=0, at_s=2.0, down_s=10.0), Outage(part="chip", number=2, at_s=3.0, down_s=10.0)]
    faults = {n: Faults(outages=long, spare_chips=n, restart_s=1.0) for n in (0, 1, 2)}
    down = {n: serve(each, instances=3).summary.losses.down_s for n, each in faults.items()}
    assert down[0] > down[1] > down[2] == pytest.approx(2.0)
    with pytest.raises(InvalidInput, match="--spares"):
        serve(Faults(spare_chips=9))


def test_breakdowns_come_at_their_rate_and_from_the_seed():
    trace = arriving(fixed(2000, 100, 5), 1.0)
    faults = Faults(mtbf_s={"software": 400.0}, restart_s=2.0)
    first, again, other = (serve(faults, trace, seed=seed) for seed in (1, 1, 2))
    assert first.outages == again.outages != other.outages
    expected = 8 * first.summary.span_s / 400.0
    for result in (first, other):
        assert abs(result.summary.losses.failures - expected) < 4.0 * math.sqrt(expected)
        assert result.summary.finished == 2000
    with pytest.raises(UnknownName, match="chip"):
        serve(Faults(mtbf_s={"chp": 5.0}))


def test_a_part_under_repair_does_not_fail_again():
    """Repairs take a day: failures in between would put it off for ever."""
    result = serve(Faults(mtbf_s={"chip": 50.0}))
    assert result.summary.finished == 240
    begun = [each.from_s for each in result.outages]
    assert len(begun) == 4 * len(set(begun))
    assert all(each.until_s is None or each.until_s - each.from_s > 86_400 for each in result.outages)


def test_a_weak_plane_slows_those_who_use_it():
    faults = Faults(degraded=[Change(what="scale_up", change_ratio=0.05, at_s=0.0, for_s=10.0)])
    whole, weak = serve(Faults()), serve(faults)
    early = TRACE.arrival_s < 8.0
    after = TRACE.arrival_s > 12.0
    for chosen, ratio in ((early, 1.05), (after, 0.999)):
        means = [
            float(result.table["tpot_s"][np.argsort(result.table["id"])][chosen].mean()) for result in (whole, weak)
        ]
        assert means[1] >= means[0] * ratio
    assert means[1] == pytest.approx(means[0], rel=0.02)
    alone = {"plan": ServePlan(), "instances": 4}
    assert serve(faults, **alone).summary.e2e == serve(Faults(), **alone).summary.e2e


def test_a_dead_plane_stops_who_cannot_do_without():
    faults = Faults(degraded=[Change(what="scale_up", change_ratio=0.0, at_s=5.0, for_s=2.0)])
    assert [(each.from_s, each.until_s) for each in serve(faults).outages] == [(5.0, 7.0)] * 4
    assert not serve(faults, plan=ServePlan(), instances=4).outages
    with pytest.raises(UnknownName, match="scale_up"):
        serve(Faults(degraded=[Change(what="scaleup", at_s=1.0)]))
    twice = [Change(what="scale_up", at_s=at, change_ratio=0.5, for_s=5.0) for at in (1.0, 3.0)]
    with pytest.raises(InvalidInput, match="one plane"):
        serve(Faults(degraded=twice))


def test_caches_take_another_way_when_theirs_is_dead():
    pools = {"plan": None, "instances": None, "prefill": "2x1", "decode": "2x1"}
    machine = catalog.machine("hgx-h100 x 2")
    assert set(machine.planes) >= {"rdma", "scale_up"}
    moved = []
    for faults in (Faults(), Faults(degraded=[Change(what="rdma", change_ratio=0.0, at_s=0.0)])):
        result = replay("llama-3.1-8b", "hgx-h100 x 2", TRACE, System(faults=faults, **pools))  # type: ignore[arg-type]
        moved.append(float(result.table["moved_s"].mean()))
        assert not result.outages
    assert moved[0] != moved[1]


@settings(max_examples=8, deadline=None)
@given(st.floats(1.0, 8.0), st.integers(0, 3))
def test_a_slow_instance_never_helps(ratio, which):
    slow = serve(Faults(slow=[Change(what=str(which), change_ratio=ratio, at_s=0.0)]))
    mine = slow.table["instance"] == which
    rest = float(slow.table["tpot_s"][~mine].mean())
    assert float(slow.table["tpot_s"][mine].mean()) >= rest * min(ratio, 1.3) * 0.97


def test_a_drained_instance_takes_nothing_and_loses_nothing():
    result = serve(Faults(drained=[Change(what="1", at_s=5.0, for_s=5.0)]))
    started = result.table["arrival_s"]
    away = (started > 5.0) & (started < 10.0)
    assert not (result.table["instance"][away] == 1).any()
    assert (result.table["instance"][started > 10.0] == 1).any()
    assert result.summary.losses.retries == 0
    assert not result.outages


def test_an_instance_changes_its_pool():
    pools = {"plan": None, "instances": None, "prefill": "3x1", "decode": "1x1"}
    faults = Faults(switched=[(0, 5.0)], restart_s=1.0)
    result = serve(faults, **pools)
    assert result.summary.losses.switches == 1
    assert result.summary.finished == 240
    late = result.table["arrival_s"] > 7.0
    assert set(result.table["instance"][late]) == {0, 3}
    assert any("changed its pool" in note for note in result.notes)
    kept = serve(Faults(switched=[(3, 5.0)]), **pools)
    assert kept.summary.losses.switches == 0, "the last one of a pool stays"
    with pytest.raises(InvalidInput, match="--switch"):
        serve(Faults(switched=[(0, 5.0)]), **(pools | {"decode": "1x2"}))
    with pytest.raises(InvalidInput, match="--switch"):
        serve(Faults(switched=[(0, 5.0)]))


def test_jitter_is_the_slowest_of_its_ranks():
    """Mean of the greatest of n exponentials: the n-th harmonic number."""
    for ranks in (1, 8, 64):
        harmonic = sum(1.0 / i for i in range(1, ranks + 1))
        mean = Jitter(1e-4, ranks, 3).sum(0, PERIOD) / PERIOD / SECOND
        assert mean == pytest.approx(1e-4 * harmonic, rel=5.0 / math.sqrt(PERIOD))
    parts = Jitter(1e-4, 8, 3)
    assert parts.sum(5, 9000) == parts.sum(5, 4000) + parts.sum(4005, 5000)
    assert serve(Faults(jitter_s=1e-3)).summary.tpot.mean_s > serve(Faults()).summary.tpot.mean_s + 1e-3


def test_units_of_a_supernode():
    machine = catalog.machine("cloudmatrix384")
    ranks = unit_ranks(machine)
    assert (ranks["chip"], ranks["npu"], ranks["node"]) == (2, 2, 16)
    assert ranks["rack"] == float(components(machine)["rack"].blast_chips) * 2


ON = [
    "replay",
    "--rate",
    "20/s",
    "--requests",
    "200",
    "--input",
    "800",
    "--output",
    "50",
    "llama-3.1-8b",
    "--on",
    "hgx-h100",
]


def run(*arguments: str):
    return CliRunner().invoke(cli, [*ON, *arguments], catch_exceptions=False)


def test_the_command_says_what_failed(tmp_path):
    result = run("--fail", "node:0@3s+1s", "--out", str(tmp_path), "--perfetto")
    assert "failures of instances: 8" in result.output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["outages"][0] == {"instance": 0, "from_s": 3.0, "until_s": 4.0}
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert sum(event["name"] == "down" for event in events) == 8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--fail", "nod:0@3s"], "it has chip"),
        (["--fail", "node:7@3s"], "there is no node 7 of 1"),
        (["--fail", "9@3s"], "there is no instance 9 of 8"),
        (["--slow", "9=2@3s"], "there is no instance 9 of 8"),
    ],
)
def test_parts_that_are_not_there(arguments, says):
    with pytest.raises(InvalidInput, match=says):
        run(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [["--fail", "3"], ["--fail", "node@3s"], ["--degrade", "scale_up@3s"], ["--degrade", "scale_up=1.5@3s"],
     ["--slow", "0=fast@3s"], ["--switch", "0@3s+4s"], ["--mtbf", "chip"]],
)  # fmt: skip
def test_malformed_options(arguments):
    assert run(*arguments).exit_code == 2
