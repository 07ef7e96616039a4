"""Benchmarks go on working: each is loaded, and (slow) runs in its shortest form."""

import gzip
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from taicang.evidence.tables import BOARD

SCRIPTS = {path.stem: path for path in sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))}
SHORT = {
    "fabric_speed": "2", "pacing": "0.1", "port_speed": "2000", "predict_speed": "1", "price_operators": "1",
    "replay": "FOLDER 2", "score_speed": "FOLDER/served_e2e.csv", "search_speed": "llama-3.1-70b", "serve_speed": "4 4",
    "train_step": "1", "twin": "",
}  # fmt: skip
"""What each is given to be short; FOLDER has traces of two requests and a few served rows."""


@pytest.fixture
def folder(tmp_path):
    mooncake = '{"timestamp": 0, "input_length": 600, "output_length": 9, "hash_ids": [1, 2]}\n' * 2
    azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "2023-11-16 18:15:46.6805900,374,44\n" * 2
    (tmp_path / "mooncake_fast25_conversation.jsonl.gz").write_bytes(gzip.compress(mooncake.encode()))
    (tmp_path / "azure_llm_2023_conv.csv.gz").write_bytes(gzip.compress(azure.encode()))
    rows = (BOARD / "served_e2e.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "served_e2e.csv").write_text("".join(rows[:4]), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_loads(name, monkeypatch):
    monkeypatch.setattr("sys.argv", [name, *SHORT[name].split()])
    monkeypatch.setattr("sys.path", sys.path.copy())
    assert callable(runpy.run_path(str(SCRIPTS[name]), run_name="loaded")["main"])


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_each_runs(name, folder):
    words = [sys.executable, SCRIPTS[name], *SHORT[name].replace("FOLDER", str(folder)).split()]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "skipped" not in done.stdout
