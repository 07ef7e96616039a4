"""Lines of a trace file, plain or gzip, one after the other: files of a week have tens of millions."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from taicang.errors import InvalidInput


class Lines:
    """Iterates over (number, text). ``lost`` counts lines torn by a damaged gzip, where ``repair`` allows it."""

    def __init__(self, path: Path, *, repair: bool = False) -> None:
        if not path.is_file():
            raise InvalidInput("no such file", where=str(path))
        self.path = path
        self.repair = repair
        self.lost = 0

    def __iter__(self) -> Iterator[tuple[int, str]]:
        with self._open() as file:
            number = 0
            while True:
                try:
                    raw = file.readline()
                except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                    if not self.repair or not number:
                        what = f"damaged gzip ({error})" + (" (--repair keeps what comes before)" if number else "")
                        raise InvalidInput(what, where=f"{self.path}:{number + 1}") from None
                    self.lost += 1
                    return
                if not raw:
                    return
                number += 1
                try:
                    text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise InvalidInput("not UTF-8 text", where=f"{self.path}:{number}") from None
                yield number, text.rstrip("\r\n")

    def whole(self) -> str:
        """All of it, for formats that are one JSON document."""
        return "\n".join(text for _, text in self)

    def _open(self) -> IO[bytes]:
        with self.path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        return cast("IO[bytes]", gzip.open(self.path)) if packed else self.path.open("rb")
