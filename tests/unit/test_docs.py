"""The documentation says what the program does: generated parts, examples, links, and two READMEs in step."""

import csv
import re
import runpy
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import blocks  # noqa: E402
import generate  # noqa: E402
import pictures  # noqa: E402
import reference_pages  # noqa: E402

from taicang.app.study_points import ASKED  # noqa: E402
from taicang.evidence import suite_served  # noqa: E402
from taicang.evidence.tables import held_out  # noqa: E402
from taicang.search.study import read_study, size  # noqa: E402

PAGES = [str(path.relative_to(ROOT)) for path in generate.pages()]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(text):
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def slug(title):
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title.strip().lower()))


def test_generated_parts_are_what_the_code_says_now():
    assert not generate.stale(), "run python docs/generate.py"


def check_examples(page, *, slow):
    text = (ROOT / page).read_text(encoding="utf-8")
    names = {}
    for example in blocks.examples(text):
        if not example.runs or (example.slow and not slow):
            continue
        shown, now = blocks.fresh(example, names, page)
        assert blocks.alike(shown, now), (
            f"{page} shows\n{shown}\nbut the program prints\n{now}\nrun python docs/generate.py"
        )


@pytest.mark.parametrize("page", PAGES)
def test_examples_print_what_the_page_shows(page):
    check_examples(page, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_long_examples_print_what_the_page_shows(page):
    if not blocks.EVIDENCE.is_dir() and "<!-- evidence" in (ROOT / page).read_text(encoding="utf-8"):
        pytest.skip("the folder of measured rows (shared/evidence beside the repository) is absent")
    check_examples(page, slow=True)


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page):
    here = (ROOT / page).parent
    for target in LINK.findall(prose((ROOT / page).read_text(encoding="utf-8"))):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        file = (here / path).resolve() if path else ROOT / page
        assert file.exists(), f"{page}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(title) for title in titles}, f"{page}: {target}"


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for path in (ROOT / "docs").rglob("*.md"):
        assert f"- {path.relative_to(ROOT / 'docs').as_posix()}" in navigation


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_readmes_are_in_step():
    english, chinese = (path.read_text(encoding="utf-8") for path in generate.READMES)
    fence, heading = re.compile(r"```.*?```", re.DOTALL), re.compile(r"^#+", re.MULTILINE)
    assert fence.findall(english) == fence.findall(chinese)
    assert heading.findall(prose(english)) == heading.findall(prose(chinese))
    assert re.findall(r"<!-- .*? -->", english) == re.findall(r"<!-- .*? -->", chinese)

    def figures(text):
        return sorted(re.findall(r"\d[\d.,]*\d|\d", prose(text)))

    assert figures(english) == figures(chinese)


def test_pictures_are_whole_and_show_all_machines():
    for name in ("frontier.svg", "waterfall.svg"):
        ET.parse(ROOT / "docs" / "images" / name)
    words = (ROOT / "docs" / "images" / "frontier.svg").read_text(encoding="utf-8")
    assert all(f">{machine}<" in words for machine in pictures.DEMO_MACHINES)


@pytest.mark.parametrize("script", [path.name for path in (ROOT / "examples").glob("*.py")])
def test_example_scripts_run(script, capsys, monkeypatch):
    if script == "transfer.py" and not blocks.EVIDENCE.is_dir():
        pytest.skip("the folder of measured rows (shared/evidence beside the repository) is absent")
    monkeypatch.setattr(sys, "argv", [script, str(blocks.EVIDENCE)])
    runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_pages_quote_the_example_files_as_they_are():
    for page, file in (
        ("docs/tutorials/own-supernode.md", "my-supernode.yaml"),
        ("docs/how-to/sweep.md", "study.yaml"),
        ("docs/how-to/sweep.md", "study-bayesian.yaml"),
        ("docs/how-to/add-a-chip.md", "my-chip.yaml"),
        ("docs/how-to/add-a-chip.md", "my-cluster.yaml"),
    ):
        body = (ROOT / "examples" / file).read_text(encoding="utf-8").partition("\n")[2]
        assert f"```yaml\n{body}```" in (ROOT / page).read_text(encoding="utf-8"), file


@pytest.mark.parametrize("file", ["study.yaml", "study-bayesian.yaml"])
def test_example_studies_are_understood(file):
    assert size(read_study(ROOT / "examples" / file, ASKED)) > 1


@pytest.mark.slow
def test_the_page_on_studies_prints_what_it_shows(tmp_path, monkeypatch):
    """Its commands need extras and write folders: they run in a folder of their own."""
    for extra in ("optuna", "pyarrow", "duckdb"):
        pytest.importorskip(extra, reason="adaptive sampling, Parquet and queries are extras")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.setattr(blocks, "ROOT", tmp_path)
    text = (ROOT / "docs" / "how-to" / "sweep.md").read_text(encoding="utf-8")
    found = [example for example in blocks.examples(text) if example.kind == "console"]
    assert len(found) == 4
    for example in found:
        now = blocks.console(example)
        assert "taicang: " not in now
        assert "select" not in example.body or "--json" in example.body or blocks.alike(example.body, now)


@pytest.mark.slow
def test_figures_of_the_peer_are_what_its_predictions_give():
    table = blocks.EVIDENCE / "served_e2e_peer_predictions.csv"
    if not table.is_file():
        pytest.skip("the folder of measured rows (shared/evidence beside the repository) is absent")
    with table.open(newline="", encoding="utf-8") as handle:
        peer = {row["id"]: row for row in csv.DictReader(handle)}
    rows = [row for row in suite_served.rows(blocks.EVIDENCE) if not row.disaggregated]
    for part in ("held-out", "calibrated-on"):
        mine = [row for row in rows if held_out("served", *row.key) == (part == "held-out")]
        for metric in ("tpot", "ttft"):
            said = {row.id: peer.get(row.id, {}).get(f"aic0120_{metric}_ms") for row in mine}
            errors = [
                abs(float(said[row.id]) * 1e-3 / getattr(row, f"{metric}_s") - 1.0) for row in mine if said[row.id]
            ]
            told = f"{sum(errors) / len(errors):.1%} at {len(errors) / len(mine):.0%} coverage".replace("%", " %")
            assert reference_pages.PEERS[(f"served_{metric}_agg", part)] == told


def test_alike_forgives_rounding_and_nothing_else():
    assert blocks.alike("TPOT 48 ms ████", "TPOT  48.3 ms ███")
    assert not blocks.alike("TPOT 48 ms", "TPOT 52 ms")
    assert not blocks.alike("TPOT 48 ms", "TTFT 48 ms")
    assert blocks.alike("catalogue 6fc6b12804de", "catalogue d5d8d08b70e1")


def test_keep_shows_where_lines_are_left_out():
    assert blocks.kept("a\nb\nc\nd", "keep 1 3-") == "a\n...\nc\nd"
    assert blocks.kept("a\nb\nc", "keep 2") == "...\nb\n..."
    assert blocks.kept("a\nb\n\nstop here", "before stop") == "a\nb\n..."
