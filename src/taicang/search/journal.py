"""Results of a study on disk beside what they come from, so that it can be killed at any moment and started again.

Each finished point is one line, appended by one write: what was written survives the process. A torn last line (of a
machine that lost power) is dropped. Nothing that has a line is done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from taicang import __version__, catalog, reading
from taicang.errors import InvalidInput
from taicang.output import Content, check_place, write
from taicang.records import jsonable
from taicang.search import study_results

SUFFIXES = (".yaml", ".yml", ".json")
LONGEST = 255
"""Characters of a text that may name a file."""
LARGEST = 2**34
"""Bytes of a journal: two million points."""


def inputs_of(values: Any) -> dict[str, str]:
    """Digests by name of the catalogue, the version, and every file that ``values`` name, also through each other."""
    found: dict[str, str] = {"catalogue": catalog.digest()[:16], "version": __version__}
    waiting = list(_named(values, Path()))
    while waiting:
        path = waiting.pop()
        if str(path) in found:
            continue
        content = reading.data(path)
        found[str(path)] = hashlib.sha256(content).hexdigest()[:16]
        try:
            waiting += _named(yaml.safe_load(content), path.parent)
        except (yaml.YAMLError, ValueError, RecursionError):  # what reads it says what is wrong with it
            continue
    return found


def stamps(inputs: Mapping[str, str]) -> list[tuple[int, int]]:
    """Size and time of each file among ``inputs``: cheap to compare with those of before."""
    return [(s.st_size, s.st_mtime_ns) for s in (path.stat() for path in map(Path, inputs) if os.path.isfile(path))]


def _named(value: Any, beside: Path) -> Iterator[Path]:
    """Files that the texts in ``value`` name, relative to the folder ``beside``."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _named(each, beside)
    elif isinstance(value, str) and 0 < len(value) < LONGEST:
        path = beside / Path(re.sub(r"\s*[x×*]\s*\d+\s*$", "", value.strip())).expanduser()
        path = path / "config.json" if os.path.isdir(path) else path
        if (path.suffix.lower() in SUFFIXES or value.startswith((".", "/", "~"))) and os.path.isfile(path):
            yield path


class Journal:
    """Append-only lines of one study in ``folder``."""

    def __init__(self, folder: Path, inputs: Mapping[str, str], *, fresh: bool = False) -> None:
        """Open or create the journal; ``fresh`` drops the results that are there.

        Raises ``InvalidInput`` if its rows come from other ``inputs`` (``inputs_of``) or it cannot be written.
        """
        self.path = folder / "journal.jsonl"
        self.done: dict[int, dict[str, Any]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if fresh and self.path.exists():
                rows_of(folder)  # no journal of a study is not ours to drop
                study_results.drop(folder)
                self.path.unlink()
            self._load(inputs)
            check_place(self.path, "--out")
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise InvalidInput(f"cannot write results here: {error.strerror}", where=str(folder)) from None
        self._stamps = stamps(inputs)
        self._inputs = inputs
        if not self.path.stat().st_size:
            self._write({"study": inputs["study"], "inputs": dict(inputs)})

    def _load(self, inputs: Mapping[str, str]) -> None:
        if not self.path.exists():
            return
        data = reading.data(self.path, most=LARGEST)
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        head, *rows = _rows(whole, self.path) or [{"inputs": inputs}]
        before = head.get("inputs", {"study": head.get("study")})
        changed = sorted(name for name in before.keys() | inputs.keys() if before.get(name) != inputs.get(name))
        if changed:
            what = "another study" if "study" in changed else f"other inputs (changed: {', '.join(changed)})"
            said = f"holds results of {what}; name another --out, or start anew with --fresh"
            raise InvalidInput(said, where=str(self.path.parent))
        self.done = {row["point"]: row for row in rows}

    def _write(self, row: dict[str, Any]) -> None:
        line = json.dumps(jsonable(row), ensure_ascii=False).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            said = f"{error.strerror}; what is finished is kept, and the same command goes on from there"
            raise InvalidInput(said, where=str(self.path)) from None

    def add(self, row: dict[str, Any]) -> None:
        """Append the row of point ``row["point"]``, unless it may come from a file that has changed meanwhile."""
        if stamps(self._inputs) != self._stamps:
            said = "a file that the study names changed while it ran; start anew with --fresh"
            raise InvalidInput(said, where=", ".join(name for name in self._inputs if Path(name).suffix in SUFFIXES))
        row = jsonable(row)
        self.done[row["point"]] = row
        self._write(row)

    def stream(self) -> None:
        """Write the rows that make whole parts as Parquet, where pyarrow is installed."""
        os.fsync(self._file)
        if study_results.available():
            study_results.stream(self.path.parent, list(self.done.values()))

    def finish(self, total: int) -> list[Path]:
        """Write all rows in order as results.jsonl, and as results.parquet where pyarrow is installed."""
        os.fsync(self._file)
        os.close(self._file)
        rows = [self.done[i] for i in range(total)]
        files: dict[str, Content] = {study_results.LINES: (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)}
        if study_results.available():
            files[study_results.TABLE] = study_results.parquet(rows)
        made = write(files, self.path.parent, "--out")
        study_results.drop(self.path.parent, parts_only=True)
        return made


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Rows of a journal in order of finishing, without touching it. Raises ``InvalidInput`` where there is none."""
    path = folder / "journal.jsonl"
    if not path.exists():
        raise InvalidInput("holds no study; run it first", where=str(folder))
    data = reading.data(path, most=LARGEST)
    return _rows(data[: data.rfind(b"\n") + 1], path)[1:]


def _rows(data: bytes, path: Path) -> list[dict[str, Any]]:
    """Lines of a journal. Raises ``InvalidInput`` for one that no study wrote."""
    rows = []
    for number, line in enumerate(data.splitlines(), 1):
        row = reading.line(line)
        if not isinstance(row, dict) or ("point" if number > 1 else "study") not in row:
            raise InvalidInput("is not a line of a study's journal; name another folder", where=f"{path}:{number}")
        rows.append(row)
    return rows
