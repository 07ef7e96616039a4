"""Folders are checked before the work, and get all files or none."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from taicang.app.main import cli
from taicang.errors import InvalidInput
from taicang.output import check_folder, write


def test_a_check_leaves_nothing_behind(tmp_path):
    check_folder(tmp_path / "a" / "b", "--out")
    check_folder(tmp_path, "--out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["/proc/x", "/proc/x/y"])
def test_what_cannot_be_written_is_refused_with_the_option(place):
    with pytest.raises(InvalidInput, match=f"--pareto: cannot write into {place}"):
        check_folder(Path(place), "--pareto")


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot write into"):
        check_folder(tmp_path / "file" / "below", "--out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_all_files_are_written_or_none(tmp_path):
    (tmp_path / "b.txt").mkdir()
    (tmp_path / "a.txt").write_text("before")
    with pytest.raises(InvalidInput, match="is a folder"):
        write({"a.txt": "1", "b.txt": "2"}, tmp_path, "--out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]
    assert (tmp_path / "a.txt").read_text() == "before"
    write({"a.txt": "1", "c.bin": b"2"}, tmp_path, "--out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt", "c.bin"]


@pytest.mark.parametrize("args", [("--pareto", "/proc/x"), ("--emit", "vllm", "--out", "/proc/x")])
def test_the_search_refuses_before_it_starts(args, monkeypatch):
    monkeypatch.setattr("taicang.app.search_cmd.outcomes", lambda *_: pytest.fail("it searched"))
    result = CliRunner().invoke(cli, ["search", "llama-3.1-8b", "--on", "hgx-h100", *args])
    assert isinstance(result.exception, InvalidInput)
    assert args[-2] in str(result.exception)
