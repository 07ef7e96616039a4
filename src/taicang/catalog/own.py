"""Entries of a user's own: YAML files in the folder of their configuration, found by name as the package's are."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from taicang.catalog import schema
from taicang.errors import InvalidInput

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def folder(kind: str) -> Path:
    """Where entries of ``kind`` lie: below ``$XDG_CONFIG_HOME/taicang``, or ``~/.config/taicang``."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(home) / "taicang" / schema.FOLDERS[kind]


def file_of(kind: str, name: str) -> Path:
    """The file of the entry ``name``, whether it is there or not; ``InvalidInput`` for what cannot be a name."""
    if not _NAME.fullmatch(name):
        what = "a name has small letters, digits, '.', '-' and '_', at most 63"
        raise InvalidInput(f"{what}; got {name!r}", where="--name")
    return folder(kind) / f"{name}.yaml"


def find(kind: str, name: str) -> Path | None:
    """The file of the entry ``name`` where there is one."""
    name = name.strip().lower()
    path = folder(kind) / f"{name}.yaml"
    with suppress(OSError):  # a folder that may not be read
        return path if _NAME.fullmatch(name) and path.is_file() else None
    return None


def names(kind: str) -> tuple[str, ...]:
    """Every entry of ``kind`` that the user has, sorted."""
    return tuple(sorted(path.stem for path in folder(kind).glob("*.yaml") if _NAME.fullmatch(path.stem)))
