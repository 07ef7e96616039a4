"""Bands of collectives are what the held-out rows give now."""

from pathlib import Path

import pytest

from taicang.catalog import trust
from taicang.evidence import fit_bands

EVIDENCE = Path(__file__).resolve().parents[2].parent / "shared" / "evidence"


@pytest.mark.skipif(not EVIDENCE.is_dir(), reason="needs shared/evidence beside the repository")
def test_the_recorded_bands_are_those_of_the_rows() -> None:
    made = fit_bands.rounded(fit_bands.collectives(EVIDENCE))
    kept = trust.recorded()["collectives"]
    assert made.keys() == kept.keys()
    for key, pool in made.items():
        assert pool["rows"] == kept[key]["rows"], key
        assert pool["errors"] == pytest.approx(kept[key]["errors"], abs=0.02), key


@pytest.mark.skipif(not EVIDENCE.is_dir(), reason="needs shared/evidence beside the repository")
def test_nine_rows_in_ten_lie_in_their_band() -> None:
    rows = [(one, trust.recorded()["collectives"].get(one.key)) for one in fit_bands.collective_errors(EVIDENCE)]
    inside = [abs(one.log_ratio) <= pool["errors"][1] for one, pool in rows if pool]
    assert 0.88 < sum(inside) / len(inside) < 0.98
