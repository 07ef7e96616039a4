"""The plan to run is the replayed one with the most goodput within the limits."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from taicang.app.main import cli
from taicang.plans import ServePlan
from taicang.predict import choose as module
from taicang.predict.choose import choose, spans, walk
from taicang.predict.confirm import _none
from taicang.search.door import prepare
from taicang.search.result import Choice, Pool

STANDARD = [
    "search", "deepseek-v3", "--on", "hgx-h200 x 4", "--input", "4000", "--output", "1000", "--ttft", "2s",
    "--tpot", "50ms", "--no-explain",
]  # fmt: skip


def plan(mode, **fields):
    role = {"aggregated": "both", "decode": "decode"}.get(mode, "decode")
    pool = Pool(role=role, plan=ServePlan(**fields), instances=1, chips=8, sequences=8.0)
    return Choice(
        machine="m", stack="s", quant="auto", mode=mode, pools=(pool,), ttft_s=1.0, tpot_s=0.01, requests_per_s=2.0,
        output_tokens_per_s=1.0, chips=8, machine_chips=8, output_tokens_per_s_per_chip=1.0,
        output_tokens_per_s_per_w=None, output_tokens_per_s_per_usd=None, bands={},
    )  # fmt: skip


RANKED = [
    plan("aggregated", dp=8, ep=8),
    plan("aggregated", dp=8, ep=8, redundant=8),
    plan("aggregated", dp=4, ep=4),
    plan("aggregated", dp=2, ep=2),
    plan("disaggregated", dp=8, ep=8),
    plan("disaggregated", dp=4, ep=4),
]


JOB = prepare("llama-3.1-8b", "hgx-h100", input_tokens=100, output_tokens=100)


@pytest.fixture
def keeping(monkeypatch):
    """Replays as said by rank: the largest share of its rate at which each keeps the limits, and those refused."""

    def told(most, refused=()):
        seen = []

        def confirm(job, choice, **how):
            rank = next(i for i, each in enumerate(RANKED, 1) if each is choice)
            seen.append((rank, how["load_ratio"]))
            if rank in refused:
                return _none("request needs 9 tokens of cache, group holds 8", 1.0, choice.pools, {})
            keeps = how["load_ratio"] <= most.get(rank, 0.0)
            return replace(
                _none("", 1.0, choice.pools, {}), keeps=keeps, delivered_ratio=1.0, load_ratio=how["load_ratio"]
            )

        monkeypatch.setattr(module, "confirm", confirm)
        return seen

    return told


def test_the_walk_takes_each_layout_once_and_a_mode_of_its_own_last():
    assert list(walk(RANKED, 10)) == [1, 3, 4, 5, 6]
    assert list(walk(RANKED, 1)) == [1]
    assert list(walk(RANKED, 2)) == [1, 5]
    assert list(walk(RANKED, 3)) == [1, 3, 5]


def test_the_most_goodput_is_chosen_and_the_others_are_passed_over_with_the_reason(keeping):
    keeping({3: 0.5, 4: 0.9, 5: 0.9}, refused=(1,))
    found = choose(JOB, RANKED, most=9)
    assert (found.rank, found.keeps, found.load_ratio) == (4, True, 0.9)
    assert found.goodput_tokens_per_s_per_chip == 0.9
    assert {each.ranks: each.why for each in found.passed} == {
        (1,): "the replay refuses it: request needs 9 tokens of cache, group holds 8",
        (2,): "like another",
        (3,): "0 tok/s/chip within the limits",
    }
    assert choose(JOB, RANKED, most=2).rank == 5


def test_less_load_is_tried_only_while_it_is_more_than_another_delivers(keeping):
    seen = keeping({1: 0.8})
    assert choose(JOB, RANKED, most=3).rank == 1
    assert seen == [(1, 1.0), (1, 0.9), (1, 0.8), (3, 1.0), (3, 0.9), (5, 1.0), (5, 0.9)]


def test_goodputs_that_chance_may_swap_leave_the_ranking_as_it_is(keeping, monkeypatch):
    keeping({1: 1.0, 3: 1.0})
    least = {1: 1.0 - 0.9 * module.LEVEL_RATIO, 3: 1.0}
    told = module.confirm
    monkeypatch.setattr(
        module, "confirm",
        lambda job, choice, **how: replace(
            told(job, choice, **how), delivered_ratio=least.get(RANKED.index(choice) + 1, 0.0)
        ),
    )  # fmt: skip
    assert choose(JOB, RANKED, most=2).rank == 1


def test_where_none_keeps_at_any_load_the_closed_form_chooses_and_warns(keeping):
    keeping({})
    found = choose(JOB, RANKED, most=3)
    assert (found.rank, found.keeps) == (1, False)
    assert "none of the 3 replayed plans keeps its limits" in found.warning
    assert "closed form" in found.warning


def test_nothing_is_replayed_where_nobody_asks():
    found = choose(JOB, RANKED, most=0)
    assert (found.rank, found.keeps, found.warning) == (1, None, "")
    assert choose(JOB, [plan("decode")], most=2).keeps is None


def test_a_load_that_all_plans_carry_is_what_they_are_replayed_at(keeping):
    seen = keeping({3: 1.0, 4: 1.0})
    assert choose(JOB, RANKED, most=9, load_per_s=1.0).rank == 3
    assert seen == [(1, 0.5), (3, 0.5)]


def test_spans():
    assert spans((1, 3, 4, 5, 9)) == "1, 3 to 5, 9"


def test_the_command_chooses_what_replay_confirms_and_hands_that_over(tmp_path):
    runner = CliRunner()
    args = [*STANDARD, "--json", "--emit", "sglang", "--out", str(tmp_path)]
    (found,) = json.loads(runner.invoke(cli, args, catch_exceptions=False).stdout)
    chosen = found["chosen"]
    assert chosen["keeps"]
    assert chosen["goodput_tokens_per_s_per_chip"] > 500.0
    assert all(each["within_ratio"] >= 0.9 for each in found["replayed"] if each["keeps"])
    scripts = {path.name for path in tmp_path.glob("*.sh")}
    assert scripts >= ({"serve.sh"} if chosen["choice"]["mode"] == "aggregated" else {"prefill.sh", "decode.sh"})


@pytest.mark.slow
def test_stricter_attainment_costs_goodput_and_users_are_a_load():
    def goodput(*more):
        (found,) = json.loads(CliRunner().invoke(cli, [*STANDARD, *more, "--json"], catch_exceptions=False).stdout)
        return found["chosen"]["goodput_tokens_per_s_per_chip"], found["chosen"]["choice"]

    assert goodput("--attainment", "99%")[0] < goodput()[0]
    few, choice = goodput("--users", "64")
    assert choice["requests_per_s"] * (choice["ttft_s"] + 999 * choice["tpot_s"]) == pytest.approx(64)
    assert few < goodput("--users", "640")[0]
