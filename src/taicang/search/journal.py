"""Results of a study on disk, so that it can be killed at any moment and started again.

Each finished point is one line, appended by one write: what was written survives the process. A torn last line (of a
machine that lost power) is dropped. Nothing that has a line is done again.
"""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from taicang.errors import InvalidInput, NotModelled


class Journal:
    """Append-only lines of one study in ``folder``."""

    def __init__(self, folder: Path, digest: str) -> None:
        """Open or create the journal. Raises ``InvalidInput`` if it belongs to another study."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "journal.jsonl"
        self.done: dict[int, dict[str, Any]] = {}
        self._load(digest)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if not self.path.stat().st_size:
            self._write({"study": digest})

    def _load(self, digest: str) -> None:
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        lines = whole.splitlines()
        if lines and json.loads(lines[0]).get("study") != digest:
            raise InvalidInput("holds results of another study; name another --out", where=str(self.path.parent))
        for line in lines[1:]:
            row = json.loads(line)
            self.done[row["point"]] = row

    def _write(self, row: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")

    def add(self, row: dict[str, Any]) -> None:
        """Append the row of point ``row["point"]``."""
        self.done[row["point"]] = row
        self._write(row)

    def finish(self, total: int) -> list[Path]:
        """Write all rows in order as results.jsonl, and as results.parquet where pyarrow is installed."""
        os.close(self._file)
        rows = [self.done[i] for i in range(total)]
        final = self.path.with_name("results.jsonl")
        spare = final.with_suffix(".part")
        spare.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        spare.replace(final)
        try:
            return [final, _parquet(rows, final.with_suffix(".parquet"))]
        except NotModelled:
            return [final]


def _parquet(rows: list[dict[str, Any]], path: Path) -> Path:
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise NotModelled("Parquet needs pyarrow: pip install 'taicang[study]'") from None
    flat = [
        {key: json.dumps(value) if isinstance(value, (list, dict)) else value for key, value in row.items()}
        for row in rows
    ]
    keys = list(dict.fromkeys(key for row in flat for key in row))
    columns = {key: [row.get(key) for row in flat] for key in keys}
    mixed = {
        key: [value if value is None else str(value) for value in values]
        if len({type(value) for value in values if value is not None}) > 1
        else values
        for key, values in columns.items()
    }
    spare = path.with_suffix(".part")
    parquet.write_table(arrow.table(mixed), spare)
    spare.replace(path)
    return path
