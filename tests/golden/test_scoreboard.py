"""The scoreboard is frozen: a suite that drifts by half a point fails until `taicang score --freeze` accepts it."""

import sys
from pathlib import Path

import pytest

from taicang.evidence import board
from taicang.evidence.score import Outcome, score, score_parts

sys.path.insert(0, str(Path(__file__).parent))
import carry

EVIDENCE = Path(__file__).resolve().parents[2].parent / "shared" / "evidence"


@pytest.mark.slow
def test_carried_suites_score_as_frozen():
    assert not board.drifts(board.board(None), None)


@pytest.mark.slow
@pytest.mark.skipif(not EVIDENCE.is_dir(), reason="no measured rows beside the repository (shared/evidence)")
def test_all_suites_score_as_frozen():
    assert not board.drifts(board.board(EVIDENCE), EVIDENCE)


def test_the_package_carries_enough_to_be_checked_without_any_folder():
    size = sum(path.stat().st_size for path in carry.FOLDER.rglob("*") if path.is_file())
    rows = {path.name: sum(1 for _ in path.open(encoding="utf-8")) - 1 for path in carry.FOLDER.rglob("*.csv")}
    assert size <= 2_000_000
    assert rows["served_e2e.csv"] >= 1000
    assert rows["published_serving.csv"] >= 300
    kernels = sum(rows[name] for name in carry.THINNED) + rows["published_collective.csv"]
    assert kernels >= 1500
    assert all(name in (carry.FOLDER / "SOURCES.txt").read_text() for name in rows)


def outcome(measured, predicted, held_out=True):
    return Outcome(id="x", suite="s", group="g", measured=measured, predicted=predicted, unit="s", held_out=held_out)


def test_a_drift_of_half_a_point_is_noticed(monkeypatch):
    scores = score_parts([outcome(1.0, 1.1)])
    frozen = {"scores": {"s": {"held-out": {"mape_ratio": 0.1}}}}
    monkeypatch.setattr(board, "frozen", lambda: frozen)
    assert not board.drifts(scores, EVIDENCE)
    assert board.drifts(score_parts([outcome(1.0, 1.106)]), EVIDENCE)
    assert board.drifts(score_parts([outcome(1.0, 1.094)]), EVIDENCE)
    assert board.drifts(
        score_parts([outcome(1.0, None)]), EVIDENCE
    )  # a suite that predicts nothing has no error: also a drift


def test_refusals_lower_coverage_and_never_count_as_accurate():
    one = score([outcome(1.0, 2.0), outcome(1.0, None)], suite="s")
    assert one.coverage_ratio == 0.5
    assert one.mape_ratio == 1.0


def test_parts_are_kept_apart():
    parts = {s.part: s for s in score_parts([outcome(1.0, 2.0), outcome(1.0, 1.0, held_out=False)])}
    assert parts["held-out"].mape_ratio == 1.0
    assert parts["calibrated-on"].mape_ratio == 0.0


def test_a_row_runs_only_the_suites_that_may_hold_it(monkeypatch):
    ran = []

    def run(source, folder, notes, real=board._run):
        ran.append(source.name)
        return real(source, folder, notes)

    monkeypatch.setattr(board, "_run", run)
    assert any(one.id == "experts:2" for one in board.suite_outcomes(None, row="experts:2"))
    assert ran == ["kernels"]
    assert board._naming("ser-0003", carry.FOLDER) == {"published"}
