"""The page of a machine at work, in a real browser against a real endpoint."""

from __future__ import annotations

import re
import shutil
import subprocess
from urllib.request import urlopen

import pytest

from ports import serving
from taicang.page import html
from taicang.page.html import live_page

BROWSER = shutil.which("chromium")
QUIET = "disable-gpu disable-quic no-first-run disable-background-networking disable-component-update disable-sync"
FLAGS = [f"--{word}" for word in f"headless no-sandbox {QUIET} enable-logging=stderr virtual-time-budget=4000".split()]


def test_it_asks_only_the_endpoint_that_it_came_from():
    made = live_page()
    assert "default-src 'none'" in made
    assert "connect-src 'self'" in made
    assert not re.search(r"https?://|\{\{", made.replace(html.static(html.ENGINE), ""))
    words = re.findall(r'data-words="([^"]*)"', made)
    assert words
    assert all(len(each.split("|")) == 2 for each in words), "each in both languages"


@pytest.fixture
def served(tmp_path):
    pytest.importorskip("uvicorn", reason="uvicorn is an extra")
    with serving(
        "deepseek-r1", "--on", "cloudmatrix384", "--prefill", "6x16", "--decode", "1x160", "--fail", "chip:3@0.01s+1h",
    ) as port:  # fmt: skip
        yield f"http://127.0.0.1:{port}"


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium here: apt-get install chromium")
def test_a_browser_shows_every_npu_and_what_is_broken(served, tmp_path):
    with urlopen(f"{served}/") as answer:
        assert "text/html" in answer.headers["content-type"]
    shown = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'user'}", "--dump-dom", f"{served}/"],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    body = shown.stdout[shown.stdout.index("<main") : shown.stdout.index("</main>")]
    chips = body[body.index('id="chips"') : body.index('id="node"')]
    assert chips.count("<button") == 384
    assert chips.count('tabindex="0"') == 1, "one stop of the keyboard, not 384"
    assert chips.count('class="rack"') == 12
    assert chips.count(">×<") == 16, "the instance that holds the chip"
    assert len(re.findall(r"<tr>", body[body.index('id="rows"') :])) == 7
    assert int(re.search(r'data-updates="(\d+)"', shown.stdout)[1]) >= 60, "20 a second of the browser's time"
    assert "CONSOLE" not in shown.stderr, [line for line in shown.stderr.splitlines() if "CONSOLE" in line]
