"""What the rows of a study come from besides its text: the files that it names, the catalogue and the version."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from taicang import __version__, catalog

SUFFIXES = (".yaml", ".yml", ".json")
LONGEST = 255
"""Characters of a text that may name a file."""


def of(values: Any) -> dict[str, str]:
    """Digests by name of the catalogue, the version, and every file that ``values`` name, also through each other."""
    found: dict[str, str] = {"catalogue": catalog.digest()[:16], "version": __version__}
    waiting = list(_named(values, Path()))
    while waiting:
        path = waiting.pop()
        if str(path) in found:
            continue
        content = path.read_bytes()
        found[str(path)] = hashlib.sha256(content).hexdigest()[:16]
        try:
            waiting += _named(yaml.safe_load(content), path.parent)
        except (yaml.YAMLError, ValueError, RecursionError):  # what reads it says what is wrong with it
            continue
    return found


def stamps(inputs: Mapping[str, str]) -> list[tuple[int, int]]:
    """Size and time of each file among ``inputs``: cheap to compare with those of before."""
    return [(s.st_size, s.st_mtime_ns) for s in (path.stat() for path in map(Path, inputs) if os.path.isfile(path))]


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Names of inputs that differ."""
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


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
