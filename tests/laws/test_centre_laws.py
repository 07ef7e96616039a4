"""Laws of what a centre costs, over every machine, tariff, load and figure."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from taicang import catalog
from taicang.app.main import cli
from taicang.catalog import files
from taicang.centre import cost
from taicang.centre.cost import Plant
from taicang.centre.draw import band
from taicang.centre.figures import FOLDER
from taicang.errors import MissingFigure, NotModelled

RATES = st.floats(0.0, 0.3)
VALUES = st.fixed_dictionaries({
    "price": st.floats(4.0, 10.0).map(lambda x: 10.0**x), "years": st.floats(1.0, 10.0), "interest": RATES,
    "residual": RATES, "network": RATES, "spares": RATES, "support": RATES, "tariff": st.floats(0.0, 3.0),
    "staff": st.floats(0.0, 1e6), "maintenance": st.floats(0.0, 1e6), "pue": st.floats(1.0, 2.0),
    "idle": st.floats(0.0, 1.0), "availability": st.floats(0.5, 1.0), "rent": st.floats(0.01, 1e3),
})  # fmt: skip
"""As the formulas take them."""
USES = st.floats(0.01, 1.0)


@st.composite
def plants(draw):
    """Any machine whose figures are public, bought or rented, under any day's tariff and load."""

    def shape():
        hours = np.array(draw(st.lists(st.floats(0.1, 3.0), min_size=24, max_size=24)))
        return tuple((hours / hours.mean()).tolist())

    for name in draw(st.permutations(catalog.names("machine"))):
        try:
            machine = catalog.machine(name)
        except MissingFigure:
            continue
        return Plant(machine=machine, rented=draw(st.booleans()), steps=shape(), day=shape())


@settings(max_examples=200, deadline=None)
@given(plants(), VALUES, USES, st.floats(1.0, 3.0))
def test_dearer_machines_power_and_idle_hours_are_never_cheaper(plant, values, use, more):
    base = cost.used_hour(plant, values, use)
    for key in ("price", "network", "spares", "support", "tariff", "staff", "maintenance", "pue", "rent", "interest"):
        dearer = values | {key: values[key] * more}
        assert cost.used_hour(plant, dearer, use) >= base * (1 - 1e-9), key
    assert cost.used_hour(plant, values | {"residual": values["residual"] / more}, use) >= base * (1 - 1e-9)
    assert cost.used_hour(plant, values, use / more) >= base * (1 - 1e-9)
    arrays = {key: np.full(3, value) for key, value in values.items()}
    assert cost.used_hour(plant, arrays, use) == pytest.approx([float(base)] * 3)


@settings(max_examples=200, deadline=None)
@given(plants(), VALUES, USES)
def test_parts_add_up_and_electricity_is_energy_times_its_price(plant, values, use):
    parts = cost.hour(plant, values, use)
    assert all(each >= 0.0 for each in parts.values())
    whole = sum(parts.values())
    assert cost.used_hour(plant, values, use) * cost.used_ratio(plant, values, use) == pytest.approx(float(whole))
    if not plant.rented:
        busy = cost.busy(plant, use)
        energy = [float(cost.power_kw(plant, values, used)) for used in busy]
        paid = np.dot(energy, plant.steps) / 24.0 * values["tariff"]
        assert parts["electricity"] == pytest.approx(paid)
        least, most = (cost.power_kw(plant, values, used) for used in (0.0, 1.0))
        assert all(least * (1 - 1e-9) <= each <= most * (1 + 1e-9) for each in energy)


@settings(max_examples=200, deadline=None)
@given(plants(), VALUES, st.floats(-2.0, 4.0).map(lambda x: 10.0**x))
def test_at_break_even_use_income_is_cost(plant, values, earned):
    plant = Plant(machine=plant.machine, rented=plant.rented, steps=plant.steps, day=(1.0,) * 24)
    use = float(cost.even_utilisation(plant, values, earned))
    if use <= 1:
        assert cost.used_hour(plant, values, use) == pytest.approx(earned, rel=1e-6)
    else:
        assert cost.used_hour(plant, values, 1.0) >= earned * (1 - 1e-9)


SITES = sorted(files.read(FOLDER / "sites.yaml"))
DEARER = {
    "--price": 1,
    "--tariff": 1,
    "--pue": 1,
    "--utilisation": -1,
    "years": -1,
    "interest": 1,
    "staff": 1,
    "support": 1,
}
"""What makes an hour of a chip dearer, and what the other way round."""


@st.composite
def asked(draw):
    """Words of a command: a machine somewhere, its figures stated as points or ranges."""
    middles = {
        "--price": draw(st.floats(5.0, 9.0).map(lambda x: 10.0**x)), "--tariff": draw(st.floats(0.05, 2.0)),
        "--pue": draw(st.floats(1.01, 2.0)), "--utilisation": draw(st.floats(2.0, 90.0)),
        "years": draw(st.floats(1.0, 9.0)), "interest": draw(st.floats(0.1, 20.0)),
        "staff": draw(st.floats(1e3, 1e6)), "support": draw(st.floats(0.1, 20.0)),
    }  # fmt: skip
    stated = {name: (middle, draw(st.sampled_from([1.0, 1.1]))) for name, middle in middles.items()}
    name = draw(st.sampled_from(catalog.names("machine")))
    return [name, "--site", draw(st.sampled_from(SITES))], stated


UNITS = {
    "--price": " CNY",
    "--tariff": " CNY/kWh",
    "--utilisation": " %",
    "interest": " %",
    "staff": " CNY",
    "support": " %",
}


def answered(words, stated):
    for name, (low, width) in stated.items():
        text = f"{low!r}..{low * width!r}{UNITS.get(name, '')}" if width > 1 else f"{low!r}{UNITS.get(name, '')}"
        words = [*words, *((name, text) if name[0] == "-" else ("--figure", f"{name}={text}"))]
    done = CliRunner().invoke(cli, ["centre", *words, "--samples", "200", "--json"], standalone_mode=False)
    assume(not isinstance(done.exception, MissingFigure | NotModelled))
    assert done.exception is None, done.exception
    return json.loads(done.stdout)


def bands_in(found):
    if isinstance(found, dict):
        if found.keys() >= {"low", "mid", "high"}:
            yield found
        for each in found.values():
            yield from bands_in(each)


@settings(max_examples=12, deadline=None)
@given(asked(), st.sampled_from(sorted(DEARER)), st.floats(1.01, 1.1), st.integers(2, 50))
def test_a_centre_of_dearer_parts_costs_more_and_of_more_machines_the_same_each(case, name, ratio, count):
    words, stated = case
    base = answered(words, stated)
    for each in bands_in(base):
        assert each["low"] <= each["mid"] <= each["high"]
    low, width = stated[name]
    moved = answered(words, stated | {name: (low * ratio ** DEARER[name], width)})
    for end in ("low", "mid", "high"):
        assert moved["used_chip_hour"][end] >= base["used_chip_hour"][end] * (1 - 1e-9), end
    many = answered([*words, "--count", str(count)], stated)
    assert many["used_chip_hour"] == pytest.approx(base["used_chip_hour"])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("endless", range(0, 42, 3))
def test_a_band_of_draws_of_which_some_have_no_end_is_in_order(endless):
    drawn = [float(i) for i in range(42 - endless)] + [np.inf] * endless
    found = band(np.array(drawn))
    assert found.low <= found.mid <= found.high  # none is no number
    assert found.high < np.inf or endless
