"""Scores of latent attention on the measured kernels; needs the evidence folder beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from taicang.evidence.kernels import outcomes
from taicang.evidence.score import score

FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "evidence"


@pytest.mark.skipif(
    not (FOLDER / "kernels" / "mla_decode.csv").exists(), reason="no folder 'shared' beside the repository"
)
def test_errors_on_held_out_shapes() -> None:
    listed = list(outcomes(FOLDER))
    for suite, bound in (("mla_prefill", 0.09), ("mla_decode", 0.11)):
        held = score([o for o in listed if o.suite == suite and o.held_out], suite=suite)
        assert held.rows > 800
        assert held.coverage_ratio == 1.0
        assert held.mape_ratio < bound, held
        assert abs(held.bias_ratio) < 0.05, held
