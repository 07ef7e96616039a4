"""Files of other simulators as bytes, plain or gzip."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import IO, cast

from taicang.errors import InvalidInput


def opened(path: Path) -> IO[bytes]:
    """``path`` to read from; gzip is told by its name."""
    return cast("IO[bytes]", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def whole(path: Path, most: int) -> bytes:
    """All bytes of ``path``. Raises ``InvalidInput`` for what cannot be read, or has more than ``most``."""
    try:
        with opened(path) as file:
            data = file.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"cannot be read ({error})", where=str(path)) from None
    if len(data) > most:
        raise InvalidInput(f"more than {most >> 20} MiB", where=str(path))
    return data
