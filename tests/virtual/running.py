"""What tests of programs on virtual devices share."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
MACHINES = ("cloudmatrix384", "atlas-800-a2", "hgx-h100", "gb200-nvl72")
TORCH = [pytest.mark.slow, pytest.mark.skipif(find_spec("torch") is None, reason="needs taicang[torch]")]


def needs(*names):
    missing = [name for name in names if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def call(*words, cwd=None):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(
        [sys.executable, "-m", "taicang", *map(str, words)],
        capture_output=True, text=True, check=False, env=environment, cwd=cwd, timeout=400,
    )  # fmt: skip


def run(*words, status=0):
    done = call("run", "--json", *words)
    assert done.returncode == status, done.stderr[-2000:]
    said = done.stdout
    made = json.loads(said[said.index('{\n  "status"') :])
    return made["run"] | {"said": said, "translated": made["translated"]}


def named_npu(program, folder):
    """The same program in Ascend's names."""
    text = program.read_text()
    for old, new in (('"cuda"', '"npu"'), ("cuda:", "npu:"), ("torch.cuda", "torch.npu"), ("nccl", "hccl")):
        text = text.replace(old, new)
    path = folder / program.name
    path.write_text(text.replace("import torch\n", "import torch\nimport torch_npu\n", 1))
    return path


def work(rank):
    return [(line["name"], line["phase"], line["launches"], line["flop"]) for line in rank["lines"]]
