import csv
import json
import re
from importlib.util import find_spec

import pytest
from click import Abort
from click.testing import CliRunner

from taicang.app.main import cli
from taicang.app.search_cmd import search as command
from taicang.errors import InvalidInput
from taicang.search.door import formats, prepare
from taicang.search.explain import against
from taicang.search.run import Ask
from taicang.search.run import search as search_of
from taicang.search.space import default
from taicang.search.versus import fields, layout

JOB = ["--on", "hgx-h100", "--input", "1000", "--output", "200"]


def run(*args):
    return CliRunner().invoke(cli, ["search", "llama-3.1-8b", *JOB, *args], standalone_mode=False)


def test_shows_the_best_layouts_and_why():
    result = run("--tpot", "30ms", "--ttft", "1s")
    assert result.exit_code == 0, result.output
    for word in ("tok/s/chip", "next batch", "chosen: ", "more of each resource buys"):
        assert word in result.output


def test_json_holds_the_choice():
    found = json.loads(run("--json", "--mode", "agg", "--top", "2").output)[0]
    assert found["best"][0]["mode"] == "aggregated"
    assert len(found["best"]) == 2
    assert found["counts"]["combinations"] == 0


def test_pareto_files_rise_in_speed_and_fall_in_throughput(tmp_path):
    assert run("--pareto", str(tmp_path)).exit_code == 0
    rows = list(csv.DictReader((tmp_path / "pareto.csv").open()))
    speed = [float(row["user_tokens_per_s"]) for row in rows]
    rate = [float(row["output_tokens_per_s_per_chip"]) for row in rows]
    assert speed == sorted(speed, reverse=True)
    assert rate == sorted(rate)
    plots = {"pareto.png", "pareto.svg"} if find_spec("matplotlib") else set()
    assert {path.name for path in tmp_path.iterdir()} == {"pareto.csv", "pareto.json", *plots}


def test_nothing_feasible_says_what_came_closest():
    result = run("--tpot", "1us")
    assert result.return_value == 1
    assert "infeasible" in result.output
    assert "at best" in result.output


def test_smallest_needs_a_load_and_price_a_figure():
    assert "--load" in str(run("--objective", "smallest").exception)
    assert run("--objective", "smallest", "--load", "3").exit_code == 0
    assert "price.usd" in str(run("--on", "mi300x-8", "--objective", "per-usd").exception)


def test_a_load_that_is_too_much_for_the_machine_says_what_it_takes():
    result = run("--objective", "smallest", "--load", "2000", "--no-explain")
    assert result.return_value == 1
    assert "2000 requests/s take" in result.output
    assert "--on 'hgx-h100 x " in result.output


def test_a_machine_of_open_size_grows_with_the_load():
    args = ["search", "llama-3.1-8b", "--on", "hgx-h100 x N", "--objective", "smallest", "--load", "200", "--json"]
    (found,) = json.loads(CliRunner().invoke(cli, [*args, "--confirm", "0", "--no-explain"]).stdout)
    units = int(found["machine"].rpartition(" ")[2])
    assert 8 * (units - 1) < found["best"][0]["chips"] <= 8 * units
    assert "x N" in str(run("--on", "hgx-h100 x N").exception)


def test_a_load_is_refused_where_the_objective_ignores_it():
    refused = run("--load", "3").exception
    assert isinstance(refused, InvalidInput)
    assert "--load" in str(refused)


def test_a_plan_of_the_users_stands_beside_the_winner():
    result = run("--tpot", "30ms", "--versus", "tp=2,batch=16")
    assert result.exit_code == 0, result.output
    assert "winner against it" in result.output
    assert "pp or dp" in str(run("--versus", "dpp=2").exception)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("tp=0", "--versus tp: expected a whole number of at least 1"),
        ("tp=2,batch=0", "--versus batch: expected a whole number of at least 1"),
        ("tp=2,mtp=9", "--versus mtp: expected a whole number from 0 to 8"),
        ("tp=2,microbatches=3", "--versus microbatches: expected a whole number from 1 to 2"),
        ("tp=", "--versus tp: expected a whole number"),
        ("tp=2,tp=4", "tp is given twice"),
        ("tp=2,exchange=gatherr", "did you mean gather"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_with_the_field(text, reason):
    refused = run("--versus", text).exception
    assert isinstance(refused, InvalidInput)
    assert reason in str(refused)
    assert "--versus" in str(refused)


def test_the_plans_of_the_help_can_be():
    """Those of the examples and of the option, on the machine that they are shown for."""
    (option,) = [each for each in command.params if each.name == "versus"]
    job = prepare("deepseek-r1", "cloudmatrix384", input_tokens=4096, output_tokens=256)
    plans = re.findall(r"[a-z_]+=[\w,=]+", f"{option.help} {command.epilog.partition('--versus')[2]}")
    assert len(plans) == 2
    for text in plans:
        assert layout(job, fields(text)).ranks >= 64


def test_the_smallest_machine_is_ahead_in_what_its_ranking_counts():
    """Chips first; where those are level, what the ranking looks at next, and no step times that say the opposite."""
    args = ["search", "llama-3.1-70b", "--on", "hgx-h200 x 4", "--objective", "smallest", "--load", "20"]
    args += ["--tpot", "30ms", "--confirm", "0", "--json"]
    runner = CliRunner()
    (level,) = json.loads(runner.invoke(cli, args, catch_exceptions=False).stdout)
    first, second = level["best"][:2]
    assert (first["chips"], first["ttft_s"]) == (second["chips"], second["ttft_s"])
    told = "; ".join(level["explanation"]["beside"])
    chips, steps = first["chips"], [f"{each['tpot_s'] * 1e3:.3g} ms" for each in (first, second)]
    assert told.startswith(f"{chips} chips in use against {chips}")
    assert f"TPOT {steps[0]} against {steps[1]}" in told
    assert "µs" not in told
    job = prepare("llama-3.1-70b", "hgx-h200 x 4", input_tokens=4096, output_tokens=256, tpot_s=0.03)
    ask = Ask(objective="smallest", load_per_s=20.0)
    ranked = search_of(job, formats(["auto"], job), default(job.model), ask).best
    more = next(each for each in ranked if each.chips > ranked[0].chips)
    assert against(job, ranked[0], more, "smallest")[0] == f"{chips} chips in use against {more.chips}"


def test_decode_alone_is_compared_with_decode_alone():
    """Not with a machine that prefills as well, which decodes on fewer of its chips."""
    args = ("--mode", "decode", "--tpot", "30ms", "--versus", "tp=2,batch=16", "--json")
    (found,) = json.loads(run(*args).stdout)
    given, winner = found["versus"]["given"], found["best"][0]
    assert given["mode"] == "decode"
    lead = winner["output_tokens_per_s_per_chip"] / given["output_tokens_per_s_per_chip"] - 1.0
    assert f"winner against it: {lead:+.1%}" in found["versus"]["said"][0]


def test_machines_are_ranked_at_equal_chips_power_and_money():
    result = run("--tpot", "30ms", "--on", "hgx-h100,hgx-h200", "--no-explain")
    assert "a kW" in result.output
    assert "arithmetic peak x 1." in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("objective", "figure", "word"),
    [("per-watt", "power.load", "power"), ("per-usd", "price.usd", "price"), ("per-cny", "price.cny", "price in yuan")],
)
def test_what_would_flip_the_choice_between_machines(objective, figure, word):
    """Its price or power times the ratio makes a machine level with the other; in JSON and on the terminal."""
    args = ["search", "llama-3.1-8b", "--on", "hgx-h800,hgx-h20", "--input", "1000", "--output", "200"]
    args += ["--objective", objective, "--no-explain", "--confirm", "0"]
    for key in ("price.usd", "price.cny"):
        args += ["--set", f"{key}={'250 kUSD' if key.endswith('usd') else '2 MCNY'}"]
    runner = CliRunner()
    found = json.loads(runner.invoke(cli, [*args, "--json"], catch_exceptions=False).stdout)
    per = {"per-watt": "w", "per-usd": "usd", "per-cny": "cny"}[objective]
    rate = {each["machine"]: each["best"][0][f"output_tokens_per_s_per_{per}"] for each in found}
    for each in found:
        flip = each["flips"]
        (ratio,) = (change["level_ratio"] for change in flip["changes"] if change["what"] == figure)
        assert rate[each["machine"]] / ratio == pytest.approx(rate[flip["other"]])
    behind = min(found, key=lambda each: rate[each["machine"]])
    assert {change["what"] for change in behind["flips"]["changes"]} > {figure, "memory bandwidth"}
    shown = runner.invoke(cli, args, catch_exceptions=False).output
    assert f"% of its {word}" in shown
    assert "a MCNY" in shown


def test_emit_writes_files_for_the_engine(tmp_path):
    result = run("--tpot", "30ms", "--emit", "vllm", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert any(path.suffix == ".yaml" for path in tmp_path.iterdir())


def test_an_engine_gets_the_best_plan_that_it_can_express(tmp_path):
    """Not the best of all: TensorRT-LLM runs no two microbatches beside each other."""
    load = [
        "search",
        "deepseek-v3",
        "--on",
        "hgx-h200 x 4",
        "--tpot",
        "50ms",
        "--confirm",
        "0",
        "--no-explain",
        "--json",
        "--stack",
        "sglang",
    ]
    runner = CliRunner()
    free = json.loads(runner.invoke(cli, load, catch_exceptions=False).stdout)[0]["best"][0]
    emitted = runner.invoke(cli, [*load, "--emit", "trtllm", "--out", str(tmp_path)], catch_exceptions=False)
    bound = json.loads(emitted.stdout)[0]["best"][0]
    assert any(pool["plan"]["microbatches"] == 2 for pool in free["pools"])
    assert all(pool["plan"]["microbatches"] == 1 for pool in bound["pools"])
    assert bound["output_tokens_per_s_per_chip"] <= free["output_tokens_per_s_per_chip"]
    assert (tmp_path / "decode.sh").exists()


def emitted(tmp_path, *args):
    (tmp_path / "out").mkdir(exist_ok=True)
    result = CliRunner().invoke(cli, ["search", *args, "--confirm", "0", "--json", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    return found, "\n".join(path.read_text() for path in (tmp_path / "out").iterdir())


def test_an_engine_gets_the_published_weights(tmp_path):
    base = ["--on", "hgx-h100", "--tpot", "30ms", "--emit", "vllm"]
    _, text = emitted(tmp_path, "llama-3.1-8b", *base)
    assert "vllm serve meta-llama/Meta-Llama-3.1-8B " in text
    _, text = emitted(tmp_path, "meta-llama/Llama-3.1-8B-Instruct", *base)
    assert "vllm serve meta-llama/Llama-3.1-8B-Instruct " in text
    _, text = emitted(tmp_path, "llama-3.1-8b", *base, "--weights", "/weights")
    assert "vllm serve /weights " in text


def test_weights_that_nobody_published_are_asked_for_in_files_and_output(tmp_path):
    found, text = emitted(tmp_path, "megatron-7.5b", "--on", "hgx-h100", "--emit", "llm-d")
    assert "# no Hugging Face id of megatron-7.5b is known: give the path of its weights with --weights." in text
    assert any("--weights" in note for note in found["assumptions"])
    found, text = emitted(tmp_path, "llama-3.1-8b", "--on", "hgx-b200", "--emit", "vllm", "--quant", "nvfp4")
    assert "# the plan runs nvfp4 weights" in text


def test_a_plan_for_an_engine_is_priced_as_that_engine_or_says_that_it_is_not(tmp_path):
    load = ["deepseek-v3", "--on", "hgx-h200 x 2", "--no-explain"]
    for to, stack in (("vllm", "vllm"), ("trtllm", "tensorrt-llm"), ("sglang", "sglang")):
        found, text = emitted(tmp_path, *load, "--emit", to)
        assert found["best"][0]["stack"].startswith(f"{stack}@")
        assert "priced as" not in text
    found, text = emitted(tmp_path, *load, "--emit", "vllm", "--stack", "sglang")
    assert any(note.startswith("priced as sglang") for note in found["assumptions"])
    assert "# priced as sglang" in text
    ascend = ["llama-3.1-8b", "--on", "atlas-800-a3", "--no-explain", "--emit"]
    found, _ = emitted(tmp_path, *ascend, "vllm-ascend")
    assert "notes" not in found
    found, _ = emitted(tmp_path, *ascend, "mindie")
    assert "mindie is not calibrated on Ascend" in found["notes"][0]


def test_a_users_interrupt_in_a_confirming_replay_ends_the_search(monkeypatch):
    asked = []

    def interrupted(self, request):
        asked.append(request)
        raise KeyboardInterrupt

    monkeypatch.setattr("taicang.serve.record.Record.append", interrupted)
    assert isinstance(run("--tpot", "30ms", "--ttft", "1s", "--top", "2").exception, Abort)
    assert len(asked) == 1


def test_layouts_can_be_pinned():
    """Also to what the axes do not list; what breaks a rule says which."""
    command = ["search", "deepseek-r1", "--on", "cloudmatrix384", "--mode", "decode", "--confirm", "0", "--json"]
    wide = ["--dp", "96", "--ep", "96", "--redundant", "32"]
    found = json.loads(CliRunner().invoke(cli, [*command, *wide], standalone_mode=False).output)[0]["best"]
    assert {each["pools"][-1]["plan"]["ep"] for each in found} == {96}
    for flags, said in (
        (["--tp", "3"], "tp=3 does not divide"), (["--tp", "16"], "needs 16 ranks"), (["--ep", "2"], "has no experts"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput, match=said):
            raise run(*flags).exception
