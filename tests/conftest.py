"""What tests share.

Property tests draw the same examples at every run, so that a red run is red again. ``EXPLORE=10000`` (make explore)
draws fresh ones, so many over all tests asked for that this many checks are made, counts them, and prints the seed of
a failure. ``MUTANT=10`` (make mutants) draws that many at most and stops at the first failure. ``BARE=1`` hides from
the tests, and from the processes that they start, what an installation with the extra ``dev`` alone would not have:
what needs another extra must skip there, as in CI's default run. ``--not-passed`` leaves out what passed in the last
run with ``--note-passed``: where extras have come since, what they add is left.
"""

import os
import re
import runpy
import signal
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis.internal.conjecture import providers
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from taicang.app.main import main
from taicang.live.clock import StillClock


def lacking():
    """Modules that come of no requirement of the package and its extra ``dev``, however deep."""
    kept, asked = {"pip", "setuptools"}, [("taicang", ""), ("taicang", "dev")]
    for name, extra in asked:  # grows
        try:
            needs = [Requirement(each) for each in metadata.requires(name) or ()]
        except metadata.PackageNotFoundError:  # of another platform
            continue
        kept.add(name)
        for each in needs:
            if each.marker is None or each.marker.evaluate({"extra": extra}):
                new = [(canonicalize_name(each.name), extra) for extra in ("", *each.extras)]
                asked += [pair for pair in new if pair not in asked]
    found = metadata.packages_distributions().items()
    return sorted(name for name, of in found if not kept & {canonicalize_name(each) for each in of})


if os.environ.get("BARE"):
    folder = Path(__file__).parent / "bare"
    os.environ["LACKING"] = " ".join(lacking())
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    runpy.run_path(str(folder / "sitecustomize.py"))

os.environ["XDG_CONFIG_HOME"] = "/nonexistent/configuration"  # no profile of whoever runs the tests
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would commands
CHECKS, FEW = int(os.environ.get("EXPLORE", "0")), int(os.environ.get("MUTANT", "0"))
SETTINGS = "_hypothesis_internal_use_settings"
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
COUNTED = "checks that passed"
PASSED = "taicang/passed"


def pytest_addoption(parser):
    """See above."""
    for name, does in (("--note-passed", "Remember what passes."), ("--not-passed", "Leave out what is remembered.")):
        parser.addoption(name, action="store_true", help=does)


def pytest_sessionfinish(session, exitstatus):
    """Note what passed; it is no failure that all of it had."""
    config = session.config
    if config.getoption("note_passed") and not hasattr(config, "workerinput"):
        ended = config.pluginmanager.get_plugin("terminalreporter").stats.get("passed", ())
        config.cache.set(PASSED, [each.nodeid for each in ended])
    if config.getoption("not_passed") and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """What is asked for, with as many examples of each property as the environment asks for."""
    if config.getoption("not_passed"):
        passed = set(config.cache.get(PASSED, ()))
        items[:] = [each for each in items if each.nodeid not in passed]
    if not CHECKS:  # draws that do not depend on constants of the modules that other tests have imported
        providers._get_local_constants = lambda: providers._local_constants
    if not (CHECKS or FEW):
        return
    found = [(item.obj, SETTINGS) for item in items if hasattr(item.obj, SETTINGS)]
    found += [(item.cls, "settings") for item in items if isinstance(getattr(item.cls, "settings", None), settings)]
    planned = sum(getattr(*each).max_examples for each in found)
    for holder, name in dict.fromkeys(found):
        mine = getattr(holder, name)
        if CHECKS:
            more = -(-mine.max_examples * max(CHECKS, planned) // planned)
            new = settings(mine, max_examples=more, derandomize=False, database=None, print_blob=True)
        else:
            new = settings(mine, max_examples=min(mine.max_examples, FEW), phases=(Phase.explicit, Phase.generate))
        setattr(holder, name, new)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """Count the examples that passed, in the report, which a worker sends to who sums up."""
    made = (yield).get_result()
    many = sum(map(int, re.findall(r"(\d+) passing", getattr(item, "hypothesis_statistics", ""))))
    if CHECKS and made.when == "teardown":
        made.user_properties.append((COUNTED, many))


def pytest_terminal_summary(terminalreporter):
    """Say how much was checked."""
    if CHECKS:
        ended = [each for reports in terminalreporter.stats.values() for each in reports if hasattr(each, "when")]
        many = sum(dict(each.user_properties).get(COUNTED, 0) for each in ended if each.when == "teardown")
        terminalreporter.line(f"{many} checks of properties passed")


@pytest.fixture(scope="session")
def still_clock():
    """The class of a clock for tests."""
    return StillClock


@pytest.fixture
def taicang(monkeypatch, capsys):
    """Runs the command as a shell would: exit code, standard output, standard error."""

    def run(*argv):
        monkeypatch.setattr("sys.argv", ["taicang", *map(str, argv)])
        with pytest.raises(SystemExit) as stop:
            main()
        out = capsys.readouterr()
        return stop.value.code or 0, out.out, out.err

    return run
