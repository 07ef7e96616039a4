"""What things cost beside predictions: as `taicang centre` says, and nothing where nobody published a price."""

import json

import pytest
from click.testing import CliRunner

from taicang import catalog
from taicang.app.main import cli
from taicang.centre.quote import Costs
from taicang.errors import MissingFigure

JOB = ("--input", "2048", "--output", "256", "--tpot", "80ms")


def call(*words):
    found = CliRunner().invoke(cli, list(words), standalone_mode=False)
    assert found.exception is None, found.exception
    return found.output


@pytest.mark.parametrize(("machine", "currency"), [("cloudmatrix384", "CNY"), ("hgx-h100", "USD"), ("mi300x-8", "USD")])
def test_infer_says_what_a_centre_says(machine, currency):
    mine = json.loads(call("infer", "qwen3-32b", "--on", machine, *JOB, "--json"))["cost"]
    theirs = json.loads(call("centre", machine, "--serve", "qwen3-32b", *JOB, "--currency", currency, "--json"))
    assert mine["currency"] == currency
    for kind in ("input", "output"):
        assert mine["tokens"][kind] == pytest.approx(theirs["tokens"][kind])
        assert mine["tokens"][kind]["low"] < mine["tokens"][kind]["mid"] < mine["tokens"][kind]["high"]
    assert mine["output_mtoken"] == pytest.approx(theirs["output_mtoken"])


def test_a_machine_without_price_and_rent_has_no_cost():
    said = json.loads(call("infer", "qwen3-8b", "--on", "l40s-pcie", *JOB, "--json"))
    assert said["cost"] is None
    assert "no price and no rent" in said["cost_unknown"]
    assert "cost: unknown" in call("infer", "qwen3-8b", "--on", "l40s-pcie", *JOB)


def test_compare_and_search_have_the_cost_of_each_machine():
    told = call("compare", "qwen3-8b", "--on", "hgx-h100,l40s-pcie", *JOB)
    assert "a million tokens" in told
    assert all(len(line) <= 80 for line in told.splitlines())
    both = json.loads(call("compare", "qwen3-8b", "--on", "hgx-h100,l40s-pcie", *JOB, "--json"))
    assert both["hgx-h100"]["cost"]["tokens"]["output"]["mid"] > 0
    assert both["l40s-pcie"]["cost"] is None
    found = json.loads(
        call("search", "qwen3-8b", "--on", "hgx-h100", *JOB, "--mode", "agg", "--confirm", "0", "--json")
    )
    assert found[0]["cost"]["output_mtoken"]["low"] > 0


def test_a_run_costs_its_chip_hours():
    job = ("train", "llama-3.1-8b", "--on", "hgx-h100", "--tokens", "10G", "--json")
    owned = json.loads(call(*job))
    rented = json.loads(call(*job, "--chip-hour", "2"))
    assert owned["cost"]["run"]["low"] < owned["cost"]["run"]["high"]
    assert (rented["cost"]["currency"], rented["cost"]["rented"]) == ("USD", True)
    hours = rented["prediction"]["run"]["seconds"] / 3600.0 * rented["prediction"]["chips"]
    # rented chips idle for as much of the time as a centre's do
    assert 2.0 * hours / 0.3 * 0.7 < rented["cost"]["run"]["mid"] < 2.0 * hours / 0.2 * 1.3


def test_every_machine_has_a_cost_or_says_why_not():
    for name in catalog.names("machine"):
        try:
            machine = catalog.machine(name)
        except MissingFigure:
            continue
        costs = Costs(name, machine)
        found = costs.output(1000.0)
        assert (found is None) == bool(costs.why)
        if found is not None:
            assert 0 < found.used_chip_hour.low <= found.used_chip_hour.high
            assert found.output_mtoken.mid == pytest.approx(found.used_chip_hour.mid / 3.6, rel=0.05)
