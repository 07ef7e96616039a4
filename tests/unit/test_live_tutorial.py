"""The tutorial's commands, from two endpoints to a router that meets a failing node, typed one after the other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ports import free_port

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorials" / "live-router.md"
FENCE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands():
    """Of the part over HTTP, each with the output that the page shows."""
    text = PAGE.read_text(encoding="utf-8")
    found = []
    for block in FENCE.findall(text[text.index("## Over HTTP") :]):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append([line[2:], ""])
            else:
                found[-1][1] += line + "\n"
    return found


@pytest.mark.slow
@pytest.mark.skipif(not all(map(shutil.which, ("bash", "curl"))), reason="needs bash and curl")
def test_the_commands_do_what_the_page_says(tmp_path):
    pytest.importorskip("uvicorn", reason="uvicorn is an extra")
    script = ["set -m", f'taicang() {{ exec {sys.executable} -m taicang "$@"; }}', "cd " + str(ROOT)]
    for number, (command, _) in enumerate(commands()):
        script += [f"exec 5>{tmp_path}/out{number}", f"{command}" if command.endswith("&") else f"{{ {command}; }} >&5",
                   f"echo $? >{tmp_path}/code{number}"]  # fmt: skip
    text = "\n".join(script) + "\n"
    for port in ("8000", "8001", "8002"):
        text = re.sub(rf"\b{port}\b", str(free_port()), text)
    text = text.replace("seen.txt", f"{tmp_path}/seen.txt").replace("python examples", f"{sys.executable} examples")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(["bash"], input=text, text=True, capture_output=True, timeout=500, env=env, check=False)
    seen = {}
    for number, (command, shown) in enumerate(commands()):
        assert (tmp_path / f"code{number}").exists(), (command, done.stderr)
        code = (tmp_path / f"code{number}").read_text().strip()
        seen[command] = (tmp_path / f"out{number}").read_text()
        if not command.startswith("kill"):
            assert code == "0", (command, done.stderr)
        if shown:
            assert seen[command] == shown, command
    answered = next(said for command, said in seen.items() if "cat seen" in command)
    assert answered.startswith("80 answered, 0 lost"), answered
    sent = json.loads([said for command, said in seen.items() if command.endswith("8000/")][-1])
    assert sum(sent.values()) == 80
    first, second = sent.values()
    assert second > first > 0, "the second took what the first could not"
