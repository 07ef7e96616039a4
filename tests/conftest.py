"""What tests share.

Property tests draw the same examples at every run, so that a red run is red again; ``EXPLORE=1`` (make explore) draws
fresh ones, and a failure there prints the seed that repeats it.
"""

import os

import pytest
from hypothesis import settings

from taicang.app.main import main

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True, max_examples=500)
settings.load_profile("explore" if os.environ.get("EXPLORE") else "repeatable")


class StillClock:
    """Stands still until it is told; what it is to call is called ``late_s`` after its time."""

    def __init__(self):
        self.shows = 1000.0
        self.late_s = 0.0
        self._due = None

    def time(self):
        return self.shows

    def at(self, when, act):
        self._due = None if when is None else (when, act)

    @property
    def due(self):
        return None if self._due is None else self._due[0]

    def until(self, when):
        """Let it become ``when``, calling what is due on the way."""
        while self._due is not None and self._due[0] + self.late_s <= when:
            (at, act), self._due = self._due, None
            self.shows = max(self.shows, at + self.late_s)
            act()
        self.shows = max(self.shows, when)


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
