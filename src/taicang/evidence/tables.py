"""Tables of measured rows: the CSV files of an evidence folder and those that the package carries."""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from taicang.errors import InvalidInput

Cells: TypeAlias = dict[str, str]
"""One line of a table by column."""
Array: TypeAlias = NDArray[np.float64]

T = TypeVar("T")

CARRIED = Path(__file__).parent / "data"
BOARD = CARRIED / "board"
"""The evidence that the package carries."""
_READ = {"int": int, "float": float, "Count": float, "str": str}
_FORMATS = {"bfloat16": "bf16"}


def lines(path: Path) -> list[Cells]:
    """All lines of a CSV file, none of an absent one; ``line`` is the number that an editor shows."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as handle:
        return [{**cells, "line": str(number)} for number, cells in enumerate(csv.DictReader(handle), start=2)]


def grouped(listed: Iterable[Cells], *names: str) -> list[list[Cells]]:
    """Lines parted by the columns ``names``, groups and lines in the order of the table."""
    groups: dict[tuple[str, ...], list[Cells]] = {}
    for line in listed:
        groups.setdefault(tuple(line[name] for name in names), []).append(line)
    return list(groups.values())


def column(listed: Iterable[Cells], name: str, *, blank: float | None = None) -> Array:
    """A numeric column. Empty cells and a missing column are ``blank``; without one KeyError or ValueError."""
    if blank is None:
        return np.array([float(line[name]) for line in listed])
    return np.array([float(line.get(name) or blank) for line in listed])


def record(kind: type[T], cells: Mapping[str, Any], **given: Any) -> T:
    """A line as the dataclass ``kind``: columns by the names and types of its fields, but those that are ``given``."""
    named = [f for f in fields(kind) if f.name not in given]  # type: ignore[arg-type]  # kind is a dataclass
    return kind(**given, **{f.name: _READ[str(f.type)](cells[f.name]) for f in named})


def parsed(cells: Cells) -> dict[str, Any]:
    """A line of published rows with its JSON read."""
    loaded = {key: json.loads(cells[key] or "{}") for key in ("par", "batch", "seq", "extra")}
    return cells | {key: said if isinstance(said, dict) else {} for key, said in loaded.items()}


def worded(said: Mapping[str, Any], words: Mapping[str, Sequence[str]], usual: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says in other words: each field is the first of its ``words`` that the row states, else as usual.

    Raises ``InvalidInput`` for a field that is neither.
    """
    found = {}
    for field, known in words.items():
        found[field] = next((said[word] for word in known if said.get(word) is not None), usual.get(field))
        if found[field] is None:
            raise InvalidInput(f"states no {' or '.join(known)}")
    return found


@cache
def named(name: str) -> Callable[..., Any]:
    """The function that a declaration names as "module.function" of this package."""
    module, _, function = name.partition(".")
    return getattr(importlib.import_module(f"taicang.evidence.{module}"), function)  # type: ignore[no-any-return]


def number_format(name: str) -> str:
    """The name in ``formats`` of a format as tables write it."""
    return _FORMATS.get(name, name)


def held_out(*key: object) -> bool:
    """Whether the rows with this key (a shape, a configuration: never the measured value) are kept from every fit.

    One key in four is held out. Keys leave out the machine, so that a held-out shape is unseen on all machines.
    """
    text = "|".join(str(part) for part in key)
    return hashlib.sha256(text.encode()).digest()[0] % 4 == 0
