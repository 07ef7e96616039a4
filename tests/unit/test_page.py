"""The page of a result: what it shows is what the result says, it asks no other host, and nothing in it can run."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64decode

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from taicang.app.main import cli
from taicang.errors import InvalidInput
from taicang.evidence.near import NEAR, near
from taicang.page import html, links
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


ENGINE_SHA256 = "55974cf42cc160e6cf9099cd3ed8cdedfaa9779919fcee7e2272c85f6ca30e27"


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
    assert hashlib.sha256(html.static(html.ENGINE).encode()).hexdigest() == ENGINE_SHA256


@pytest.mark.parametrize("text", ["[]", "{}", "3", '{"a": 1}', '[{"machine": 1}]', "null", '"x"'])
def test_what_is_no_result_is_refused(text):
    with pytest.raises(InvalidInput, match="no result of"):
        kind_of(json.loads(text), "x.json")


def test_a_result_of_another_version_is_one_line(tmp_path):
    made = tmp_path / "old.json"
    run = CliRunner().invoke(cli, [*RUNS["infer"], "--json"], standalone_mode=False)
    made.write_text(json.dumps({**json.loads(run.stdout), "version": "99.1.0"}))
    with pytest.raises(InvalidInput, match=r"made by taicang 99\.1\.0, this is .*: make it anew"):
        CliRunner().invoke(cli, ["view", str(made), "--html", str(tmp_path / "x.html")], standalone_mode=False,
                           catch_exceptions=False)  # fmt: skip


def test_parts_leave_out_what_is_nothing():
    assert bars(("a", "b"), {"x": 0.0, "y": 2.0}, "s").categories == ("y",)
    assert [each["name"] for each in stacked(("a", "b"), ["r"], {"x": [0.0], "y": [1.0]}, "B").series] == ["y"]


def test_the_nearest_measurements_are_of_the_model_and_the_chip():
    found = near("deepseek-r1", "ascend-910c-752t".rpartition("-")[0])
    assert {row["near"] for row in found} <= set(NEAR.values())
    assert found[0]["near"] == "same model and chip"
    assert "arXiv" in found[0]["source"]
    assert len({(row["run"], row["on"], row["how"]) for row in found}) == len(found), "one of a kind"
    assert near("llama-3-8b", "h100", training=True)[0]["measured"].startswith("tokens per s per gpu")
    assert near("no-such-model", "no-such-chip") == []


@pytest.mark.parametrize(
    "words", [["cloudmatrix384"], ["atlas-800-a2", "--collective", "all-to-all", "--bytes", "1MB"],
              ["hgx-h100", "--collective", "all-reduce", "--bytes", "1GB"],
              ["cloudmatrix384", "--draws", "5"], ["hgx-h100", "--axes", "tp=8", "--bytes", "1MB"],
              ["cloudmatrix384", "--logical", "384,128"]],
)  # fmt: skip
def test_every_answer_about_links_has_a_page(words, tmp_path):
    made = tmp_path / "links.html"
    run = CliRunner().invoke(cli, ["fabric", *words, "--html", str(made)], standalone_mode=False)
    assert run.exception is None, run.output
    (section,) = data_of(made.read_text(encoding="utf-8"))["sections"]
    kinds = [part["kind"] for part in section["parts"]]
    assert kinds[0] == "table"
    assert ("picture" in kinds) == (not {"--draws", "--axes", "--logical"} & set(words))
    drawn = tmp_path / "links.svg"
    run = CliRunner().invoke(cli, ["fabric", *words, "--svg", str(drawn)], standalone_mode=False)
    for part in section["parts"]:  # meshes as meshes, as the picture by itself shows them
        if part["kind"] == "picture":
            assert part["svg"] == drawn.read_text(encoding="utf-8")
            assert ("100%</title>" in part["svg"]) == ("--collective" in words)


def test_each_pass_of_a_pipeline_and_each_request_is_a_span(tmp_path):
    def unpacked(part):
        return np.frombuffer(b64decode(part["data"]), dtype="<f8").reshape(-1, 4)

    made = tmp_path / "train.html"
    run = CliRunner().invoke(
        cli, [*RUNS["train"], "--pp", "4", "--zero", "1", "--html", str(made)], standalone_mode=False
    )
    assert run.exception is None, run.output
    parts = data_of(made.read_text(encoding="utf-8"))["sections"][0]["parts"]
    rows = unpacked(next(part for part in parts if part["kind"] == "spans"))
    assert (np.bincount(rows[:, 3].astype(int)) >= 2 * 32).all(), "forward and backward of each microbatch, on 4 ranks"
    memory = next(part for part in parts if part["kind"] == "stack")
    assert memory["categories"] == [f"stage {number}" for number in range(4)]
    for name in ("replay", "replay --prefill 1x2 --decode 1x2"):
        words = [*RUNS["replay"], *name.split()[1:]]
        run = CliRunner().invoke(cli, [*words, "--html", str(made)], standalone_mode=False)
        assert run.exception is None, run.output
        sections = {each["key"]: each["parts"] for each in data_of(made.read_text(encoding="utf-8"))["sections"]}
        rows = unpacked(sections["requests"][0])
        assert ((rows[:, 0] <= rows[:, 1]) & (rows[:, 1] <= rows[:, 2])).all()
        assert (np.diff(rows[:, 2]) >= 0).all(), "in order of their ends"
        assert (rows[:, 2] > rows[:, 1]).sum() == 20
        assert len(sections["requests"][0]["lanes"]) == len(set(rows[:, 3]))
        titles = {part["title"][0] for part in sections["traffic"]}
        assert {"requests in the system", "instances busy", "output tokens/s", "power of the chips"} <= titles


@pytest.mark.parametrize(
    ("link", "chinese"),
    [
        (
            "rank 1 up to l1-switch, plane 3 (7 links), and 14 alike",
            "rank 1 上行至 l1-交换机, 平面 3 (7 条链路), 另有 14 条相同",
        ),
        ("l1-switches of unit 3 to l2-switch 5", "l1-交换机，单元 3 至 l2-交换机 5"),
        ("down-town to rank-and-file", "down-town to rank-and-file"),  # names of a user's
    ],
)
def test_links_are_named_in_both_languages(link, chinese):
    assert links._named(link) == (link, chinese)
