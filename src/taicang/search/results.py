"""Results of a study as Parquet: parts while it runs, one table at its end; queried with DuckDB."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from taicang.errors import InvalidInput, NotModelled

PART = 1000
"""Rows of a part."""
PARTS = "parts"
TABLE = "results.parquet"
Row = dict[str, Any]


def available() -> bool:
    """Whether Parquet can be written."""
    try:
        import_module("pyarrow.parquet")
    except ImportError:
        return False
    return True


def table(rows: Sequence[Row]) -> Any:
    """``rows`` as an Arrow table; nested values become JSON, columns of several types text. Raises ``NotModelled``."""
    try:
        arrow: Any = import_module("pyarrow")
    except ImportError:
        raise NotModelled("Parquet needs pyarrow: pip install 'taicang[study]'") from None
    flat = [
        {key: json.dumps(value) if isinstance(value, (list, dict)) else value for key, value in row.items()}
        for row in rows
    ]
    keys = list(dict.fromkeys(key for row in flat for key in row))
    columns = {key: [row.get(key) for row in flat] for key in keys}
    return arrow.table({key: _even(values) for key, values in columns.items()})


def _even(values: list[Any]) -> list[Any]:
    """One type: whole numbers beside fractions are fractions, anything else mixed is text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values] if len(kinds) > 1 else values


def write(rows: Sequence[Row], path: Path) -> Path:
    """Write ``rows`` to ``path`` in one move: a reader sees all of it or none. Raises ``NotModelled``."""
    made = table(rows)
    parquet: Any = import_module("pyarrow.parquet")
    spare = path.with_suffix(".part")
    parquet.write_table(made, spare)
    spare.replace(path)
    return path


def stream(folder: Path, rows: Sequence[Row]) -> None:
    """Write the whole parts of ``rows`` (in order of finishing) that are not there yet."""
    place = folder / PARTS
    for number in range(len(rows) // PART):
        path = place / f"{number:05d}.parquet"
        if not path.exists():
            place.mkdir(exist_ok=True)
            write(rows[number * PART : (number + 1) * PART], path)


def finish(folder: Path, rows: Sequence[Row]) -> Path:
    """Write all ``rows`` as one table and remove the parts."""
    path = write(rows, folder / TABLE)
    for part in (folder / PARTS).glob("*.parquet"):
        part.unlink()
    if (folder / PARTS).is_dir():
        (folder / PARTS).rmdir()
    return path


def query(folder: Path, sql: str, rows: Iterable[Row]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Columns and rows of ``sql`` over the view ``results``; ``rows`` are those of an unfinished study's journal.

    Parts are read as they are; of the journal only what comes after them. Raises ``InvalidInput`` for what DuckDB does
    not understand and ``NotModelled`` without it.
    """
    try:
        duckdb: Any = import_module("duckdb")
    except ImportError:
        raise NotModelled("queries need DuckDB: pip install 'taicang[study]'") from None
    base = duckdb.connect()
    sources = []
    if (folder / TABLE).exists():
        sources.append(_parquet(folder / TABLE))
    else:
        parts = sorted((folder / PARTS).glob("*.parquet"))
        if parts:
            sources.append(_parquet(folder / PARTS / "*.parquet"))
        tail = list(rows)[len(parts) * PART :]
        if tail:
            base.register("tail", table(tail))
            sources.append("SELECT * FROM tail")
    if not sources:
        raise InvalidInput("has no results yet", where=str(folder))
    try:
        base.execute("CREATE VIEW results AS " + " UNION ALL BY NAME ".join(sources))
        found = base.execute(sql)
        if found is None:
            raise InvalidInput("asks nothing", where="query")
        return [column[0] for column in found.description or ()], found.fetchall()
    except duckdb.Error as error:
        raise InvalidInput(" ".join(str(error).split()), where="query") from None


def _parquet(path: Path) -> str:
    name = str(path).replace("'", "''")
    return f"SELECT * FROM read_parquet('{name}', union_by_name = true)"
