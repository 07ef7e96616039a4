"""Training steps against published measurements: the errors that this version promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from taicang.evidence.score import Outcome, Score, score_parts
from taicang.evidence.suite_training import predict
from taicang.evidence.suites import sources
from taicang.evidence.training_rows import FILE, model_of, training_rows
from taicang.train.flops import model_flop

EVIDENCE = Path(__file__).resolve().parents[2].parent / "shared" / "evidence"
pytestmark = pytest.mark.skipif(
    not EVIDENCE.is_dir(), reason="no measured rows beside the repository (shared/evidence)"
)


@pytest.fixture(scope="module")
def found() -> list[Outcome]:
    return list(sources()["training"].told(EVIDENCE))


@pytest.fixture(scope="module")
def scores(found: list[Outcome]) -> dict[tuple[str, str], Score]:
    return {(one.suite, one.part): one for one in score_parts(found)}


@pytest.mark.parametrize(
    ("suite", "error", "coverage"),
    [("training_dense", 0.08, 0.9), ("training_lora", 0.15, 0.9), ("training_moe", 0.17, 0.95)],
)
def test_held_out_rows(scores: dict[tuple[str, str], Score], suite: str, error: float, coverage: float) -> None:
    held = scores[suite, "held-out"]
    assert held.mape_ratio <= error
    assert held.coverage_ratio >= coverage


def test_megatron_s_table(found: list[Outcome]) -> None:
    """Eight steps of arXiv 2205.05198, table 5; four of them calibrate the A100's clock, beside runs on FSDP: since
    these recompute less, that clock is lower and the table's mean error 4.6 % (4.4 before)."""
    errors = [abs(o.error_ratio or 0.0) for o in found if o.suite == "training_megatron"]
    assert len(errors) == 8
    assert np.mean(errors) <= 0.047
    assert max(errors) <= 0.105


def test_scaling_of_one_layout() -> None:
    """From the smallest to the largest run of a layout (to 2,304 GPUs): mean slope error within 3 %."""
    errors = np.array(
        [abs(o.error_ratio or 0.0) for o in sources()["scaling"].told(EVIDENCE) if o.predicted is not None]
    )
    assert len(errors) >= 25
    assert np.mean(errors) <= 0.03
    assert np.median(errors) <= 0.02


def test_flops_are_counted_as_published() -> None:
    """Rows that give both tokens/s and TFLOP/s tell the publisher's FLOPs per token: ours, to half a per cent."""
    checked = 0
    for row in training_rows(EVIDENCE / FILE):
        stated = row.raw["extra"].get("model_tflops_per_gpu")
        if row.source != "mbridge" or row.suite != "training_dense" or not stated:
            continue
        per_token = stated * 1e12 / float(row.raw["value"])
        ours = float(model_flop(model_of(row), row.seq, 1.0)) / row.seq
        assert ours == pytest.approx(per_token, rel=0.015), row.id
        checked += 1
    assert checked > 50


def test_memory_of_published_runs() -> None:
    """torchtitan prints what its allocator reserved at most: ours within a tenth."""
    rows = [row for row in training_rows(EVIDENCE / FILE) if "mem_gib" in row.raw["extra"]]
    assert len(rows) >= 4
    for row in rows:
        use = predict(row).memory
        ours = float(use.total_bytes - use.runtime_bytes) / 2**30
        assert ours == pytest.approx(row.raw["extra"]["mem_gib"], rel=0.10), row.id
