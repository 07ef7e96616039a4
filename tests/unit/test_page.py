"""The page of a result: what it shows is what the result says, it asks no other host, and nothing in it can run."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from taicang.app.main import cli
from taicang.errors import InvalidInput
from taicang.page import html
from taicang.page.html import page
from taicang.page.parts import Lines, Section, bars, stacked
from taicang.page.views import kind_of, sections

RUNS = {
    "infer": ["infer", "qwen3-8b", "--on", "hgx-h100"],
    "compare": ["compare", "qwen3-8b", "--on", "hgx-h100,hgx-a100"],
    "search": ["search", "qwen3-8b", "--on", "hgx-h100", "--tpot", "50ms"],
    "train": ["train", "llama-3-8b", "--on", "hgx-h100", "--zero", "3", "--global-batch", "64", "--seq", "8192"],
    "replay": ["replay", "--closed-loop", "4", "--requests", "20", "qwen3-8b", "--on", "hgx-h100"],
}


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)[1])


@pytest.mark.parametrize("kind", RUNS)
def test_a_command_leaves_a_page_of_its_own_figures_and_view_makes_the_same(kind, tmp_path):
    made = tmp_path / "page.html"
    run = CliRunner().invoke(cli, [*RUNS[kind], "--html", str(made), "--json"], standalone_mode=False)
    assert run.exception is None, run.output
    result = json.loads(run.stdout)
    data = data_of(made.read_text(encoding="utf-8"))
    assert data["sections"]
    assert all(part["title"][0] and part["title"][1] for each in data["sections"] for part in each["parts"])
    assert kind_of(result, "x") == kind
    stored = tmp_path / f"{kind}.json"
    stored.write_text(run.stdout)
    again = tmp_path / "again.html"
    found = CliRunner().invoke(cli, ["view", str(stored), "--html", str(again)], standalone_mode=False)
    assert found.exception is None, found.output
    viewed = data_of(again.read_text(encoding="utf-8"))["sections"]
    if kind not in ("replay", "train"):  # of which --json leaves the tables, and the passes of the pipeline, out
        assert viewed == data["sections"]
    assert [each["key"] for each in viewed] == [each["key"] for each in data["sections"] if each["key"] != "requests"]


@pytest.mark.parametrize("kind", ["infer", "train"])
@pytest.mark.parametrize("text", ["1e999", "-Infinity", "NaN"])
def test_a_figure_that_is_no_number_is_refused_or_not_drawn(kind, text, tmp_path):
    """Each figure of a stored result in its turn: of a kind once, since a table repeats them."""
    whole = CliRunner().invoke(cli, [*RUNS[kind], "--json"], standalone_mode=False).stdout
    stored, made = tmp_path / "stored.json", tmp_path / "page.html"
    for figure in {found[1]: found for found in re.finditer(r'"(\w+)": (-?\d[\d.e+-]*)', whole)}.values():
        stored.write_text(whole[: figure.start(2)] + text + whole[figure.end(2) :])
        found = CliRunner().invoke(cli, ["view", str(stored), "--html", str(made)], standalone_mode=False)
        assert found.exception is None or isinstance(found.exception, InvalidInput), figure
        if found.exception is None:
            json.dumps(data_of(made.read_text(encoding="utf-8")), allow_nan=False)


def test_a_folder_of_replay_shows_its_requests(tmp_path):
    for form in ("csv", "json"):
        folder = tmp_path / form
        run = CliRunner().invoke(cli, [*RUNS["replay"], "--out", str(folder), "--format", form], standalone_mode=False)
        assert run.exception is None, run.output
        made = tmp_path / f"{form}.html"
        found = CliRunner().invoke(cli, ["view", str(folder), "--html", str(made)], standalone_mode=False)
        assert found.exception is None, found.output
        parts = data_of(made.read_text(encoding="utf-8"))["sections"][0]["parts"]
        points = next(part for part in parts if part["kind"] == "points")
        assert len(points["series"][0]["data"]) == 20


def test_charts_hold_the_figures_of_the_result():
    run = CliRunner().invoke(cli, [*RUNS["infer"], "--json"], standalone_mode=False)
    result = json.loads(run.stdout)
    chart = next(
        part for part in sections("infer", result)[0].parts if part.title[0] == "decode: where a step's time goes"
    )
    total = sum(chart.series[0]["data"])
    assert total == pytest.approx(result["decode"]["step"]["busy_s"], rel=1e-9)
    memory = next(part for part in sections("infer", result)[0].parts if getattr(part, "kind", "") == "stack")
    assert sum(each["data"][0] for each in memory.series) == pytest.approx(result["decode"]["memory"]["capacity_bytes"])


@given(st.text(), st.lists(st.text(), max_size=4))
def test_no_text_of_a_result_becomes_markup(title, lines):
    section = Section(key="k", title=(title, title), parts=(Lines(title=("a", "b"), lines=tuple(lines)),))
    made = page("t", [section])
    assert made.count("</script>") == 3
    assert data_of(made)["sections"][0]["parts"][0]["lines"] == lines


def test_the_page_asks_no_other_host_and_the_engine_is_the_one_that_was_checked():
    made = page("t", [Section(key="k", title=("a", "b"), parts=(bars(("a", "b"), {"x": 1.0}, "s"),))])
    outside = made.replace(html.static(html.ENGINE), "")
    assert not re.search(r"(src|href(?!=\"data:)|import|fetch|XMLHttp|WebSocket)\s*[=(]", outside)
    assert "default-src 'none'" in outside
    assert hashlib.sha256(html.static(html.ENGINE).encode()).hexdigest() == html.ENGINE_SHA256


@pytest.mark.parametrize("text", ["[]", "{}", "3", '{"a": 1}', '[{"machine": 1}]', "null", '"x"'])
def test_what_is_no_result_is_refused(text):
    with pytest.raises(InvalidInput, match="no result of"):
        kind_of(json.loads(text), "x.json")


def test_parts_leave_out_what_is_nothing():
    assert bars(("a", "b"), {"x": 0.0, "y": 2.0}, "s").categories == ("y",)
    assert [each["name"] for each in stacked(("a", "b"), ["r"], {"x": [0.0], "y": [1.0]}, "B").series] == ["y"]
