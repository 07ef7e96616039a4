"""The same question has the same answer to the last byte, whatever order a process gives its sets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("hash_seeds.py")


@pytest.mark.parametrize("share", [100, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_no_answer_depends_on_the_hash_seed(share):
    words, seeds = [sys.executable, str(SCRIPT), str(share)], ("1", "2")
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, env=os.environ | {"PYTHONHASHSEED": s}) for s in seeds]
    first, second = (json.loads(each.communicate()[0]) for each in both)
    assert len(first) > 20
    assert [line for line in first if first[line] != second[line]] == []
