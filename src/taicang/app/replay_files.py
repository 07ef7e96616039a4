"""What ``taicang replay --out`` writes: each file whole, or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import import_module
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taicang.errors import InvalidInput, NotModelled
from taicang.output import Content, check_folder, check_place
from taicang.output import write as write_set
from taicang.records import plain

if TYPE_CHECKING:
    from taicang.predict.replay import Replay

ROWS = 65_536
"""Rows that are turned into text at a time."""


def check(folder: str | None, form: str, *, perfetto: bool) -> None:
    """Refuse before the run what could not be written after it."""
    if folder is None:
        if perfetto:
            raise InvalidInput("needs --out, a folder for trace.json", where="--perfetto")
        return
    if form == "parquet":
        _arrow()
    check_folder(Path(folder), "--out")
    for name in _names(form, perfetto=perfetto):
        check_place(Path(folder, name), "--out")


def _names(form: str, *, perfetto: bool) -> tuple[str, ...]:
    return ("summary.json", f"requests.{form}", f"usage.{form}", *(("trace.json",) if perfetto else ()))


def write(result: Replay, folder: str, form: str = "csv", *, perfetto: bool = False) -> None:
    """summary.json; requests and usage in ``form``; trace.json for Perfetto."""
    whole = (name for name in result.__dataclass_fields__ if name not in ("table", "usage", "log"))
    run = {name: plain(getattr(result, name)) for name in whole}
    contents: list[Content] = [json.dumps(run, indent=2, ensure_ascii=False, allow_nan=False) + "\n"]
    for table in (result.table, result.usage):
        contents.append(_parquet(table, run) if form == "parquet" else _csv(table) if form == "csv" else _json(table))
    if perfetto:
        from taicang.app.perfetto import events

        contents.append(events(result))
    write_set(dict(zip(_names(form, perfetto=perfetto), contents, strict=True)), Path(folder), "--out")


def _parts(table: Mapping[str, Any]) -> Iterable[list[list[str]]]:
    """Columns as text, some rows at a time; what is not known is empty."""
    count = len(next(iter(table.values()), ()))
    for low in range(0, count, ROWS):
        columns = []
        for values in table.values():
            part = values[low : low + ROWS].tolist()
            real = values.dtype.kind == "f"
            columns.append([("" if isnan(v) else f"{v:.9f}") for v in part] if real else [str(v) for v in part])
        yield columns


def _csv(table: Mapping[str, Any]) -> Iterable[str]:
    yield ",".join(table) + "\n"
    for columns in _parts(table):
        yield "\n".join(map(",".join, zip(*columns, strict=True))) + "\n"


def _json(table: Mapping[str, Any]) -> Iterable[str]:
    """A list of objects, one to a line."""
    names = [json.dumps(name) for name in table]
    quoted = [values.dtype.kind not in "fiub" for values in table.values()]
    before = "[\n"
    for columns in _parts(table):
        for cells in zip(*columns, strict=True):
            pairs = zip(names, cells, quoted, strict=True)
            yield before + "{" + ", ".join(f"{n}: {json.dumps(v) if q else v or 'null'}" for n, v, q in pairs) + "}"
            before = ",\n"
    yield "\n]\n" if before != "[\n" else "[]\n"


def _arrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise NotModelled("--format parquet needs pyarrow: pip install 'taicang[parquet]'") from None


def _parquet(table: Mapping[str, Any], run: Mapping[str, Any]) -> Content:
    """With seed, catalogue digest and version among the file's own metadata."""
    arrow, parquet = _arrow()
    made = arrow.table({name: arrow.array(values, mask=_unknown(values)) for name, values in table.items()})
    about = {f"taicang.{name}": str(run[name]) for name in ("seed", "digest", "version")}
    made = made.replace_schema_metadata(about | {"taicang.partial": str(run["summary"]["partial"])})
    return lambda file: parquet.write_table(made, file, compression="zstd")


def _unknown(values: Any) -> Any:
    return np.isnan(values) if values.dtype.kind == "f" else None
