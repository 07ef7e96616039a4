"""Pages of commands that answer with rows; which commands have a page."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner
from test_measure import taken
from test_page import data_of
from test_virtual import capture

from taicang.app.main import cli
from taicang.page.rows import MOST, parts
from taicang.virtual.capture import save

LISTS = {
    "catalog check", "catalog list", "catalog show", "demo", "doctor", "measure", "models list", "models show",
    "trace profiles",
}  # fmt: skip
"""Lists to look things up in; demo's page is compare's, measure's is score's."""
TRACE = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,100,10\n1.0,200,20\n1.5,300,30\n"
STUDY = """\
base: {model: llama-3.1-8b, on: hgx-h100, input: 1000, output: 200, tp: 1, mode: agg}
axes: {batch: [1, 8, 64], quant: [bf16, fp8]}
"""


def leaves(command, context, name=""):
    if not isinstance(command, click.Group):
        return {name.strip(): command}
    found = {}
    for each in command.list_commands(context):
        found |= leaves(command.get_command(context, each), context, f"{name} {each}")
    return found


def test_every_command_that_answers_leaves_a_page():
    flags = {
        name: {text for param in command.params for text in param.opts}
        for name, command in leaves(cli, click.Context(cli)).items()
    }
    assert {name for name, has in flags.items() if "--json" in has and "--html" not in has} == LISTS


def call(*words):
    run = CliRunner().invoke(cli, list(map(str, words)), standalone_mode=False)
    assert run.exception is None, run.output
    return run.stdout


def score(folder, monkeypatch):
    return ("score", "--suite", "ascend_operators")


def trace(folder, monkeypatch):
    (folder / "trace.csv").write_text(TRACE)
    return ("trace", "info", folder / "trace.csv")


def query(folder, monkeypatch):
    pytest.importorskip("duckdb", reason="DuckDB is an extra")
    (folder / "study.yaml").write_text(STUDY)
    call("sweep", folder / "study.yaml", "--workers", "1")
    return ("sweep", "query", folder / "study", "select batch, tpot_s, quant from results where feasible")


def named(folder, monkeypatch):
    return (*query(folder, monkeypatch)[:3], "select quant, min(tpot_s) as best_s from results group by 1 order by 1")


def runs(folder, monkeypatch):
    save(capture(), folder)
    return ("reprice", folder, "--on", "hgx-h100,cloudmatrix384")


def calibrate(folder, monkeypatch):
    pytest.importorskip("scipy", reason="scipy is an extra")
    taken(folder / "m", monkeypatch)
    return ("calibrate", folder / "m", "--out", folder / "mine.yaml")


@pytest.mark.parametrize("make", [score, trace, query, named, runs, calibrate])
def test_rows_have_a_page_whose_tables_are_those_of_json(make, tmp_path, monkeypatch):
    words, made = make(tmp_path, monkeypatch), tmp_path / "page.html"
    result = json.loads(call(*words, "--html", made, "--json"))
    sections = data_of(made.read_text(encoding="utf-8"))["sections"]
    shown = [part for each in sections for part in each["parts"]]
    assert all(part["title"][0] and part["title"][1] for part in shown)
    assert {part["kind"] for part in shown} & {"bars", "points", "lines"}, "something to look at"
    rows = [len(part["rows"]) for part in shown if part["kind"] == "table"]
    lists = [result] if isinstance(result, list) else [each for each in result.values() if isinstance(each, list)]
    assert all(len(each) in rows for each in lists if each and isinstance(each[0], dict))
    if make in (score, trace, calibrate):  # which are known by their keys
        stored, again = tmp_path / "stored.json", tmp_path / "again.html"
        stored.write_text(json.dumps(result))
        call("view", stored, "--html", again)
        viewed = data_of(again.read_text(encoding="utf-8"))["sections"]
        assert viewed[0]["parts"][-1] == sections[0]["parts"][-1]


def test_a_long_table_says_how_much_of_it_is_left_out():
    table, more = parts("rows", [{"at": number, "took_s": 0.5} for number in range(MOST + 7)])
    assert len(table.rows) == MOST
    assert table.rows[0] == ("0", "500 ms")
    assert more.lines[0].startswith("and 7 more rows")
