"""The tutorial of a CUDA script on Ascend: its commands print what it shows, whatever the figures."""

import re
import shlex
from pathlib import Path

from running import TORCH, call

pytestmark = TORCH
PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "will-my-script-run.md"
BLOCK = re.compile(r"```(python|console)\n(.*?)```", re.DOTALL)


def plain(text):
    """Words; a figure is one whatever it is, with its unit's prefix."""
    return re.sub(r"\d[\d.,]*( ?[kMGTµmn]?)(?=[a-zA-Z%]|\b)", "#", " ".join(text.split()))


def test_the_tutorial_s_commands_print_what_it_shows(tmp_path):
    script = ""
    for kind, body in BLOCK.findall(PAGE.read_text()):
        if kind == "python":
            script = body
            (tmp_path / "repo").mkdir()
            (tmp_path / "repo" / "train.py").write_text(script)
            (tmp_path / "train.py").write_text(script)
            (tmp_path / "larger.py").write_text(script.replace("(4, 2048", "(12, 2048"))
            continue
        first, *shown = body.splitlines()
        if not first.startswith("$ taicang"):
            continue
        done = call(*shlex.split(first.removeprefix("$ taicang ")), cwd=tmp_path)
        assert done.returncode == (1 if "larger.py" in first else 0), done.stderr[-500:]
        said = plain(done.stdout + done.stderr)
        for line in shown:
            assert plain(line.removesuffix("...")) in said, line
