"""The page of a machine at work, in a real browser against a real endpoint."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from urllib.request import urlopen

import pytest

from taicang.page.html import live_page

BROWSER = shutil.which("chromium")
QUIET = "disable-gpu disable-quic no-first-run disable-background-networking disable-component-update disable-sync"
FLAGS = [f"--{word}" for word in f"headless no-sandbox {QUIET} enable-logging=stderr virtual-time-budget=4000".split()]


def test_it_asks_only_the_endpoint_that_it_came_from():
    made = live_page()
    assert "default-src 'none'" in made
    assert "connect-src 'self'" in made
    assert not re.search(r"https?://|\{\{", made)
    words = re.findall(r'data-words="([^"]*)"', made)
    assert words
    assert all(len(each.split("|")) == 2 for each in words), "each in both languages"


@pytest.fixture
def served(tmp_path):
    pytest.importorskip("uvicorn", reason="uvicorn is an extra")
    command = [sys.executable, "-m", "taicang", "serve", "deepseek-r1", "--on", "cloudmatrix384", "--prefill", "6x16",
               "--decode", "1x160", "--port", "0", "--fail", "chip:3@0.01s+1h"]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        yield re.search(r"http://[^/]+", server.stdout.readline())[0]
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium here: apt-get install chromium")
def test_a_browser_shows_every_npu_and_what_is_broken(served, tmp_path):
    began = time.monotonic()
    assert "text/html" in urlopen(f"{served}/").headers["content-type"]
    assert time.monotonic() - began < 10.0
    shown = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'user'}", "--dump-dom", f"{served}/"],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    body = shown.stdout[shown.stdout.index("<main") : shown.stdout.index("</main>")]
    chips = body[body.index('id="chips"') : body.index('id="chosen"')]
    assert chips.count("<button") == 384
    assert chips.count('class="rack"') == 12
    assert chips.count("×") == 8, "an instance of 16 ranks is 8 NPUs"
    assert len(re.findall(r"<tr>", body[body.index('id="rows"') :])) == 7
    assert int(re.search(r'data-updates="(\d+)"', shown.stdout)[1]) >= 20
    assert "CONSOLE" not in shown.stderr, [line for line in shown.stderr.splitlines() if "CONSOLE" in line]
