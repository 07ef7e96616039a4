"""YAML in: a fast read, and on trouble a second one that knows file, line and key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from taicang.errors import InvalidInput

DATA = Path(__file__).parent / "data"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def shown(path: Path) -> str:
    """The path as errors show it: inside the package relative to its data folder, else as given."""
    return str(path.relative_to(DATA.parent)) if path.is_relative_to(DATA) else str(path)


@cache
def _read(path: Path, _stamp: int) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read the file ({error})", where=shown(path)) from None
    try:
        loaded = yaml.load(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "not a YAML document"
        raise InvalidInput(f"malformed YAML: {problem}", where=shown(path) + line) from None
    except ValueError as error:  # a date such as 2025-99-99, an integer too long to convert
        raise InvalidInput(f"malformed YAML value: {error}", where=shown(path)) from None
    if not isinstance(loaded, dict):
        raise InvalidInput("expected a mapping of keys to values", where=f"{shown(path)}:1")
    if not path.is_relative_to(DATA):  # the package's own files are checked by `taicang catalog check`
        for number, key in duplicates(path):
            raise InvalidInput("this key stands twice in one section", where=f"{shown(path)}:{number}: {key}")
    return loaded


def read(path: Path) -> dict[str, Any]:
    """The file as plain data, read again only when it changed; ``InvalidInput`` names file and line. Do not modify."""
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        raise InvalidInput("no such file", where=shown(path)) from None
    return _read(path, stamp)


def where(path: Path | None, keys: Sequence[str]) -> str:
    """ "file:line: key" of the value under ``keys``; parses the file again for its line numbers."""
    key = ".".join(keys)
    if path is None:
        return key
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=_LOADER)
    line = 1
    for wanted in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next((pair for pair in pairs if str(pair[0].value) == wanted), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return f"{shown(path)}:{line}: {key}"


def duplicates(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of every key that a mapping of the file holds twice (YAML would silently keep the last)."""
    stack = [yaml.compose(path.read_text(encoding="utf-8"), Loader=_LOADER)]
    visited: set[int] = set()  # an anchor may contain itself
    while stack:
        node = stack.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                if str(key.value) in seen:
                    yield key.start_mark.line + 1, str(key.value)
                seen.add(str(key.value))
                stack.append(value)
        elif isinstance(node, yaml.SequenceNode):
            stack.extend(node.value)
