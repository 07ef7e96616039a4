"""The plan to run is the best-ranked one that keeps its limits under replay."""

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

BRIM = ["search", "deepseek-v3", "--on", "hgx-h200 x 4", "--ttft", "2s", "--tpot", "50ms", "--no-explain"]


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


@pytest.fixture
def keeping(monkeypatch):
    """Replays as said by rank: those that keep the limits, those that are refused."""

    def told(keeps, refused=()):
        def confirm(job, choice, **how):
            rank = next(i for i, each in enumerate(RANKED, 1) if each is choice)
            if rank in refused:
                return _none("request needs 9 tokens of cache, group holds 8", 1.0, choice.pools, {})
            return replace(
                _none("", 1.0, choice.pools, {}), keeps=rank in keeps, delivered_ratio=1.0, load_ratio=how["load_ratio"]
            )

        monkeypatch.setattr(module, "confirm", confirm)
        monkeypatch.setattr(module, "sustained", lambda *_, **__: None)

    return told


def test_the_walk_takes_each_layout_once_and_a_mode_of_its_own_last():
    assert list(walk(RANKED, 10)) == [1, 3, 4, 5, 6]
    assert list(walk(RANKED, 1)) == [1]
    assert list(walk(RANKED, 2)) == [1, 5]
    assert list(walk(RANKED, 3)) == [1, 3, 5]


def test_what_breaks_its_limits_or_is_refused_is_passed_over_with_the_reason(keeping):
    keeping({4, 5}, refused=(1,))
    found = choose(None, RANKED, most=9)
    assert (found.rank, found.keeps, [each.rank for each in found.replayed]) == (4, True, [1, 3, 4])
    assert {each.ranks: each.why for each in found.passed} == {
        (1,): "the replay refuses it: request needs 9 tokens of cache, group holds 8",
        (2,): "like one that failed",
        (3,): "misses the limits",
    }
    assert choose(None, RANKED, most=2).passed[-1].why == "not replayed"


def test_plans_that_prefill_as_one_whose_prompts_queued_are_skipped(monkeypatch):
    def pair(dp, prompts, rate):
        made = replace(plan("disaggregated", dp=dp, ep=dp), requests_per_s=rate)
        first = Pool(role="prefill", plan=ServePlan(tp=8), instances=2, chips=8, sequences=prompts)
        return replace(made, pools=(first, *made.pools))

    ranked = [pair(8, 4.0, 2.0), pair(4, 4.0, 1.99), pair(2, 2.0, 1.9), pair(16, 4.0, 1.5)]
    queued = replace(_none("", 1.0, (), {}), ttft_s=3.0)
    monkeypatch.setattr(module, "confirm", lambda *_, **__: queued)
    monkeypatch.setattr(module, "sustained", lambda *_, **__: None)
    job = prepare("llama-3.1-8b", "hgx-h100", input_tokens=100, output_tokens=100, ttft_s=2.0)
    assert [each.rank for each in choose(job, ranked, most=9).replayed] == [1, 3, 4]


def test_the_first_that_keeps_ends_the_walk(keeping):
    keeping({1, 3})
    found = choose(None, RANKED, most=9)
    assert (found.rank, len(found.replayed), found.passed, found.warning) == (1, 1, (), "")


def test_where_none_keeps_the_closed_form_chooses_and_warns(keeping):
    keeping(())
    found = choose(None, RANKED, most=3)
    assert (found.rank, found.keeps) == (1, False)
    assert "none of the 3 replayed plans keeps its limits" in found.warning
    assert "closed form" in found.warning


def test_nothing_is_replayed_where_nobody_asks():
    found = choose(None, RANKED, most=0)
    assert (found.rank, found.keeps, found.warning) == (1, None, "")
    assert choose(None, [plan("decode")], most=2).keeps is None


def test_a_load_that_all_plans_carry_is_what_they_are_replayed_at(keeping):
    keeping({1})
    assert choose(None, RANKED, most=1, load_per_s=1.0).replayed[0].ran.load_ratio == 0.5


def test_spans():
    assert spans((1, 3, 4, 5, 9)) == "1, 3 to 5, 9"


def test_the_command_chooses_what_replay_confirms_and_hands_that_over(tmp_path):
    """The best by the closed form runs its prefill pool to the brim and misses; one below it keeps."""
    runner = CliRunner()
    args = [*BRIM, "--json", "--emit", "sglang", "--out", str(tmp_path)]
    (found,) = json.loads(runner.invoke(cli, args, catch_exceptions=False).stdout)
    chosen = found["chosen"]
    assert chosen["rank"] > 1
    assert chosen["keeps"]
    assert found["replayed"][0]["rank"] == 1
    assert not found["replayed"][0]["keeps"]
    assert 1 in chosen["passed"][0]["ranks"]
    scripts = {path.name for path in tmp_path.glob("*.sh")}
    assert scripts == ({"serve.sh"} if chosen["choice"]["mode"] == "aggregated" else {"prefill.sh", "decode.sh"})
    shown = runner.invoke(cli, [*BRIM, "--confirm", "10"], catch_exceptions=False).output
    assert "chosen: 1," not in shown
    assert "passed over: 1" in shown
