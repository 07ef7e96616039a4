"""Accuracy of served TPOT against the promise: 15 % mean error at 95 % coverage, on the held-out part and the whole."""

from pathlib import Path

import pytest

from taicang.evidence import suite_served
from taicang.evidence.score import score
from taicang.evidence.suites import sources

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "evidence"


@pytest.mark.skipif(not (FOLDER / suite_served.FILE).is_file(), reason="no folder shared beside the repository")
def test_tpot_keeps_the_promise():
    found = [o for o in sources()["served"].told(FOLDER) if o.suite.startswith("served_tpot")]
    held = score((o for o in found if o.held_out), suite="served_tpot")
    whole = score(found, suite="served_tpot", part="all")
    for part in (held, whole):
        assert part.mape_ratio <= 0.15
        assert part.coverage_ratio >= 0.95
        assert abs(part.bias_ratio) <= 0.05
