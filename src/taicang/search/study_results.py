"""Results of a study as Parquet: parts while it runs, one table at its end; queried with DuckDB."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from taicang.errors import InvalidInput, NotModelled
from taicang.output import Content, write_file

PART = 1000
"""Rows of a part."""
PARTS = "parts"
TABLE = "results.parquet"
LINES = "results.jsonl"
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
    if int in kinds and any(isinstance(v, int) and not -(2**63) <= v < 2**63 for v in values):  # beyond Arrow
        return [None if value is None else str(value) for value in values]
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values] if len(kinds) > 1 else values


def parquet(rows: Sequence[Row]) -> Content:
    """``rows`` as what writes a Parquet file. Raises ``NotModelled``."""
    made = table(rows)
    writer: Any = import_module("pyarrow.parquet")
    return lambda file: writer.write_table(made, file)


def stream(folder: Path, rows: Sequence[Row]) -> None:
    """Write the whole parts of ``rows`` (in order of finishing) that are not there yet."""
    place = folder / PARTS
    for number in range(len(rows) // PART):
        path = place / f"{number:05d}.parquet"
        if not path.exists():
            write_file(path, parquet(rows[number * PART : (number + 1) * PART]), "--out")


def drop(folder: Path, *, parts_only: bool = False) -> None:
    """Remove the results in ``folder``, or only the parts that the whole table has made needless."""
    for path in [*(folder / PARTS).glob("*.parquet"), *(() if parts_only else (folder / TABLE, folder / LINES))]:
        path.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or another run writes into it
        (folder / PARTS).rmdir()


LOCKED: Mapping[str, str] = {
    "temp_directory": "''",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "enable_external_access": "false",
    "lock_configuration": "true",
}
"""What a query may not do, set once the results are read: files, other databases, extensions, undoing this."""


def query(folder: Path, sql: str, rows: Iterable[Row]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Columns and rows of ``sql`` over the table ``results``; ``rows`` are those of an unfinished study's journal.

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
        base.execute("CREATE TABLE results AS " + " UNION ALL BY NAME ".join(sources))
        for setting, value in LOCKED.items():
            base.execute(f"SET {setting} = {value}")
        found = base.execute(sql)
        if found is None:
            raise InvalidInput("asks nothing", where="query")
        return [column[0] for column in found.description or ()], found.fetchall()
    except duckdb.Error as error:
        raise InvalidInput(" ".join(str(error).split()), where="query") from None


def _parquet(path: Path) -> str:
    name = str(path).replace("'", "''")
    return f"SELECT * FROM read_parquet('{name}', union_by_name = true)"
