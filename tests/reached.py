"""Which fast test runs which line, kept in .mutants/ by test file, and tests run in processes of their own.

A process that has pytest, numpy and Hypothesis in memory forks: what a child imports of the package, it imports
itself. A test file is run again when it, its folder's helpers or the figures change; where the source has changed
since, lines are found again by their text.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import coverage
import hypothesis.extra.numpy  # noqa: F401
import pytest

ROOT = Path(__file__).resolve().parent.parent
TESTS, PACKAGE, KEPT = ROOT / "tests", ROOT / "src" / "taicang", ROOT / ".mutants"
QUIET = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "--timeout=0", "-m", "not slow"]
MEMORY_BYTES = 8 * 2**30
"""Of a process: one that a mutant lets grow is noticed."""


class Watch:
    """What tests took, and which failed; each the context of the lines that it runs."""

    def __init__(self, cover: coverage.Coverage | None = None, wanted: list[str] | None = None) -> None:
        self.wanted = None if wanted is None else {test: at for at, test in enumerate(wanted)}
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []
        self.begun_s = 0.0
        self.cover = cover

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Only those asked for, in their order; one that is no more is left out."""
        if self.wanted is not None:
            items[:] = sorted(
                (each for each in items if each.nodeid in self.wanted), key=lambda each: self.wanted[each.nodeid]
            )

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Lines are this test's from here on, its fixtures' too."""
        self.begun_s = worked_s()
        if self.cover:
            self.cover.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Of each phase of a test."""
        self.seconds[report.nodeid] = worked_s() - self.begun_s
        if report.failed:
            self.failed.append(report.nodeid)


def worked_s() -> float:
    """Of a processor, by this process and those that it has waited for: others may share the machine."""
    return sum(os.times()[:4])


def digest(*paths: Path) -> str:
    """Of files' contents."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()[:16]


@cache
def state(test_file: str) -> str:
    """Of a test file and what it takes from its folder."""
    path = ROOT / test_file
    beside = [each for each in sorted(path.parent.iterdir()) if each.suffix in (".py", ".json", ".jsonl")]
    return digest(path, *(each for each in beside if not each.name.startswith("test_")))


def watched(test_file: str, files: list[str]) -> dict[str, Any]:
    """One test file run: seconds by test, which failed, and tests by line of the files asked for."""
    cover = coverage.Coverage(data_file=None, include=[str(ROOT / each) for each in files], config_file=False)
    watch = Watch(cover)
    cover.start()
    pytest.main([*QUIET, test_file], plugins=[watch])
    cover.stop()
    data, lines, number = cover.get_data(), {}, {test: at for at, test in enumerate(watch.seconds)}
    for path in data.measured_files():
        named = {line: [number[it] for it in tests if it] for line, tests in data.contexts_by_lineno(path).items()}
        lines[str(Path(path).relative_to(ROOT))] = {line: tests for line, tests in named.items() if tests}
    return {"seconds": watch.seconds, "failed": sorted(set(watch.failed)), "lines": lines}


def record(files: list[str], jobs: int, begins: tuple[str, ...]) -> dict[str, Any]:
    """What is known of each test file; those that changed are run, if their names begin so."""
    folder, source = KEPT / "tests", KEPT / "source"
    for each in (folder, source):
        each.mkdir(parents=True, exist_ok=True)
    versions = {each: digest(ROOT / each) for each in files}
    for each, version in versions.items():
        (source / version).write_bytes((ROOT / each).read_bytes())
    known: dict[str, Any] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        name = str(path.relative_to(ROOT))
        kept = folder / (name.replace("/", "+") + ".json")
        known[name] = json.loads(kept.read_text()) if kept.exists() else {}
    asked = [name for name, it in known.items() if it.get("state") != state(name) and name.startswith(begins)]
    asked.sort(key=lambda name: not name.startswith("tests/golden"))
    many = len(asked)
    for count, (name, made) in enumerate(forked(asked, lambda name: watched(name, files), jobs, 1200.0), 1):
        print(f"{count} of {many}: {name}: {len((made or {}).get('seconds', ()))} tests", flush=True)
        if made is not None:
            known[name] = made | {"state": state(name), "versions": versions}
            (folder / (name.replace("/", "+") + ".json")).write_text(json.dumps(known[name]))
    return {name: it for name, it in known.items() if it}


@cache
def moved(version: str, now: str) -> dict[int, int]:
    """Lines of today by those of a kept version of a source file."""
    if digest(ROOT / now) == version:
        return {}
    before, after = (KEPT / "source" / version).read_text().splitlines(), (ROOT / now).read_text().splitlines()
    same = difflib.SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks()
    return {-1: 0} | {block.a + i + 1: block.b + i + 1 for block in same for i in range(block.size)}


def reaching(known: dict[str, Any]) -> tuple[dict[str, dict[int, set[str]]], dict[str, float]]:
    """Tests by file and line, and their seconds; without those that fail as it is."""
    found: dict[str, dict[int, set[str]]] = {}
    seconds: dict[str, float] = {}
    for it in known.values():
        every = list(it["seconds"])
        seconds |= {test: each for test, each in it["seconds"].items() if test not in it["failed"]}
        for path, lines in it["lines"].items():
            if not (ROOT / path).exists():
                continue
            now = moved(it["versions"][path], path)
            for line, tests in lines.items():
                at = now.get(int(line), 0) if now else int(line)
                found.setdefault(path, {}).setdefault(at, set()).update(
                    every[test] for test in tests if every[test] in seconds
                )
    return found, seconds


def forked(
    tasks: list[Any], work: Callable[[Any], Any], jobs: int, cpu_s: float | Callable[[Any], float]
) -> Iterator[tuple[Any, Any]]:
    """What ``work`` makes of each task in a process of its own, as they end; None where one ended before its time.

    Tasks may be added while it runs: the last is done first.
    """
    running: dict[int, tuple[Any, float, Path]] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            while tasks or running:
                while tasks and len(running) < jobs:
                    task, out = tasks.pop(0), Path(tempfile.mkdtemp(dir=folder))
                    limit_s = cpu_s(task) if callable(cpu_s) else cpu_s
                    if not (pid := os.fork()):
                        _child(work, task, out, round(limit_s))
                    # others may share the machine, and a process that sleeps takes no processor
                    running[pid] = task, time.monotonic() + 20.0 * limit_s, out
                pid, _ = os.waitpid(-1, os.WNOHANG)
                late = [each for each, (_, until, _) in running.items() if time.monotonic() > until]
                for each in late:
                    os.killpg(each, signal.SIGKILL)
                if not pid:
                    time.sleep(0.02)
                if pid in running:
                    task, _, out = running.pop(pid)
                    _end(pid)
                    made = out / "made"
                    yield task, json.loads(made.read_text()) if made.exists() else None
        finally:
            for pid in running:
                _end(pid)


def _end(pid: int) -> None:
    """Whatever a process has started ends with it."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _child(work: Callable[[Any], Any], task: Any, out: Path, limit_s: int) -> None:
    """In a process of its own: do the task, leave what it made, end."""
    os.setpgid(0, 0)  # not a session of its own: it keeps the priority of who waits for it
    resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    said = os.open(out / "said", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.chdir(ROOT)
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(out)
    try:
        made = json.dumps(work(task))
        (out / "making").write_text(made)
        (out / "making").rename(out / "made")
    finally:
        os._exit(0)


def prepare() -> None:
    """Of the process that forks: the source first on every path, few examples of each property, one thread."""
    os.environ |= {"MUTANT": "10", "PYTHONPATH": str(PACKAGE.parent), "OPENBLAS_NUM_THREADS": "1"}
    sys.path.insert(0, str(PACKAGE.parent))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
