"""The pages on the house describe it: files they name exist, words they name are in the source, and each path from a
question to its answer goes through the files that its steps name."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from taicang.app.main import cli

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "taicang"
HOUSE = ("docs/design.md", "docs/explanation/waist-and-floors.md", "docs/how-to/where-do-i-change.md")
FILE = re.compile(r"[\w.*-]+/[\w.*/-]*|[\w.*-]+\.(py|yaml|md|json|toml|jsonl|csv)")
WORD = re.compile(r"^\s*(?:def|class) (\w+)|^\s*(\w+)(?:: [^=\n]+)?(?: =|$)", re.MULTILINE)
OTHERS = {"config.json", "np.maximum", "np.where", ".mutants/"}
"""A user's file, NumPy, what a tool keeps."""
PATH = re.compile(r"^\*\*.*?\*\* \(`taicang (\w+)`\)\n\n((?:\d\. .*\n(?: +.*\n)*)+)", re.MULTILINE)
PATHS = {
    found[1]: re.findall(r"`([\w/]+(?:/|\.py))`", found[2]) for found in PATH.finditer((ROOT / HOUSE[1]).read_text())
}
ROW = {
    "id": "1", "source": "mine", "measured": "", "backend": "vllm", "backend_version": "0.12.0",
    "model_path": "llama-3.1-8b", "system": "h100_sxm", "precision": "bf16", "mode": "agg", "isl": "512", "osl": "64",
    "concurrency": "4", "gemm_quant_mode": "bf16", "moe_quant_mode": "bf16", "batch_size": "4", "tp_size": "1",
    "pp_size": "1", "attention_dp_size": "1", "moe_tp_size": "1", "moe_ep_size": "1", "silicon_ttft_ms": "50",
    "silicon_tpot_ms": "10",
}  # fmt: skip
COMMANDS = {
    "infer": "llama-3.1-70b --on hgx-h200",
    "replay": "--rate 4/s --requests 40 llama-3.1-8b --on hgx-h100 --prefill 1x1 --decode 2x1",
    "train": "llama-3-8b --on hgx-h100 --pp 4 --dp 2 --global-batch 64 --seq 8192 --tokens 1T",
    "search": "llama-3.1-8b --on hgx-h100 --tpot 50ms --confirm 1",
    "score": "ROW",
}
ELSEWHERE = {"score": {"training_rows", "suite_training", "search/training", "collective", "fit_bands"}}
"""What other rows than a served one go through, and what draws the bands before."""


def said(page):
    prose = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    return set(re.findall(r"`([^`\n]+)`", prose)) - OTHERS


def exists(name):
    wanted = name.replace("NAME", "*").rstrip("/")
    roots = (SOURCE, ROOT, ROOT / "docs", ROOT / "tests")
    anywhere = [] if "/" in name else [*(ROOT / "src").rglob(wanted), *(ROOT / "tests").rglob(wanted)]
    return bool(anywhere or [path for root in roots for path in root.glob(wanted)])


@pytest.mark.parametrize("page", HOUSE)
def test_every_file_that_a_page_on_the_house_names_exists(page):
    named = {word for word in said(page) if FILE.fullmatch(word)}
    assert len(named) > 20
    assert not {name for name in named if not exists(name)}


@pytest.mark.parametrize("page", HOUSE)
def test_every_name_that_a_page_on_the_house_gives_is_in_the_source(page):
    known = {SOURCE.name} | {path.stem for path in SOURCE.rglob("*")}
    for path in SOURCE.rglob("*.py"):
        known |= {one or two for one, two in WORD.findall(path.read_text(encoding="utf-8"))}
    data = (path for kind in ("machines", "chips") for path in (SOURCE / "catalog" / "data" / kind).glob("*.yaml"))
    keys = "\n".join(path.read_text(encoding="utf-8") for path in data)
    words = {re.sub(r"\(.*", "", word) for word in said(page) if re.fullmatch(r"[A-Za-z_][\w.]*(\(.*\))?", word)}
    missing = {word for word in words if not exists(word) and not {*word.split(".")} <= known}
    assert not {word for word in missing if f"{word}:" not in keys}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_question_goes_through_the_files_of_its_steps(command, tmp_path):
    assert PATHS.keys() == COMMANDS.keys()
    row = tmp_path / "row.csv"
    with row.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(ROW))
        writer.writeheader()
        writer.writerow(ROW)
    words = COMMANDS[command].replace("ROW", str(row)).split()
    called = set()

    def note(frame, event, _):
        if event == "call" and frame.f_code.co_name != "<module>":
            called.add(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        done = CliRunner().invoke(cli, [command, *words], standalone_mode=False)
    finally:
        sys.setprofile(before)
    assert done.exception is None, done.exception
    inside = {Path(name).relative_to(SOURCE).as_posix() for name in called if Path(name).is_relative_to(SOURCE)}
    left_out = ELSEWHERE.get(command, set())
    steps = [name for name in PATHS[command] if not any(part in name for part in left_out) and "data/" not in name]
    assert len(steps) > 5
    assert not [
        name for name in steps if not any(each == name or each.startswith(f"{name.rstrip('/')}/") for each in inside)
    ]
