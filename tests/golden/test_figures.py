"""No figure moves without being seen to: ``make figures`` keeps those of today, and the difference says which moved."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import figures

KEPT = json.loads(figures.KEPT.read_text())


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, names in figures.GROUPS.items() for name in names]
)
def test_figures(group, name):
    found, kept = figures.rounded(group, name), KEPT[group][name]
    assert set(found) == set(kept)
    moved = [
        f"{key} {value:g} -> {found[key]:g}"
        for key, value in kept.items()
        if found[key] != pytest.approx(value, rel=1e-7, abs=1e-12)
    ]
    assert not moved, "figures moved (make figures accepts them):\n" + "\n".join(moved)


def test_every_figure_is_asked_for():
    assert {group: set(names) for group, names in KEPT.items()} == {
        g: set(names) for g, names in figures.GROUPS.items()
    }
