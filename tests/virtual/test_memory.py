"""Memory against what others measured on real devices."""

import csv
import json
import re
from pathlib import Path

import pytest
from running import PROGRAMS, TORCH, run

EVIDENCE = Path(__file__).parents[3] / "shared" / "evidence"
pytestmark = [*TORCH, pytest.mark.skipif(not EVIDENCE.is_dir(), reason="needs the collection of evidence")]


def rows(name, engine):
    """Rows of a table that tell memory, by engine."""
    with (EVIDENCE / name).open() as file:
        return [row for row in csv.DictReader(file) if row["sw"].startswith(engine) and "mem_gib" in row["extra"]]


def test_torchtitan_s_peaks_on_8_and_128_devices():
    eager = [row for row in rows("published_training.csv", "torchtitan") if row["notes"].startswith("eager; selective")]
    assert len(eager) >= 2
    size = ["--hidden", 4096, "--inter", 14336, "--layers", 32, "--heads", 32, "--kv-heads", 8, "--vocab", 128256]
    for row in eager:
        many, batch = int(row["count"]), json.loads(row["batch"])["local_batch"]
        made = run("--on", f"hgx-h100-96g-500w x {many // 8}", PROGRAMS / "llama.py", *size, "--seq", 8192,
                   "--batch", batch, "--keep", "selective")  # fmt: skip
        reserved = float(re.findall(r"of (\S+) GiB", made["said"])[-1])
        assert reserved == pytest.approx(json.loads(row["extra"])["mem_gib"], rel=0.08)


ROWS, HIDDEN, INNER, LAYERS, VOCAB = 2 * 4096, 3072, 8192, 28, 128256
NORMS = 2 * LAYERS * ROWS * HIDDEN
COMPUTED_AGAIN = {
    "of each norm the 32-bit input and the 16-bit quotient, but not the 16-bit stream that both come from":
        NORMS * (4 + 2 - 2),
    "of each gate its silu": LAYERS * ROWS * INNER * 2,
}  # fmt: skip
"""Bytes that the program keeps for its backward pass, and torchtune, which compiles it, computes again."""
LOSS = ROWS * VOCAB * (4 - 2)
"""The 32-bit log-softmax of a chunk is computed again from its 16-bit logits; those of the whole are in 32 bits."""


def test_torchtune_s_peaks_and_speeds_on_one_device():
    one = [row for row in rows("published_training_2.csv", "torchtune") if row["count"] == "1"]
    assert len(one) == 2
    for row in one:
        chunked = "chunked_loss" in row["extra"]
        options = ["chunked"] if chunked else []
        made = run("--on", "hgx-a100", "--world", "1", "--fuse", PROGRAMS / "finetune.py", *options)
        held = float(re.findall(r"(\S+) GiB", made["said"])[-1])
        held -= (sum(COMPUTED_AGAIN.values()) + LOSS * chunked) / 2**30
        assert held == pytest.approx(json.loads(row["extra"])["mem_gib"], rel=0.03)
        assert 2 * 4096 / made["step_s"] == pytest.approx(float(row["value"]), rel=0.10)
