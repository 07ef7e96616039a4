"""Files of users in: plain files of a bounded size, UTF-8, and JSON that says each thing once.

Every reader of the package comes through here or stays within the limits that stand here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from taicang.errors import InvalidInput

LINE = 2**26
"""Bytes of the longest line: the prompt of one request, or its hash ids."""
DOCUMENT = 2**30
"""Bytes of a file that is read as a whole."""
SETTINGS = 2**20
"""Bytes of a file that a person writes: YAML, a model's config.json."""
DEPTH = 32
"""Levels of nesting."""
NODES = 50_000
"""Keys and values of one file, aliases written out."""
DIGITS = 40
"""Characters of the longest number."""


def text(path: Path, where: str = "", *, most: int = SETTINGS) -> str:
    """The text of a plain file of at most ``most`` bytes; ``InvalidInput`` at ``where`` (default: the path)."""
    where = where or str(path)
    try:
        if not path.is_file():
            raise OSError("no such file" if not path.exists() else "not a plain file")
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise InvalidInput(f"the file is longer than {most:,} bytes", where=where)
        return data.decode("utf-8-sig")
    except (OSError, ValueError) as error:  # a ValueError: not UTF-8, or a path with a zero in it
        raise InvalidInput(f"cannot read the file ({error})", where=where) from None


def document(written: str, where: str) -> Any:
    """JSON as plain data. ``InvalidInput`` (with line) for what is malformed, too deep or in two voices."""
    try:
        found = json.loads(written, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"not JSON: {error.msg}", where=f"{where}:{error.lineno}") from None
    except RecursionError:
        raise InvalidInput("not JSON: nested too deep", where=where) from None
    except ValueError as error:
        raise InvalidInput(f"not JSON: {str(error).partition(';')[0]}", where=where) from None
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        for key, value in pairs:
            if made[key] != value:
                raise ValueError(f"the key {key!r} stands twice, with two values")
    return made
