"""Memory beside the instances: what goes first, what comes from where, how long it takes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.app.main import cli
from taicang.catalog.costing import cost_model
from taicang.catalog.models import model
from taicang.errors import InvalidInput
from taicang.plans import ServePlan
from taicang.predict.replay import replay
from taicang.predict.system import System
from taicang.search.choices import quantisation
from taicang.serve.build import Tier, link
from taicang.serve.cache import order
from taicang.serve.pace import Link
from taicang.serve.request import SECOND, Request
from taicang.serve.setup import Setup
from taicang.serve.store import Shelf, Store
from taicang.traffic.change import due, isolated, overlaid
from taicang.traffic.generate import arriving, fixed, sessions

LINK = Link(base=100, per_token=1)
USES = st.lists(st.integers(0, 9), max_size=80)


@given(USES, st.integers(1, 5))
def test_the_block_used_least_often_goes_first(uses, room):
    held, often, last = order("lfu"), Counter(), {}
    for now, block in enumerate(uses):
        held.pop(block, None)
        held[block] = now
        often[block] += 1
        last[block] = now
        if len(held) > room:
            gone, value = held.popitem(last=False)
            assert value == last.pop(gone)
            assert (often[gone], value) <= min(((often[b], at) for b, at in last.items()), default=(1e9, 0))
            del often[gone]
        assert set(last) == {b for b in range(10) if b in held}


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6), max_size=40), st.integers(1, 20))
def test_a_larger_shelf_holds_whatever_a_smaller_one_does(prompts, room):
    small, large = (Shelf("", size, LINK) for size in (room, room + 5))
    for now, blocks in enumerate(prompts):
        for shelf in (small, large):
            shelf.keep(blocks, 0, now)
        assert all(large.holds(block, 0, now) for block in range(31) if small.holds(block, 0, now))
        assert len(small) <= room


def test_without_a_limit_blocks_stay_for_days():
    shelf = Shelf("", 10, LINK)
    shelf.keep([1], 0, 0)
    assert shelf.holds(1, 0, 7 * 86_400 * SECOND)


def test_blocks_unused_for_too_long_are_gone():
    shelf = Shelf("", 10, LINK, ttl=50)
    shelf.keep([1, 2], 0, 0)
    shelf.keep([2], 0, 40)
    assert not shelf.holds(1, 0, 60)
    assert shelf.holds(2, 0, 60)
    assert shelf.expired == 1


def test_a_prompt_takes_each_block_from_the_nearest_shelf_that_has_it():
    near, far = Shelf("near", 2, LINK), Shelf("far", 100, Link(base=1000, per_token=3))
    store = Store((near, far), 10)
    first = Request(0, 0, 45, 1, blocks=[1, 2, 3, 4, 5])
    store.put(first, 0)
    again = Request(1, 0, 45, 1, blocks=[1, 2, 3, 4, 5])
    again.place = 7
    found = store.match(again, 7, 0)
    assert [shelf.name for shelf in found] == ["near", "near", "far", "far"]
    # side by side: the far shelf's two blocks take longest
    assert store.load(again, found, 0, 5) == 5 + 1000 + 3 * 20
    assert (near.loaded_blocks, far.loaded_blocks) == (2, 2)
    # the next load of this instance waits for the link, another instance's does not
    assert store.load(again, found, 30, 5) == 5 + 1060 + 1030
    again.place = 8
    assert store.load(again, found, 30, 5) == 5 + 1030


def test_an_instance_that_is_lost_takes_its_own_shelf_along():
    own = Shelf("", 10, LINK, own=True)
    own.keep([1], 3, 0)
    assert own.holds(1, 3, 0)
    assert not own.holds(1, 4, 0)
    own.lose(3)
    assert not own.holds(1, 3, 0)


TALKS = sessions(120, 6, shared_tokens=1000, new_tokens=3000, output_tokens=100, delay_s=20.0, seed=1)
TALKS = arriving(TALKS, 4.0, seed=1)
NEAR = Tier(name="host", size_bytes=100e9, plane="host", own=True)
POOL = Tier(name="pool", size_bytes=400e9, plane="rdma")


def served(*tiers: Tier, router: str = "round-robin", **changes: object):
    system = System(instances=4, plan=None, router=router, sequences=8, tiers=tiers, **changes)
    return replay("llama-3.1-8b", "hgx-h100", TALKS, system)


def test_memory_beside_the_instances_adds_hits_and_saves_time():
    without, own, shared = served(), served(NEAR), served(POOL)
    assert without.summary.tiers == ()
    for result in (own, shared):
        (tier,) = result.summary.tiers
        assert tier.hit_ratio > 0.0
        # some is loaded for nothing: what lay before it left the device meanwhile, or somebody computed it
        assert 1.0 <= tier.hit_ratio / result.summary.pooled_ratio < 1.25
        assert (result.table["load_s"] > 0).sum() == tier.loads
        assert result.summary.ttft.mean_s < without.summary.ttft.mean_s
    # round-robin sends a session's turns to all instances: what one computed, only a shared pool has for the others
    assert shared.summary.tiers[0].hit_ratio > own.summary.tiers[0].hit_ratio


def test_the_next_turn_finds_the_answer_where_whoever_made_it_wrote_it():
    talks = arriving(sessions(40, 4, shared_tokens=500, new_tokens=200, output_tokens=600, delay_s=5.0, seed=1), 2.0)
    pools = {"prefill": "2x2", "decode": "1x4"}
    ratios = [
        replay("llama-3.1-8b", "hgx-h100", talks, System(tiers=(POOL,), **given)).summary.tiers[0].hit_ratio
        for given in (pools, pools | {"keep_answers": True})
    ]
    assert ratios[1] > 1.3 * ratios[0] > 0.0
    apart = System(tiers=(POOL,), router="round-robin", instances=2, plan=ServePlan(tp=1))
    found = [
        replay("llama-3.1-8b", "hgx-h100", talks, replace(apart, keep_answers=keeps)).summary.tiers[0].hit_ratio
        for keeps in (False, True)
    ]
    assert found[0] == found[1] > ratios[0]  # what an instance that does both computed is written anyway


def test_tiers_need_prefix_hashes():
    with pytest.raises(InvalidInput, match="no prefix hashes"):
        replay("llama-3.1-8b", "hgx-h100", arriving(fixed(10, 100, 10), 1.0), System(tiers=(POOL,)))


def test_clients_kept_apart_share_nothing():
    twice = overlaid([TALKS, TALKS])
    assert twice.client is not None
    apart = isolated(twice)
    ids = [{block for i, ids in enumerate(apart.blocks) if apart.client[i] == who for block in ids} for who in (0, 1)]
    assert not ids[0] & ids[1]
    assert [len(each) for each in apart.blocks] == [len(each) for each in twice.blocks]


def test_the_earliest_deadline_first_saves_the_urgent():
    trace = due(arriving(fixed(400, 2000, 100), 30.0, seed=2), 60.0)
    urgent = np.arange(400) % 4 == 0
    trace = due(type(trace)(**{n: getattr(trace, n) for n in trace.__slots__} | {
        "deadline_s": np.where(urgent, 1.0, 60.0)}), 60.0)  # fmt: skip
    fair, edf = (
        replay("llama-3.1-8b", "hgx-h100", trace, System(instances=1, order=order)) for order in ("arrival", "deadline")
    )

    def waited(result) -> float:
        return float(result.table["queue_s"][urgent[result.table["id"]]].mean())

    assert waited(edf) < 0.5 * waited(fair)
    shed = replay("llama-3.1-8b", "hgx-h100", due(TALKS, 0.05), System(instances=1, sequences=2, late="turn_away"))
    assert shed.summary.turned_away > 0
    assert shed.summary.finished + shed.summary.turned_away == len(TALKS)


def test_the_command_names_tiers_and_refuses_deadlines_that_are_not_there():
    asked = [
        "replay",
        "--turns",
        "4",
        "--shared",
        "1000",
        "--rate",
        "4/s",
        "--requests",
        "80",
        "llama-3.1-8b",
        "--on",
        "hgx-h100",
    ]
    runner = CliRunner()
    done = runner.invoke(cli, [*asked, *["--offload", "50GB", "--ssd", "1TB", "--ssd-bandwidth", "5GB/s", "--json"]])
    assert done.exit_code == 0, done.output
    tiers = json.loads(done.output)["summary"]["tiers"]
    assert [tier["name"] for tier in tiers] == ["host", "ssd"]
    refused = runner.invoke(cli, [*asked, "--late", "turn-away"])
    assert "no deadlines" in str(refused.exception)


def test_scattered_blocks_cost_a_latency_each():
    """The smaller the block, the more messages; a plane of long latency suffers most."""
    machine, stack = catalog.machine("cloudmatrix384"), catalog.stack("cloudmatrix-infer")
    net = model("deepseek-r1")
    plan = ServePlan(tp=32, sp=True, ep=32, quant=quantisation("int8", net, machine.chip))
    setup = Setup(model=net, plan=plan, machine=machine, stack=stack, price=cost_model(machine, stack).price)
    for plane, latency in (("scale_up", 1e-6), ("vpc", 30e-6)):
        whole, fine, finer = (
            link(setup, setup, plane, block_tokens=block).ticks(4096) / SECOND for block in (0, 128, 64)
        )
        assert whole < fine < finer
        messages = 4096 / 32 * net.layers * (1 / 64 - 1 / 128)
        assert finer - fine >= 0.99 * messages * latency
