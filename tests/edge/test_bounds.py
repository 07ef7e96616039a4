"""Sizes that no host holds and spans that no clock counts: refused or answered at once, in a line that says which."""

import os
import resource
import subprocess
import sys

import pytest

SECONDS, ROOM = 20, 6 << 30
"""Of a processor and of memory, for a command that refuses."""
LOAD = "--rate 2/s --input 300 llama-3.1-8b --on hgx-h100"
LINES = (
    ("fabric hgx-h100 --collective dispatch --tokens 100000000 --bytes 7KB", "draws, more than"),
    ("fabric hgx-h100 --collective dispatch --tokens 1 --bytes 7KB --experts 1000000000", "--experts"),
    ("fabric hgx-h100 --set planes.scale_up.nvlink.switches=1000000000", "more than 20,000,000 links"),
    ("fabric 'hgx-h100 x 500000'", "links"),
    (f"replay --requests 100000000000 {LOAD}", "of memory, more than this host"),
    (f"replay --requests 4000 --turns 2 --shared 1000000000 {LOAD}", "of memory, more than this host"),
    (f"replay --requests 10 --turns 1000000000 {LOAD}", "of memory, more than this host"),
    ("replay llama-3.1-8b --on hgx-h100 --closed-loop 1 --requests 400 --output 100000000", "an attention group holds"),
    ("search llama-3.1-70b --on hgx-h200 --input 1024 --output 1000000 --tpot 30ms --ttft 2s", "more than 109 days"),
)  # fmt: skip


def limited():
    resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


@pytest.mark.parametrize(("line", "says"), LINES, ids=[line[:60] for line, _ in LINES])
def test_what_is_too_much_is_told_at_once(line, says):
    done = subprocess.run(f"{sys.executable} -m taicang {line}", shell=True, capture_output=True, text=True,
                          check=False, preexec_fn=limited, timeout=600)  # fmt: skip
    assert says in done.stdout + done.stderr
    assert done.returncode in (0, 2)
    assert "Traceback" not in done.stderr


def test_work_for_which_there_is_no_memory_is_told_in_a_line():
    code = "import numpy, taicang.app.main as m\ndef act(**_): numpy.ones(1 << 50)\nm.cli.main = act\nm.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert (done.returncode, done.stderr) == (2, "taicang: out of memory; smaller sizes or counts take less\n")
