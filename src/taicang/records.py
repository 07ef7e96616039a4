"""Dataclasses to plain data: dicts for JSON, columns for frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from math import isfinite
from pathlib import PurePath
from typing import Any

PLAIN = (float, int, str, bool, type(None))


def plain(value: Any) -> Any:
    """``value`` as dicts, lists, strings and numbers for ``json.dumps``; dataclasses become dicts of their fields.

    A field whose metadata say ``plain=False`` is left out.
    """
    if type(value) in PLAIN:
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.metadata.get("plain", True)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):  # whose order is another in every process
        return sorted((plain(v) for v in value), key=str)
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        return value.tolist()
    return str(value) if isinstance(value, PurePath) else value


def jsonable(value: Any) -> Any:
    """``plain``, and what is not finite as a word ("inf", "nan"): JSON has no number for it."""
    value = plain(value)
    if isinstance(value, dict):
        return {key: jsonable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [jsonable(each) for each in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def columns(rows: Iterable[Any]) -> dict[str, list[Any]]:
    """Rows of one dataclass as a dict of columns, which every data-frame library takes."""
    table: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in plain(row).items():
            table.setdefault(name, []).append(value)
    return table
