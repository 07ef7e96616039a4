"""Which findings a virtual run's record confirms: the operators and kernels that ran, by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taicang import reading
from taicang.errors import InvalidInput

_NAME = re.compile(r"[A-Za-z_]\w*")
_KEYS = frozenset({"name", "operator", "op", "kernel"})


def operators_run(log: Path) -> frozenset[str]:
    """Names of operators and kernels that a record (JSON, or JSON lines) says ran, without what stands before them.

    Raises ``InvalidInput`` where the file is no JSON or names none.
    """
    text = reading.text(log, "--log", most=reading.DOCUMENT)
    try:
        whole = [reading.document(text, str(log))]
    except InvalidInput:
        if not text.lstrip().startswith("{") or "\n" not in text.strip():
            raise
        lines = enumerate(text.splitlines(), start=1)
        whole = [reading.document(line, f"{log}:{number}") for number, line in lines if line.strip()]
    names = frozenset(name for each in whole for name in _names(each))
    if not names:
        raise InvalidInput("names no operator or kernel that ran", where=str(log))
    return names


def _names(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for inner, each in value.items():
            yield from _names(each, inner)
    elif isinstance(value, list):
        for each in value:
            yield from _names(each, key)
    elif isinstance(value, str) and key in _KEYS:
        parts = _NAME.findall(value)
        yield from parts
