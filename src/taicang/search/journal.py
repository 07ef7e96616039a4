"""Results of a study on disk, so that it can be killed at any moment and started again.

Each finished point is one line, appended by one write: what was written survives the process. A torn last line (of a
machine that lost power) is dropped. Nothing that has a line is done again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from taicang.errors import InvalidInput
from taicang.search import results


class Journal:
    """Append-only lines of one study in ``folder``."""

    def __init__(self, folder: Path, digest: str) -> None:
        """Open or create the journal. Raises ``InvalidInput`` if it belongs to another study or cannot be written."""
        self.path = folder / "journal.jsonl"
        self.done: dict[int, dict[str, Any]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._load(digest)
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise InvalidInput(f"cannot write results here: {error.strerror}", where=str(folder)) from None
        if not self.path.stat().st_size:
            self._write({"study": digest})

    def _load(self, digest: str) -> None:
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        head, *rows = _rows(whole, self.path) or [{"study": digest}]
        if head.get("study") != digest:
            raise InvalidInput("holds results of another study; name another --out", where=str(self.path.parent))
        self.done = {row["point"]: row for row in rows}

    def _write(self, row: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")

    def add(self, row: dict[str, Any]) -> None:
        """Append the row of point ``row["point"]``."""
        self.done[row["point"]] = row
        self._write(row)

    def stream(self) -> None:
        """Write the rows that make whole parts as Parquet, where pyarrow is installed."""
        if results.available():
            results.stream(self.path.parent, list(self.done.values()))

    def finish(self, total: int) -> list[Path]:
        """Write all rows in order as results.jsonl, and as results.parquet where pyarrow is installed."""
        os.close(self._file)
        rows = [self.done[i] for i in range(total)]
        final = self.path.with_name("results.jsonl")
        spare = final.with_suffix(".part")
        spare.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        spare.replace(final)
        return [final, results.finish(self.path.parent, rows)] if results.available() else [final]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Rows of a journal in order of finishing, without touching it. Raises ``InvalidInput`` where there is none."""
    path = folder / "journal.jsonl"
    if not path.exists():
        raise InvalidInput("holds no study; run it first", where=str(folder))
    data = path.read_bytes()
    return _rows(data[: data.rfind(b"\n") + 1], path)[1:]


def _rows(data: bytes, path: Path) -> list[dict[str, Any]]:
    """Lines of a journal. Raises ``InvalidInput`` for one that no study wrote."""
    rows = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or ("point" if number > 1 else "study") not in row:
            raise InvalidInput("is not a line of a study's journal; name another folder", where=f"{path}:{number}")
        rows.append(row)
    return rows
