"""No figure moves without being seen to: ``make figures`` keeps those of today, and the difference says which moved."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import figures

KEPT = json.loads(figures.KEPT.read_text())


def agree(group):
    found, moved = figures.rounded(group), []
    assert set(found) == set(KEPT[group])
    for name, kept in KEPT[group].items():
        assert set(found[name]) == set(kept), name
        moved += [
            f"{name}: {key} {value:g} -> {found[name][key]:g}"
            for key, value in kept.items()
            if found[name][key] != pytest.approx(value, rel=1e-7, abs=1e-12)
        ]
    assert not moved, "figures moved (make figures accepts them):\n" + "\n".join(moved)


def test_figures_of_commands():
    agree("commands")


def test_figures_of_operators():
    agree("operators")


def test_figures_of_states():
    agree("states")


def test_figures_of_replays():
    agree("replays")


def test_figures_of_training():
    agree("training")
