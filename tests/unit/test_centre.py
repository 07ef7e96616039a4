"""What a centre costs: published end-to-end figures, laws of the formulas, ranges in and bands out."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.app.main import cli
from taicang.centre import cost, outage
from taicang.centre.compare import compare
from taicang.centre.cost import Plant
from taicang.centre.draw import Serving
from taicang.centre.figures import built_in, of_machine, site
from taicang.centre.figures import given as stated
from taicang.centre.outage import broken
from taicang.centre.report import Case, band, check, draws, middles, report
from taicang.errors import InvalidInput
from taicang.predict.fabric_parts import breakage
from taicang.reliability import Component, components

FLAT = (1.0,) * 24
FREE = {
    "interest": 0.0, "residual": 0.0, "network": 0.0, "spares": 0.0, "support": 0.0, "staff": 0.0, "maintenance": 0.0,
    "tariff": 0.0, "pue": 1.0, "idle": 0.3, "availability": 1.0, "years": 5.0, "rate": 7.2,
}  # fmt: skip


def plant(name, *, rented=False):
    return Plant(machine=catalog.machine(name), rented=rented, steps=FLAT, day=FLAT)


def case(name, *, rented=False, serving=None, **texts):
    figures = {**built_in(), **site("default", domestic=False).figures}
    figures |= of_machine(name, figures["rate"]) | {key: stated(key, text) for key, text in texts.items()}
    figures = {key: each for key, each in figures.items() if key not in ("optics", "masked")}
    return Case(name=name, plant=plant(name, rented=rented), count=1, figures=figures, serving=serving)


SERVING = Serving(
    model="m", mode="disaggregated", tpot_s=0.05, ttft_s=1.0, input_tokens=4000, output_tokens=1000, hit_ratio=0.0,
    input_s=1e-4, output_s=5e-4, cached_s=None, error_ratio=0.0,
)  # fmt: skip


def test_deepseeks_day_costs_what_its_makers_published():
    hour = cost.hour(plant("hgx-h800", rented=True), {"rent": 2.0}, 1.0)["rent"]
    assert hour * 226.75 * 8 * 24 == 87_072


def test_a_gb200_is_paid_back_in_three_years_at_3_2_dollars_an_hour():
    values = FREE | {"price": 70_000.0 * 72, "years": 3.0, "support": 0.2 / 3.0}
    assert sum(cost.hour(plant("gb200-nvl72"), values, 1.0).values()) == pytest.approx(3.2, rel=0.03)


def test_a_leased_h100_node_leaves_a_third_and_pays_back_in_three_years():
    one = case("hgx-h100", network="0", spares="0", residual="0", interest="0", years="5", utilisation="100%")
    values = middles(one.figures)
    parts = cost.hour(one.plant, values, 1.0)
    month, rent = 730.0 * 8, 70_000.0
    margin = 1.0 - sum(parts.values()) * month / rent
    assert 0.32 - 0.03 <= margin <= 0.37 + 0.03
    running = sum(part for name, part in parts.items() if name != "capital") * month
    assert values["price"] / (rent - running) / 12 == pytest.approx(3.0, rel=0.1)


def test_a_supernodes_month_of_electricity():
    power = cost.power_kw(plant("cloudmatrix384"), FREE, 1.0)
    assert power * 384 * 720 * 0.6 == pytest.approx(241_488)
    assert power * 720 * 0.6 == pytest.approx(629, abs=0.5)


def test_use_settles_the_cost_of_a_token_where_capital_does():
    one = case("cloudmatrix384")
    values = middles(one.figures)
    ratio = cost.used_hour(one.plant, values, 0.25) / cost.used_hour(one.plant, values, 0.8)
    assert 2.5 <= ratio <= 3.5


def test_gb200_must_be_1_6_times_as_fast_as_h100():
    """At list prices of like kind: server and rack, each without the network between them."""
    prices = {"hgx-h100": "199..238.8 kUSD", "gb200-nvl72": "3..3.1 MUSD"}
    place = {"tariff": "0.091 USD/kWh", "utilisation": "100%", "network": "0"}
    h100, gb200 = (
        sum(cost.hour(one.plant, middles(one.figures), 1.0).values())
        for one in (case(name, price=price, **place) for name, price in prices.items())
    )
    assert gb200 / h100 == pytest.approx(1.6, rel=0.1)


def test_tokens_of_each_kind_add_up_to_the_whole():
    told = report(case("cloudmatrix384", serving=SERVING, error="0"), samples=500)
    assert told.output_mtoken.mid == pytest.approx(4 * told.tokens["input"].mid + told.tokens["output"].mid)


def test_results_are_bands_that_do_not_change_by_themselves():
    one = case("cloudmatrix384", serving=SERVING, error="0")
    told = report(one, samples=2000)
    assert told == report(one, samples=2000)
    assert told.output_mtoken.low < told.output_mtoken.mid < told.output_mtoken.high
    assert report(one, samples=2000, seed=1).output_mtoken.mid == pytest.approx(told.output_mtoken.mid, rel=0.05)
    dollars = report(one, currency="USD", samples=2000)
    assert dollars.output_mtoken.mid == pytest.approx(told.output_mtoken.mid / 7.2, rel=0.02)
    assert {swing.key for swing in told.tornado[:2]} == {"price", "years"}


def test_a_figure_that_is_known_draws_no_band():
    known = {key: str(figure.middle) for key, figure in built_in().items() if not (figure.dimension or key == "masked")}
    one = case("hgx-h200", price="2 MCNY", tariff="0.5 CNY/kWh", rate="7.2 CNY/USD", pue="1.2", staff="1 CNY",
               maintenance="1 CNY", carbon="0.5", **known)  # fmt: skip
    told = report(one, samples=200)
    assert told.used_chip_hour.low == pytest.approx(told.used_chip_hour.high)
    assert not told.tornado


def test_a_machine_cannot_be_told_from_itself_at_another_price_within_the_range():
    one = case("cloudmatrix384", serving=SERVING, error="0")
    twin = replace(one, name="twin")
    dear = replace(case("cloudmatrix384", serving=SERVING, error="0", price="900 MCNY"), name="dear")
    rows = {row.name: row for row in compare([one, twin, dear], currency="CNY", samples=2000)}
    assert rows["cloudmatrix384"].alike == ("twin",)
    assert rows["dear"].alike == ()
    assert rows["twin"].machines_ratio == 1


def test_shared_figures_are_drawn_alike_on_every_machine():
    first, second = (draws(case(name).figures, name, 100, 0) for name in ("cloudmatrix384", "hgx-h20"))
    assert np.array_equal(first["tariff"], second["tariff"])
    assert not np.allclose(first["price"] / first["price"].mean(), second["price"] / second["price"].mean())


def test_hours_of_the_tariff_keep_its_mean():
    for name in ("guangdong", "zhejiang", "sichuan"):
        assert np.mean(site(name, domestic=False).steps) == pytest.approx(1.0)
    assert site("inner-mongolia", domestic=True).figures["tariff"].low < site(
        "inner-mongolia", domestic=False
    ).figures["tariff"].low  # fmt: skip


def test_what_nobody_published_is_asked_for_by_name():
    with pytest.raises(InvalidInput, match=r"no price of atlas-800-a3-752t .* --price"):
        check(case("atlas-800-a3"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tariff", "0.4"], "has no unit"),
        (["--price", "60..50 MCNY"], "begins above its end"),
        (["--price", "60 kW"], "is a unit of w"),
        (["--utilisation", "140%"], "utilisation must be from 0 to 1"),
        (["--utilisation", "0"], "never used"),
        (["--site", "inner-mongolai"], "did you mean inner-mongolia"),
        (["--figure", "yeers=3"], "did you mean years"),
        (["--figure", "years"], "expected KEY=RANGE"),
        (["--serve", "deepseek-r1", "--api", "1,2 USD"], "expected such as"),
        (["--train", "llama-3-8b"], "needs --tokens"),
    ],
)
def test_bad_figures_are_one_line(words, said):
    result = CliRunner().invoke(cli, ["centre", "cloudmatrix384", *words])
    assert isinstance(result.exception, InvalidInput)
    assert said in str(result.exception)


def test_a_centres_file_is_its_options(tmp_path):
    file, page = tmp_path / "centre.yaml", tmp_path / "centre.html"
    file.write_text("machine: cloudmatrix384\nserve: deepseek-r1\ntpot: 50ms\nutilisation: 30%\nfigure: [years=5]\n")
    words = ["--serve", "deepseek-r1", "--tpot", "50ms", "--utilisation", "30%", "--figure", "years=5", "--json"]
    one = json.loads(CliRunner().invoke(cli, ["centre", "cloudmatrix384", *words]).output)
    two = json.loads(CliRunner().invoke(cli, ["centre", str(file), "--html", str(page), "--json"]).stdout)
    assert one == two
    words = page.read_text(encoding="utf-8")
    assert "a million output tokens" in words
    assert "What matters" in words
    file.write_text("machine: cloudmatrix384\ncuont: 4\n")
    result = CliRunner().invoke(cli, ["centre", str(file)])
    assert "centre.yaml:2" in str(result.exception)
    assert "did you mean count" in str(result.exception)


def test_a_load_settles_the_use_and_says_how_many_machines_it_takes():
    words = ["centre", "cloudmatrix384", "--serve", "deepseek-r1", "--tpot", "50ms", "--json"]
    told = json.loads(CliRunner().invoke(cli, [*words, "--load", "100/s"]).output)
    twice = json.loads(CliRunner().invoke(cli, [*words, "--load", "200/s"]).output)
    assert 0 < told["utilisation"]["mid"] < 1
    assert twice["utilisation"]["mid"] == pytest.approx(2 * told["utilisation"]["mid"])
    month = 100 * 256 * 730 * 3600
    assert told["monthly_tokens"] == pytest.approx(month, rel=0.01)
    error = CliRunner().invoke(cli, [*words, "--load", "10000/s"]).exception
    assert "of cloudmatrix384; give --count" in str(error)


SHORT = "serve=qwen3-32b,input=1000,output=300,tpot=50ms"


def asked(*words):
    done = CliRunner().invoke(cli, ["centre", *words, "--json", "--samples", "1000"], standalone_mode=False)
    assert done.exception is None, done.exception
    return json.loads(done.output)


def test_a_mix_of_one_kind_is_that_kind():
    plain = asked("hgx-h20 x 4", "--serve", "qwen3-32b", "--input", "1000", "--output", "300", "--tpot", "50ms",
                  "--utilisation", "30%", "--diurnal", "0.5")  # fmt: skip
    mixed = asked("hgx-h20 x 4", "--utilisation", "30%", "--mix", f"share=100%,diurnal=0.5,{SHORT}")
    (row,) = mixed["mix"]
    assert row["monthly_tokens"]["mid"] == pytest.approx(plain["monthly_tokens"], rel=0.05)
    assert row["output_mtoken"]["mid"] == pytest.approx(plain["output_mtoken"]["mid"], rel=0.05)
    assert mixed["used_chip_hour"] == plain["used_chip_hour"]
    assert mixed["cash"] == plain["cash"]
    assert mixed["by_hour"] == plain["by_hour"]


@settings(max_examples=5)
@given(st.floats(0.05, 0.95))
def test_kinds_of_work_share_cost_and_income(share):
    words = [f"share={share},{SHORT}", f"share={1 - share},serve=llama-3.1-8b,api=1,1,3 USD,tpot=30ms"]
    one, other = (asked("hgx-h20", "--utilisation", "30%", "--mix", words[at], "--mix", words[1 - at]) for at in (0, 1))
    assert one["used_chip_hour"] == other["used_chip_hour"]
    assert sum(row["share_ratio"] for row in one["mix"]) == pytest.approx(1.0)
    month = one["used_chip_hour"]["mid"] * 0.3 * 8 * 730
    assert sum(row["monthly_cost"]["mid"] for row in one["mix"]) == pytest.approx(month, rel=0.05)
    assert [row["model"] for row in one["mix"]] == [row["model"] for row in reversed(other["mix"])]


def test_loads_settle_the_shares_and_the_use():
    rates = [f"load=2/s,{SHORT}", "load=1/s,serve=llama-3.1-8b,input=1000,output=300,tpot=30ms"]
    alone = [asked("hgx-h20", "--mix", text)["utilisation"]["mid"] for text in rates]
    both = asked("hgx-h20", "--mix", rates[0], "--mix", rates[1])
    assert both["utilisation"]["mid"] == pytest.approx(sum(alone), rel=1e-3)
    assert [row["share_ratio"] for row in both["mix"]] == pytest.approx([each / sum(alone) for each in alone], rel=1e-3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["share=60%,serve=qwen3-32b", "share=30%,serve=qwen3-32b"], "0.9"),
        (["share=60%,serve=qwen3-32b", "load=2/s,serve=qwen3-32b"], "every"),
        (["share=60%,serv=qwen3-32b"], "serve"),
        (["share=60%"], "serve=MODEL"),
        (["serve=qwen3-32b"], "share=60%"),
        (["share=much,serve=qwen3-32b"], "much"),
        (["share=1,serve=qwen3-32b,tpot=50"], "unit"),
        (["share"], "KEY=VALUE"),
    ],
)
def test_a_mix_that_cannot_be_read_is_one_line(words, said):
    mix = [word for text in words for word in ("--mix", text)]
    done = CliRunner().invoke(cli, ["centre", "hgx-h20", *mix], standalone_mode=False)
    assert isinstance(done.exception, InvalidInput)
    assert said in str(done.exception)


def test_a_mix_in_a_centres_file(tmp_path):
    path = tmp_path / "centre.yaml"
    path.write_text("machine: hgx-h20\nutilisation: 30%\nmix:\n  - {share: 25%, serve: qwen3-32b, tpot: 50ms}\n"
                    "  - {share: 75%, serve: llama-3.1-8b, tpot: 30ms}\n")  # fmt: skip
    words = ["--mix", "share=25%,serve=qwen3-32b,tpot=50ms", "--mix", "share=75%,serve=llama-3.1-8b,tpot=30ms"]
    assert asked(str(path))["mix"] == asked("hgx-h20", "--utilisation", "30%", *words)["mix"]


def test_deepseek_r1_on_h800_costs_what_its_makers_say_within_the_band():
    """608 G tokens in, 56.3 % of them found in a cache, 168 G out, for 87,072 USD; 20 to 22 tokens/s a user."""
    # fmt: off
    words = ["--serve", "deepseek-r1", "--input", "3619", "--output", "1000", "--hits", "0.563", "--tpot", "50ms",
             "--rent", "2 USD/h", "--utilisation", "100%", "--figure", "availability=1", "--currency", "USD"]
    # fmt: on
    told = json.loads(CliRunner().invoke(cli, ["centre", "hgx-h800 x 32", *words, "--json"]).output)
    published = 87_072 / 168_000
    assert told["output_mtoken"]["low"] < published < told["output_mtoken"]["high"]
    assert told["output_mtoken"]["mid"] == pytest.approx(published, rel=0.25)


def test_a_band_is_of_percentiles():
    assert band(np.arange(101.0)).mid == 50


MACHINES = st.sampled_from(["cloudmatrix384", "gb200-nvl72", "hgx-h100", "hgx-h100 x 16", "atlas-800-a2 x 8"])


@pytest.mark.slow
@given(MACHINES, st.integers(1, 50), st.integers(0, 2**20))
def test_what_is_broken_is_what_the_fabrics_own_draws_break(spec, count, seed):
    machine = catalog.machine(spec)
    found = broken(machine, count, mtbf_s={}, seed=seed)
    own = breakage(machine, draws=1000, seed=seed)
    away = (1.0 - own.nodes_left_ratio) * machine.chips * count
    racks = 1.0 if "rack" in components(machine) else 0.0  # which the fabric does not know
    assert found.chips_away.mean() >= away * 0.75 - count / 3
    assert found.chips_away.mean() <= away * 1.25 + count * (0.3 + racks)
    assert found.chips_away.min() >= 0
    assert found.chips_away.max() <= machine.chips * count
    spared = broken(machine, count, mtbf_s={}, seed=seed, spare_chips=8)
    assert (spared.chips_away <= found.chips_away).all()


@pytest.mark.slow
@given(MACHINES, st.integers(1, 20), st.integers(1, 40))
def test_a_larger_crew_never_makes_parts_wait_longer(spec, count, crew):
    machine = catalog.machine(spec)
    try:
        few = broken(machine, count, mtbf_s={}, crew=crew)
    except InvalidInput:
        return
    more, all_at_once = (broken(machine, count, mtbf_s={}, crew=each) for each in (crew + 1, 0))
    assert few.repair_wait_s >= more.repair_wait_s >= all_at_once.repair_wait_s == 0.0
    assert few.failures_per_s == more.failures_per_s


def test_one_repairer_is_the_textbooks_queue():
    # one class of parts alone at a load of a half: a part waits as long as a repair takes, in the mean
    known = {"chip": Component(chips_each=1, failures_per_s=1.0, blast_chips=1, repair_s=10.0)}
    assert outage._wait_s(known, {"chip": 0.05}, 1) == pytest.approx(10.0)
