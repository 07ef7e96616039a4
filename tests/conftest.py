"""What tests share.

Property tests draw the same examples at every run, so that a red run is red again; ``EXPLORE=1`` (make explore) draws
fresh ones, and a failure there prints the seed that repeats it.
"""

import os

import pytest
from hypothesis import settings

from taicang.app.main import main
from taicang.live.clock import StillClock

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True, max_examples=500)
settings.load_profile("explore" if os.environ.get("EXPLORE") else "repeatable")


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
