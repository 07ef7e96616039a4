"""The catalog command."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from taicang.app.main import cli
from taicang.errors import UnknownName


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["catalog", *arguments], env={"COLUMNS": "160"})


def test_list() -> None:
    result = run("list", "--kind", "machine")
    assert result.exit_code == 0
    assert "cloudmatrix384" in result.output
    assert "384 x ascend-910c-752t" in result.output


def test_list_json() -> None:
    rows = json.loads(run("list", "--json").output)
    assert {row["kind"] for row in rows} == {"chip", "machine", "stack"}
    assert len(rows) > 80


def test_show() -> None:
    result = run("show", "cloudmatrix384")
    assert result.exit_code == 0
    for told in ("559 kW", "or 719.2 kW", "unknown", "arxiv.org/abs/2506.12708", "chip.peak.int8"):
        assert told in result.output


def test_show_json_carries_sources_and_digest() -> None:
    record = json.loads(run("show", "hgx-h100", "--set", "chip.memory.bandwidth=4 TB/s", "--json").output)
    figure = next(f for f in record["figures"] if f["key"] == "chip.memory.bandwidth")
    assert (figure["value"], figure["source"]) == (4e12, "user")
    assert len(record["digest"]) == 64
    assert {"h100_ds", "user"} <= {source["key"] for source in record["sources"]}


@pytest.mark.parametrize("name", ["ascend-910c", "vllm@0.18.0", "gb200-nvl72 x 8", "zte-nebula", "megatron"])
def test_show_finds_the_kind(name: str) -> None:
    assert run("show", name).exit_code == 0


def test_unknown_name_is_one_line_with_a_suggestion() -> None:
    result = run("show", "clodmatrix384")
    assert isinstance(result.exception, UnknownName)
    assert "did you mean cloudmatrix384" in str(result.exception)


def test_check(tmp_path: Path) -> None:
    assert run("check").output.startswith("sound: ")
    bad = tmp_path / "bad.yaml"
    bad.write_text("base: hgx-h100\nplanes: {scale_up: {nvlink: {bandwidth: 1 GB/s}}}\n")
    result = run("check", str(bad))
    assert result.exit_code == 2
    assert "more bandwidth" in result.output
    assert json.loads(run("check", str(bad), "--json").output)["findings"]


@pytest.mark.parametrize("command", [(), ("list",), ("show",), ("check",)])
def test_help_has_examples(command: tuple[str, ...]) -> None:
    assert "taicang catalog" in run(*command, "--help").output


@pytest.mark.parametrize("line", ["chips_per_node: eight", "chip: {memory: {bandwidth: 3}}", "power: {load: 1 parsec}"])
def test_a_fault_names_its_file_once(tmp_path: Path, line: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: hgx-h100\n{line}\n")
    result = run("check", str(path))
    assert result.exit_code == 2
    assert result.output.count("mine.yaml") == 1
    assert "mine.yaml:2: " in result.output
