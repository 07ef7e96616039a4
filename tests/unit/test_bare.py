"""``BARE=1`` shows a developer with every extra what a bare machine sees."""

import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from conftest import lacking

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def named(extra):
    return {Requirement(each).name for each in EXTRAS[extra]}


def test_extras_are_hidden_and_what_tests_need_is_not():
    hidden = set(lacking())
    assert not hidden & {"taicang", "numpy", "yaml", "click", "pytest", "hypothesis", "xdist", "scipy"}
    extras = set().union(*map(named, EXTRAS.keys() - {"dev", "docs"})) - named("dev")
    for module, of in metadata.packages_distributions().items():
        if extras & set(of):
            assert module in hidden, module


HIDES = """
import importlib.util, subprocess, sys
import conftest
assert importlib.util.find_spec("extras_colours") is None
try:
    import extras_colours
except ModuleNotFoundError:
    pass
import taicang, numpy
sys.exit(subprocess.run([sys.executable, "-c", "import taicang, numpy, extras_colours"]).returncode)
"""


def test_a_process_that_a_test_starts_lacks_them_too(tmp_path):
    (tmp_path / "extras_colours.py").touch()
    made = tmp_path / "colours-1.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: colours\nVersion: 1\n")
    (made / "top_level.txt").write_text("extras_colours\n")
    path = [str(ROOT / "tests"), str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"BARE": "1", "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run([sys.executable, "-c", HIDES], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'extras_colours'"
