"""The page on where to change a thing: each of its changes applies to a copy of the source, is small, and works."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "where-do-i-change.md"
RECIPE = re.compile(
    r"^## (?P<title>.*?)$(?:(?!^## ).)*?<!-- recipe -->\n```diff\n(?P<diff>.*?)^```\n"
    r"(?:(?!^## ).)*?```console\n\$ taicang (?P<command>.*?)\n```",
    re.MULTILINE | re.DOTALL,
)
RECIPES = {found["title"]: (found["diff"], found["command"]) for found in RECIPE.finditer(PAGE.read_text("utf-8"))}
MOST_FILES, MOST_LINES = 3, 60


def run(words, folder):
    env = os.environ | {"PYTHONPATH": str(folder / "src")}
    command = [sys.executable, "-m", "taicang", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_every_change_on_the_page_is_found():
    assert len(RECIPES) == PAGE.read_text("utf-8").count("<!-- recipe -->") > 1


@pytest.mark.parametrize("title", RECIPES)
def test_a_change_is_small_and_works(title, tmp_path):
    diff, command = RECIPES[title]
    files = re.findall(r"^\+\+\+ b/(.*)$", diff, re.MULTILINE)
    lines = [line for line in diff.splitlines() if re.match(r"[+-](?![+-]{2} )", line)]
    assert len(files) <= MOST_FILES
    assert len(lines) <= MOST_LINES
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    words = shlex.split(command)
    assert run(words, tmp_path).returncode == 2, "the command works without the change"
    (tmp_path / "change.diff").write_text(diff)
    applied = subprocess.run(
        ["git", "apply", "change.diff"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
    )  # fmt: skip
    assert applied.returncode == 0, applied.stderr
    done = run(words, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout
