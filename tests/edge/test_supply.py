"""The package as users get it: a wheel in a clean folder, and the oldest dependencies that it says it takes."""

import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

import taicang

ROOT = Path(__file__).parents[2]
COMMANDS = (
    ("infer", "llama-3.1-8b", "--on", "hgx-h100"),
    ("train", "llama-3-8b", "--on", "hgx-h100", "--global-batch", "64"),
    ("replay", "--rate", "2/s", "--requests", "20", "llama-3.1-8b", "--on", "hgx-h100", "--out", "run"),
    ("catalog", "check"),
    ("score", "--suite", "gemm"),
)
OLDEST = {"numpy": "1.26.0", "rich": "13.0.0", "pyyaml": "6.0.1"}
"""First releases within the bounds that have wheels for Python 3.11."""


def run(*words, **more):
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    more = {"env": clean} | more
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from what git knows, so that nothing left over in the checkout gets into it."""
    clean, out = tmp_path_factory.mktemp("clean"), tmp_path_factory.mktemp("wheel")
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip("not a checkout of git")
    subprocess.run(["tar", "x", "-C", clean], input=archive.stdout, check=True)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", out, clean)
    return next(out.glob("*.whl"))


def installed(folder, wheel, *pins):
    """The command of a new environment with ``wheel`` in it, away from the repository."""
    venv.create(folder / "venv", with_pip=True)
    run(folder / "venv/bin/python", "-m", "pip", "install", "--quiet", wheel, *pins)
    return folder / "venv/bin/taicang"


def test_every_carried_table_is_of_a_kind_that_the_notice_names():
    package, said = Path(taicang.__file__).parent, (ROOT / "NOTICE").read_text().replace("\n", " ")
    named = ("kernels", "served_e2e.csv", "published_", "profiles.json", "porting", "families.yaml", "models/", "claims/",
             "centre/", "calibration/", "src/taicang/catalog/data/", "evidence/data/*.csv", "echarts")  # fmt: skip
    assert all(each in said for each in named)
    for path in (package / "catalog" / "data").rglob("[!.]*.*"):
        assert path.suffix in (".yaml", ".json"), path  # facts with sources, or statistics
    for path in (package / "evidence" / "data").rglob("*.csv"):
        with path.open(encoding="utf-8") as rows:
            head = next(line for line in rows if not line.startswith("#"))
        origin = {"source", "src", "commit", "kept", "place", "row"} & set(head.strip().split(","))
        assert origin or path.parent.name == "kernels", (path.name, head)


@pytest.mark.slow
def test_a_wheel_works_without_the_repository(wheel, tmp_path):
    command = installed(tmp_path, wheel, "-c", ROOT / "constraints.txt")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    assert taicang.__version__ in run(command, "--version", cwd=tmp_path, env=environment)
    for words in COMMANDS:
        assert run(command, *words, cwd=tmp_path, env=environment)
    assert (tmp_path / "run" / "summary.json").exists()
    names = run("unzip", "-Z1", wheel).split()
    assert {Path(name).name for name in names} >= {"LICENSE", "NOTICE", "py.typed"}
    assert not [name for name in names if "tests" in Path(name).parts]


@pytest.mark.slow
def test_the_lowest_versions_that_are_allowed_work(wheel, tmp_path):
    bounds = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    pins = [f"{name}=={OLDEST.get(name, low)}" for name, low in (re.split(">=", bound) for bound in bounds)]
    assert len(pins) == 4
    command = installed(tmp_path, wheel, *pins)
    for words in COMMANDS[:3]:
        assert run(command, *words, cwd=tmp_path)
