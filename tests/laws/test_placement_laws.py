"""What crosses which level: bytes add up, and ranks at random places never send less far or run sooner."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.costing import cost_model
from taicang.errors import InvalidPlan, MissingFigure, TaicangError
from taicang.ops import Collective, Exchange, Transfer
from taicang.plans import ServePlan
from taicang.predict import Infeasible, infer
from taicang.predict.train import train
from taicang.stacks import BARE
from taicang.train_plans import TrainPlan, recipe


def machines():
    found = []
    for name in catalog.names("machine"):
        for spec in (name, f"{name} x 12"):
            try:
                found.append(catalog.machine(spec))
            except MissingFigure:
                continue
    return found


MACHINES = machines()
SIZES = st.floats(3, 11).map(lambda power: 10.0**power)


@settings(max_examples=150, deadline=None)
@given(
    machine=st.sampled_from(MACHINES), size=SIZES, share=st.floats(0, 1), far=st.floats(0, 1),
    kind=st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "dispatch",
                          "combine", "transfer"]),
)  # fmt: skip
def test_bytes_by_level_are_all_that_is_sent(machine, kind, size, share, far):
    ranks = max(2, round(machine.ranks**share))
    stride = max(1, round((machine.ranks // ranks) ** far))
    if kind in ("dispatch", "combine"):
        op = Exchange(kind=kind, tokens=64, token_bytes=size / 64, topk=8, experts=256, ranks=ranks, stride=stride)
    elif kind == "transfer":
        op = Transfer(payload_bytes=size, plane="scale_up", distance=(ranks - 1) * stride)
    else:
        op = Collective(kind=kind, payload_bytes=size, ranks=ranks, stride=stride)
    cost = cost_model(machine, BARE).price(op)
    assert len(cost.level_bytes) == len(machine.plane("scale_up").levels)
    assert min(float(part) for part in cost.level_bytes) >= -1e-9 * size
    assert float(sum(cost.level_bytes)) == pytest.approx(float(cost.sent_bytes), rel=1e-9)


@settings(max_examples=12, deadline=None)
@given(
    machine=st.sampled_from(["hgx-h100 x 16", "cloudmatrix384", "gb200-nvl72 x 8", "atlas-800-a3 x 32"]),
    tp=st.sampled_from([1, 2, 4, 8]), pp=st.sampled_from([1, 2, 4]), ep=st.sampled_from([1, 8, 16]),
    zero=st.sampled_from([1, 3]),
)  # fmt: skip
def test_random_places_send_farther_and_take_no_less_time(machine, tp, pp, ep, zero):
    on = catalog.machine(machine)
    assume(on.ranks % (tp * pp) == 0 and (on.ranks // pp) % ep == 0)
    plan = TrainPlan(
        global_batch=0, tp=tp, pp=pp, ep=ep, dp=0, zero=zero, seq=4096, recipe=recipe("bf16"), recompute="full"
    )
    try:
        placed = train("qwen3-30b-a3b", on, plan, explained=True)
    except InvalidPlan:
        assume(False)
    assume(not isinstance(placed, Infeasible))
    thrown = train("qwen3-30b-a3b", on, replace(plan, order="random"), explained=True)
    assert thrown.step.seconds == pytest.approx(placed.explained.random_s)
    # stages are the outermost axis: by chance the next one is nearer
    assert thrown.step.seconds >= (placed.step.seconds - placed.step.spent["pipeline sends"]) * (1 - 1e-9)
    levels = [level.name for level in on.plane("scale_up").levels]
    for near, far in zip(placed.explained.traffic, thrown.explained.traffic, strict=True):
        assert near.axis == far.axis
        sent = [sum(one.level_bytes.values()) for one in (near, far)]
        # an exchange sends a token once to a node and copies it there: those at random places share no node
        assert sent[0] <= 1.02 * sent[1] if near.axis == "ep" else sent[0] == pytest.approx(sent[1], rel=0.02)
        shares = [[one.inside_ratio[name] for name in levels] for one in (near, far)]
        assert shares[0][-1] == pytest.approx(1.0)
        assert all(np.diff(each).min(initial=0.0) >= -1e-12 for each in shares)
        if len(levels) > 1 and near.axis in ("tp", "ep"):
            assert shares[0][0] >= shares[1][0] - 1e-9


def test_a_permutation_by_seed_is_priced_link_by_link():
    plan = TrainPlan(
        global_batch=0, tp=8, dp=0, zero=1, seq=4096, recipe=recipe("bf16"), recompute="full", order="random:3"
    )
    steps = {}
    for order in ("tp-cp-ep-dp-pp", "random:3", "random:4", "random:3"):
        on = catalog.machine("hgx-h100 x 8", ["links.routing=ecmp"])
        steps.setdefault(order, []).append(train("llama-3-8b", on, replace(plan, order=order)).step.seconds)
    assert steps["random:3"][0] == steps["random:3"][1]
    assert steps["random:3"][0] != steps["random:4"][0]
    assert steps["random:3"][0] > steps["tp-cp-ep-dp-pp"][0]
    with pytest.raises(InvalidPlan, match="random:SEED"):
        train("llama-3-8b", "hgx-h100 x 8", replace(plan, order="random:x"))


@settings(max_examples=15)
@given(st.sampled_from(["cloudmatrix384", "hgx-h100 x 8", "hgx-h100 x 16", "gb200-nvl72 x 2"]), st.integers(0, 99),
       st.sampled_from([(), ("links.routing=adaptive",)]))  # fmt: skip
def test_a_serving_plan_at_random_places_sends_the_same_bytes_further(machine, seed, routing):
    load = {"input_tokens": 2048, "output_tokens": 128, "tpot_s": None, "batch": 16, "modes": ("aggregated",)}
    load |= {"plan": ServePlan(dp=32, ep=32, exchange="all_to_all")}
    near, far = (
        infer("deepseek-v3", catalog.machine(machine, (*routing, *sets)), **load)
        for sets in ((), (f"links.placed={seed}",))
    )
    assert far.decode.step_s >= near.decode.step_s * (1 - 1e-9)
    assert sum(far.decode.expert_bytes.values()) == pytest.approx(sum(near.decode.expert_bytes.values()))
    inside = {name: [0.0, 0.0] for name in near.decode.expert_bytes}
    for at, answer in enumerate((near, far)):
        total = 0.0
        for name, part in answer.decode.expert_bytes.items():
            total += part
            inside[name][at] = total
    assert all(before >= after * (1 - 1e-9) for before, after in inside.values())
    on = catalog.machine(machine)
    for level in on.plane("scale_up").levels:  # any two places are as likely as all others
        met = (min(level.ranks, on.ranks) - 1) / (on.ranks - 1)
        assert inside[level.name][1] == pytest.approx(met * total, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(spec=st.sampled_from([each.name for each in MACHINES]), size=SIZES, share=st.floats(0, 1),
       kind=st.sampled_from(["all_reduce", "all_to_all", "transfer"]))  # fmt: skip
def test_ranks_at_random_places_meet_where_any_two_ranks_do(spec, size, share, kind):
    """By counting: of all others that a rank may meet, so many lie in its unit of a level and in no smaller one."""
    try:
        machine = catalog.machine(spec, ["links.placed=3"])
    except TaicangError:  # a machine without links, or whose links are not public
        assume(False)
    ranks = max(2, round(machine.ranks**share))
    op = Transfer(payload_bytes=size, plane="scale_up") if kind == "transfer" else None
    cost = cost_model(machine, BARE).price(op or Collective(kind=kind, payload_bytes=size, ranks=ranks))
    here = np.arange(machine.ranks)
    apart = np.full(machine.ranks, -1)  # the smallest level at which each meets the first
    for at, level in reversed(list(enumerate(machine.plane("scale_up").levels))):
        apart[here < level.ranks] = at
    met = np.bincount(apart[1:], minlength=len(cost.level_bytes)) / max(machine.ranks - 1, 1)
    np.testing.assert_allclose(np.asarray(cost.level_bytes, float), met * float(sum(cost.level_bytes)), rtol=1e-9)
