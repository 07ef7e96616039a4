"""What the live page is shown: the figures of the record and the log, of the machine's last seconds."""

from __future__ import annotations

import numpy as np
import pytest

from taicang.live.asked import Refused
from taicang.live.clock import StillClock
from taicang.live.supernode import Stream, Supernode
from taicang.live.watch import WINDOW_S, Watch
from taicang.page.traffic import live_charts
from taicang.plans import ServePlan
from taicang.predict.links import Links, _sent, _steps
from taicang.predict.standing import stand
from taicang.predict.system import System
from taicang.serve.request import SECOND
from taicang.serve.summary import Limits

UNTIL_S = 30.0


@pytest.fixture(scope="module", params=["together", "apart"])
def watched(request):
    """Half a minute of a machine at ten requests a second, watched every second; answered together or in two pools."""
    clock = StillClock()
    pools = {"instances": 4} if request.param == "together" else {"prefill": "1x4", "decode": "1x4"}
    standing = stand("qwen3-32b", "atlas-800-a3-752t", System(**pools), context=2048.0, block_tokens=16)
    machine = Supernode(standing.cluster, clock, strike=standing.strike, layout=standing.layout)
    watch = Watch(machine, standing, Limits(ttft_s=1.0, tpot_s=0.05))
    seen, since, after, rows = [], 0, 0, []
    for number in range(round(10 * UNTIL_S)):
        clock.until(number / 10)
        machine.submit(Stream(), 1500 + number % 7, 100 + number % 50)
        if number % 10 == 0:
            told = watch.views["watch"]({"since": str(since), "after": str(after)})
            since, after = told["next"], told["after"]
            rows += told["ended_rows"]
            seen.append(told)
    clock.until(UNTIL_S)
    return machine, watch, seen, rows


def test_the_figures_are_those_of_the_window(watched):
    machine, watch, _, _ = watched
    told = watch.traffic()
    table = machine.served.columns()
    end = table["arrival_s"] + table["e2e_s"]
    recent = (end > UNTIL_S - WINDOW_S) & ~np.isnan(table["ttft_s"])
    assert recent.sum() > 10
    assert told["ttft_p50"] == pytest.approx(np.median(table["ttft_s"][recent]))
    assert told["tpot_p99"] == pytest.approx(np.quantile(table["tpot_s"][recent], 0.99))
    assert told["requests_per_s"] == pytest.approx(recent.sum() / WINDOW_S, rel=1e-6)
    good = recent & (table["ttft_s"] <= 1.0) & (table["tpot_s"] <= 0.05)
    assert told["goodput_per_s"] == pytest.approx(good.sum() / WINDOW_S, rel=1e-6)


def test_every_chart_has_its_figures(watched):
    _, watch, seen, _ = watched
    keys = [each["key"] for chart in watch.views["charts"]({}) for each in chart["series"]]
    assert len(keys) == len(set(keys))
    assert set(keys) <= set(seen[-1]["traffic"])
    assert all(len(chart["title"]) == 2 for chart in live_charts(None, None, ["all"]))
    powered = [seen[-1]["traffic"][key] for key in keys if key.startswith("power")]
    assert all(power is None or power > 0.0 for power in powered)


def test_tokens_per_second_are_those_that_were_made(watched):
    machine, _, seen, _ = watched
    made = seen[-1]["traffic"]["output_tokens_per_s"]
    table = machine.served.columns()
    spread = (table["output_tokens"] / table["e2e_s"]).mean()
    assert made == pytest.approx(spread * np.mean([each["traffic"]["running"] for each in seen[-5:]]), rel=0.3)


def test_each_request_that_ended_is_told_once(watched):
    machine, _, seen, rows = watched
    table = machine.served.since(0).columns()
    served = table["ttft_s"][: seen[-1]["next"]]
    answers = [row for row in rows if row[2] > row[1]]
    assert len(answers) == (~np.isnan(served)).sum()
    ends = sorted(row[2] for row in answers)
    wanted = sorted((table["arrival_s"] + table["e2e_s"])[: seen[-1]["next"]])
    assert ends == pytest.approx(wanted, abs=1e-5)
    if "prefill" in machine.cluster.pools:
        assert {row[3] for row in rows if row[2] == row[1]} == {0}, "steps of the instance that reads prompts"


def test_requests_under_way_are_told(watched):
    machine, watch, _, _ = watched
    told = watch.running()
    here = sum(len(group.running) for each in machine.instances.values() for group in each.groups)
    assert len(told) >= 0.5 * here
    assert all(start <= first <= now for start, first, now, _ in told)


def test_a_node_shows_all_its_ranks(watched):
    machine, watch, _, _ = watched
    told = watch.node(0)
    assert [each["rank"] for each in told["ranks"]] == list(range(len(told["ranks"])))
    held = {each["instance"] for each in told["ranks"]} - {None}
    assert held == set(machine.instances)
    with pytest.raises(Refused, match="there is no node 99"):
        watch.node(99)
    for text in ("-1", "x", "1e3", "9" * 19, "²"):
        with pytest.raises(Refused, match="whole number"):
            watch.views["node"]({"number": text})


def test_links_carry_what_the_steps_send(watched):
    _, watch, _, _ = watched
    told = watch.links()
    assert told["rows"]
    loads = [one["busy"] for row in told["rows"] for one in row["lines"]]
    assert all(0.0 <= part <= 1.0 for line in loads for part in line)
    shares = [share for _, share, _ in told["hottest"]]
    assert shares == sorted(shares, reverse=True)
    assert 0.0 < shares[0] < 1.0, "two chips of an instance exchange at every layer"


def test_links_are_busy_as_one_step_says():
    """Behind one switch a rank's link carries what its steps send, each second, of what it can."""
    plan = ServePlan(tp=4)
    standing = stand("qwen3-32b", "hgx-h100", System(plan=plan, instances=1), context=2048.0, block_tokens=16)
    clock = StillClock()
    machine = Supernode(standing.cluster, clock, strike=standing.strike, layout=standing.layout)
    for number in range(100):
        clock.until(number / 10)
        machine.submit(Stream(), 1500, 100)
    watch = Watch(machine, standing, Limits())
    begin, now = watch._span()
    log, (part,) = watch._log(begin), watch.parts
    links = Links(standing)
    sent = 0.0
    for each in _steps(log, 0, part.pool, begin, now):
        for kind, ranks, _, payload in _sent(part.setup, each / each[0]) if each[0] else ():
            assert (kind, ranks) in (("all_reduce", 4), ("all_gather", 4))
            sent += each[0] * payload * (2.0 if kind == "all_reduce" else 1.0) * (ranks - 1) / ranks
    (level,) = links.net.fabric.levels
    busy = links.busy(log, begin, now)
    assert 0.0 < busy[0] < 1.0
    assert busy[0] == pytest.approx(sent / WINDOW_S / level.bandwidth_bytes_per_s, rel=1e-6)


def test_what_the_page_asks_changes_nothing(watched):
    machine, watch, _, _ = watched
    before = machine.now, len(machine.served), len(machine.cluster.log)
    for name, make in watch.views.items():
        make({"number": "0"} if name == "node" else {})
    assert (machine.now, len(machine.served), len(machine.cluster.log)) == before
    assert machine.now >= UNTIL_S * SECOND
