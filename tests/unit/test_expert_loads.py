"""Measured loads of experts in place of an exponent."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.app.main import cli
from taicang.cost.skew import MOST_SKEWED, exponent_of, hottest_over_mean
from taicang.errors import InvalidInput

ON = [
    "infer",
    "deepseek-v3",
    "--on",
    "hgx-h200 x 4",
    "--tp",
    "1",
    "--dp",
    "32",
    "--ep",
    "32",
    "--batch",
    "64",
    "--json",
]


def loads(lead: float, experts: int = 256, mean: float = 4000.0) -> list[float]:
    rest = (experts - lead) / (experts - 1)
    return [mean * lead, *[mean * rest] * (experts - 1)]


def run(*arguments: str):
    return CliRunner().invoke(cli, [*ON, *arguments], catch_exceptions=False)


def tpot(path) -> float:
    return json.loads(run("--skew", str(path)).stdout)["tpot_s"]


@settings(max_examples=50, deadline=None)
@given(st.floats(1.05, 8.0), st.sampled_from([64, 128, 256]))
def test_the_exponent_leads_as_the_loads_do(lead, experts):
    made = np.asarray(loads(lead, experts))
    found = exponent_of(made, 8.0)
    if found < MOST_SKEWED - 1e-6:
        again = hottest_over_mean(experts=experts, ranks=experts, tokens=made.sum() / 8.0, topk=8.0, skew=found)
        assert float(again) == pytest.approx(lead, rel=1e-3)
    assert exponent_of(np.full(experts, 7.0), 8.0) < 0.02
    assert exponent_of(np.asarray(loads(lead * 1.2, experts)), 8.0) >= found


def test_every_form_of_file_says_the_same_and_hotter_is_slower(tmp_path):
    row = loads(3.0)
    (tmp_path / "a.csv").write_text(",".join(map(str, row)) + "\n")
    (tmp_path / "b.txt").write_text("\n".join(" ".join(map(str, row[::-1])) for _ in range(3)))
    (tmp_path / "c.json").write_text(json.dumps([row, row]))
    (tmp_path / "even.csv").write_text(",".join(["5"] * 256))
    times = [tpot(tmp_path / name) for name in ("a.csv", "b.txt", "c.json")]
    assert times[0] == pytest.approx(times[1], rel=1e-6) == pytest.approx(times[2], rel=1e-6)
    assert tpot(tmp_path / "even.csv") < times[0]
    assert "exponent" in run("--skew", str(tmp_path / "a.csv")).stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1,2,3\n", "a.csv:1: has 3 loads, the model routes to 256 experts"),
        (",".join(["1"] * 256) + "\n" + ",".join(["x"] * 256), "a.csv:2: expected numbers"),
        (",".join(["-1"] * 256), "none below 0"),
        ("", "holds no loads"),
        ("[1, 2", "a.csv:1"),
    ],
)
def test_a_faulty_file_is_refused_with_its_line(tmp_path, text, says):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=says):
        run("--skew", str(path))


def test_what_is_neither_number_nor_file():
    for value in ("loads.csv", "3"):
        assert run("--skew", value).exit_code == 2
    dense = ["infer", "llama-3.1-8b", "--on", "hgx-h100", "--skew", __file__]
    with pytest.raises(InvalidInput, match="no routed experts"):
        CliRunner().invoke(cli, dense, catch_exceptions=False)
