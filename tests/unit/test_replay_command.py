"""``taicang replay`` and ``taicang trace`` as a user runs them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from taicang.app.main import cli
from taicang.errors import InvalidInput, UnknownName
from taicang.predict.faults import Faults, Outage
from taicang.predict.replay import replay
from taicang.predict.system import System
from taicang.traffic.generate import arriving, fixed, from_profile, gaps

ON = ["llama-3.1-8b", "--on", "hgx-h100", "--tp", "1"]
LOOP = ["replay", "--closed-loop", "8", "--input", "512", "--output", "64", "--requests", "80", *ON]


def down(number: int, at_s: float, down_s: float | None = None, part: str = "instance") -> Outage:
    return Outage(part=part, number=number, at_s=at_s, down_s=down_s)


def run(*arguments: str):
    return CliRunner().invoke(cli, list(arguments), catch_exceptions=False)


def test_closed_loop_prints_latencies_and_load():
    result = run(*LOOP, "--ttft", "1s", "--tpot", "50ms")
    assert result.exit_code == 0
    for word in ("TTFT", "TPOT", "ITL", "goodput", "80 requests", "seed 0"):
        assert word in result.output


def test_json_and_files_agree_and_the_same_seed_gives_the_same_bytes(tmp_path):
    wide = [*LOOP, "--spread", "0.3", "--seed", "7", "--json"]
    first, second = (run(*wide, "--out", str(tmp_path / name)) for name in "ab")
    assert first.output == second.output
    assert json.loads(first.output)["summary"]["finished"] == 80
    for name in ("summary.json", "requests.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    table = (tmp_path / "a" / "requests.csv").read_text().splitlines()
    assert len(table) == 81
    assert table[0].startswith("id,arrival_s,input_tokens,output_tokens")


def test_disaggregated_pools_move_caches():
    result = replay(
        "llama-3.1-8b", "hgx-h100", arriving(fixed(100, 2000, 50), 5.0), System(prefill="2x1", decode="2x1")
    )
    assert result.pools == ("2 x TP1", "2 x TP1")
    assert (result.table["moved_s"] > 0).all()


def test_a_failed_instance_returns_and_no_request_is_lost():
    trace = arriving(fixed(200, 1000, 100), 10.0)
    system = System(instances=2, faults=Faults(outages=[down(0, 5.0, 3.0), down(1, 6.0, 1.0)]))
    result, whole = (replay("llama-3.1-8b", "hgx-h100", trace, each) for each in (system, System(instances=2)))
    assert result.summary.finished == 200
    assert result.summary.e2e.max_s > whole.summary.e2e.max_s + 0.9


def test_an_interrupt_gives_what_is_finished():
    def interrupt(finished: int, now: int) -> None:
        raise KeyboardInterrupt

    trace = arriving(fixed(20_000, 500, 20), 20.0)
    with pytest.raises(KeyboardInterrupt):
        replay("llama-3.1-8b", "hgx-h100", trace, System(), progress=interrupt)
    result = replay("llama-3.1-8b", "hgx-h100", trace, System(), progress=interrupt, keep=True)
    assert result.summary.partial
    assert 0 < result.summary.finished < 20_000


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["replay", *ON], InvalidInput, "how much traffic"),
        (
            ["replay", "--profile", "azure-2023-con", "--requests", "5", "--rate", "1/s", *ON],
            UnknownName,
            "azure-2023-conv",
        ),
        ([*LOOP, "--router", "nearest"], UnknownName, "unknown router"),
        ([*LOOP[:-2], "--prefill", "2x1"], InvalidInput, "both pools or neither"),
        ([*LOOP, "--instances", "99"], InvalidInput, "99 ranks"),
    ],
)
def test_wrong_options(arguments, error, says):
    with pytest.raises(error, match=says):
        run(*arguments)


def test_arrival_processes_have_the_asked_mean_and_variation():
    for process in ("poisson", "gamma", "weibull"):
        cv = 1.0 if process == "poisson" else 2.0
        drawn = gaps(process, 4.0, cv, 200_000, np.random.default_rng(0))
        assert drawn.mean() == pytest.approx(0.25, rel=0.03)
        assert drawn.std() / drawn.mean() == pytest.approx(cv, rel=0.05)


def test_profile_lengths_follow_the_quantiles():
    trace = from_profile(
        "x", {"input_quantiles": {"0": 1, "0.5": 100, "1": 1000}, "output_quantiles": {"0": 5, "1": 5}}, 9999
    )
    assert abs(float((trace.input_tokens <= 100).mean()) - 0.5) < 0.03
    assert set(trace.output_tokens.tolist()) == {5}


def test_trace_convert_and_info(tmp_path):
    source = tmp_path / "a.csv"
    source.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,5,6\n1,7,8\n")
    assert "2 requests" in run("trace", "convert", str(source), str(tmp_path / "b.jsonl")).output
    back = json.loads(run("trace", "info", str(tmp_path / "b.jsonl"), "--json").output)
    assert (back["format"], back["requests"], back["span_s"]) == ("mooncake", 2, 1.0)


def test_fetch_lists_what_is_known():
    assert "mooncake-toolagent" in run("trace", "fetch").output
