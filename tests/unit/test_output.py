"""Folders are checked before the work, and get all files or none."""

import itertools
import signal
import sys
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


def test_a_check_takes_no_folder_from_another_run(tmp_path, monkeypatch):
    """Two runs into one new folder: the first writes while the second still checks."""
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: pytest.fail("it was made"))
    monkeypatch.setattr(Path, "rmdir", lambda *_: pytest.fail("it was removed"))
    check_folder(tmp_path / "a" / "b", "--out")


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


def interrupted(moment, folder):
    """Write three files over old ones, struck by Ctrl-C at line ``moment``: was it heard, and did that moment come."""
    lines = itertools.count()
    came = False

    def struck(frame, event, _):
        nonlocal came
        if Path(frame.f_code.co_filename).name not in ("output.py", "tempfile.py", "shutil.py", "contextlib.py"):
            return None
        if event == "line" and next(lines) == moment:
            came = True
            signal.raise_signal(signal.SIGINT)
        return struck

    heard = False
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    tracer = sys.gettrace()
    try:
        sys.settrace(struck)
        try:
            write({name: iter([f"new {name}"]) for name in ("a", "b", "c")}, folder, "here")
        finally:
            sys.settrace(tracer)
    except KeyboardInterrupt:
        heard = True
    finally:
        signal.signal(signal.SIGINT, usual)
    return heard, came


def test_ctrl_c_at_any_line_leaves_all_files_or_none_and_no_half_made_folder(tmp_path):
    for moment in itertools.count():
        folder = tmp_path / str(moment)
        folder.mkdir()
        (folder / "b").write_text("old b")
        heard, came = interrupted(moment, folder)
        seen = {each.name: each.read_text() for each in folder.iterdir()}
        assert seen in ({"b": "old b"}, {name: f"new {name}" for name in ("a", "b", "c")}), moment
        assert heard == came, moment
        if not came:
            break
    assert moment > 100
