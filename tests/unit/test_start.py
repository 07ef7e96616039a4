"""A short command loads and reads what it needs: what is timed elsewhere is counted here."""

from __future__ import annotations

import subprocess
import sys

ANSWER = """
import sys
from taicang.app.main import cli
from taicang.catalog import files
kept, read = [], files._read
files._read = lambda path, stamp: kept.append(path.stem) or read(path, stamp)
cli.main(args={words!r}, standalone_mode=False)
print("modules", *sys.modules, file=sys.stderr)
print("files", *kept, file=sys.stderr)
"""
NEEDLESS = {"numpy.ma", "rich._emoji_codes", "taicang.fabric.graph", "taicang.centre.report", "taicang.train.step",
            "taicang.evidence", "scipy"}  # fmt: skip


def loaded(*words):
    code = ANSWER.format(words=list(words))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = {line.split()[0]: set(line.split()[1:]) for line in done.stderr.splitlines() if line}
    return lines["modules"], lines["files"]


def test_an_answer_loads_no_module_that_it_has_no_use_for():
    modules, _ = loaded("infer", "deepseek-r1", "--on", "cloudmatrix384", "--tpot", "50ms")
    assert not modules & NEEDLESS


def test_a_search_that_is_replayed_loads_no_more():
    modules, _ = loaded("search", "llama-3.1-8b", "--on", "hgx-h100", "--tpot", "50ms", "--confirm", "1")
    assert not modules & (NEEDLESS | {"taicang.predict.serving", "taicang.serve.summary"})


def test_a_machine_of_several_units_is_found_without_reading_the_others():
    _, read = loaded("infer", "llama-3.1-8b", "--on", "hgx-h200 x 2", "--tp", "2")
    assert {"hgx-h200", "h200"} <= read
    assert not read & {"cloudmatrix384", "hgx-h20", "mi300x-8", "ascend-910c"}


def test_who_interrupts_it_while_it_is_loaded_is_not_shown_where_that_was():
    code = (
        "import sys, taicang.__main__ as start\nclass Struck:\n    def find_spec(self, name, *_):\n"
        "        if name == 'taicang.app.options':\n            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Struck())\nstart.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "taicang: interrupted\n")
