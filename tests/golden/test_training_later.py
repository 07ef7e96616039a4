"""Training rows collected later: stacks with one constant each, scored with their model left out, and jobs at scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from taicang.evidence.fit_training import LATER, later_rows, left_out
from taicang.evidence.suite_training import predict

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "evidence"
pytestmark = pytest.mark.skipif(not (FOLDER / LATER).is_file(), reason="no later training rows beside the repository")


@pytest.mark.slow
def test_rows_on_ascend_with_their_model_left_out() -> None:
    errors = {
        f"{row.id} {row.model}": float(np.exp(model)) - 1.0
        for row, _, model, _ in left_out(FOLDER)
        if row.chip.startswith("Ascend")
    }
    assert len(errors) == 41, "every row is predicted"
    off = np.abs(list(errors.values()))
    assert off.mean() <= 0.12, errors
    assert np.median(off) <= 0.07, errors


def test_seven_billion_on_8_to_1024_cards() -> None:
    """Plain and grouped sharding, measured and predicted: what is lost, and that groups are ahead."""
    rate = {
        (int(row.count), plan["zero_group"]): (float(row.raw["value"]), row.step_s / predict(row).seconds)
        for row in later_rows(FOLDER)
        if row.model == "InternLM-7B" and (plan := row.raw["par"])["tp"] == 1 and not row.raw["extra"]["pack"]
    }
    measured = {key: value for key, (value, _) in rate.items()}
    predicted = {key: value * ratio for key, (value, ratio) in rate.items()}
    for said in (measured, predicted):
        assert said[1024, 8] > said[1024, 0]
    for group, points in ((0, 0.10), (8, 0.11)):
        lost = [1.0 - said[1024, group] / said[8, group] for said in (measured, predicted)]
        assert lost[1] == pytest.approx(lost[0], abs=points), group
    off = [predicted[key] / measured[key] - 1.0 for key in rate]
    assert np.mean(np.abs(off)) <= 0.10, off
