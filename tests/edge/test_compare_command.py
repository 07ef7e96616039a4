"""``taicang compare``: what means nothing is refused, and nothing found is said by the exit code."""

import csv
import json
import re

import pytest


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (("--budget", "-3kW"), "--budget: a budget must be more than nothing and finite, got '-3kW'"),
        (("--budget", "0 chips"), "--budget"),
        (("--budget", "1e400kW"), "--budget"),
        (("--set", "price.usd=0 USD"), "price.usd: expected a quantity of more than nothing"),
        (("--set", "power.load=0 W"), "power.load: expected a quantity of more than nothing"),
        (("--set", "chip.memory.bandwidth=0 TB/s"), "expected a quantity of more than nothing"),
        (("--slo", "nosuch"), "one of mlperf-server, mlperf-interactive"),
    ],
)
def test_what_means_nothing_is_refused(taicang, extra, says):
    code, _, err = taicang("compare", "llama-3.1-8b", "--on", "hgx-h100", *extra)
    assert code == 2
    assert says in err


def test_an_unknown_machine_shows_the_nearest(taicang):
    code, _, err = taicang("compare", "llama-3.1-8b", "--on", "hgx-h100,nosuch")
    assert code == 2
    assert "unknown machine 'nosuch'; the nearest are" in err


def test_fronts_that_cannot_be_written_are_an_error_of_the_user(taicang, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = taicang("compare", "llama-3.1-8b", "--on", "hgx-h100", "--pareto", str(tmp_path / "file" / "x"))
    assert code == 2
    assert "--pareto: cannot write into" in err


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_no_plan_on_any_machine_is_exit_code_1(taicang, form):
    assert taicang("compare", "llama-3.1-8b", "--on", "hgx-h100,hgx-h200", "--tpot", "1us", *form)[0] == 1
    assert taicang("compare", "llama-3.1-8b", "--on", "hgx-h100,hgx-h200", "--tpot", "6ms", *form)[0] == 0


def test_money_in_yuan_stands_beside_money_in_dollars(taicang, tmp_path):
    where = ("--on", "hgx-h100,hgx-h200", "--set", "price.cny=2 MCNY")
    out = taicang("compare", "llama-3.1-8b", *where, "--json", "--pareto", str(tmp_path))[1]
    for each in json.loads(out).values():
        assert each["output_tokens_per_s_per_cny"] == pytest.approx(each["machine_output_tokens_per_s"] / 2e6)
    with (tmp_path / "comparison.csv").open(encoding="utf-8") as file:
        assert all(float(row["output_tokens_per_s_per_cny"]) > 0 for row in csv.DictReader(file))
    out = taicang("compare", "llama-3.1-8b", *where)[1]
    assert "a MUSD" in out
    assert re.search(r"^machine .* a MCNY$", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 80
    assert "(1.00x)" in out
    out = taicang("compare", "llama-3.1-8b", "--on", "hgx-h100", "--json")[1]
    assert json.loads(out)["hgx-h100"]["output_tokens_per_s_per_cny"] is None
    out = taicang("compare", "llama-3.1-8b", "--on", "hgx-h100")[1]
    assert not re.search(r"^machine .* a MCNY$", out, re.MULTILINE)


def test_idle_power_may_be_none(taicang):
    assert taicang("compare", "llama-3.1-8b", "--on", "hgx-h100", "--set", "chip.power.idle=0 W")[0] == 0
