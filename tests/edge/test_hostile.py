"""Hostile input ends in an answer or in one line: no traceback, valid JSON, in time (``make fuzz`` runs many more)."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import hostile


@pytest.mark.parametrize("seed", range(6))
def test_hostile_input_is_answered_or_refused(seed):
    assert hostile.run(seed, 50) == []
