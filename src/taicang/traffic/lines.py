"""Lines of a trace file, plain or gzip, one after the other: files of a week have tens of millions."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from taicang import reading
from taicang.errors import InvalidInput


class _TooLong(InvalidInput):
    def __init__(self, raw: bytes, longest: int, *, where: str) -> None:
        super().__init__(f"a line of more than {longest:,} bytes", where=where)
        self.begins = raw[:80].decode("utf-8-sig", errors="replace").strip()


class Lines:
    """Iterates over (number, text). ``lost`` counts lines torn by a damaged gzip, where ``repair`` allows it."""

    def __init__(self, path: Path, *, repair: bool = False) -> None:
        self.path = path
        with self._readable():
            reading.check(path)
        self.repair = repair
        self.lost = 0

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return self._lines(reading.LINE)

    def _lines(self, longest: int) -> Iterator[tuple[int, str]]:
        with self._open() as file:
            number = 0
            while True:
                try:
                    raw = file.readline(longest + 1)
                except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                    if not self.repair or not number:
                        what = f"damaged gzip ({error})" + (" (--repair keeps what comes before)" if number else "")
                        raise InvalidInput(what, where=f"{self.path}:{number + 1}") from None
                    self.lost += 1
                    return
                except OSError as error:
                    raise InvalidInput(f"cannot read the file ({error})", where=str(self.path)) from None
                if not raw:
                    return
                number += 1
                if len(raw) > longest:
                    raise _TooLong(raw, longest, where=f"{self.path}:{number}")
                try:
                    text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise InvalidInput("not UTF-8 text", where=f"{self.path}:{number}") from None
                yield number, text.rstrip("\r\n")

    def whole(self) -> str:
        """All of it, for formats that are one JSON document, in however long lines."""
        read, made = 0, []
        for _, text in self._lines(reading.DOCUMENT):
            read += len(text)
            if read > reading.DOCUMENT:
                raise InvalidInput(f"more than {reading.DOCUMENT:,} characters in one document", where=str(self.path))
            made.append(text)
        return "\n".join(made)

    def start(self) -> str:
        """The first line, or the beginning of a very long one."""
        try:
            return next((text for _, text in self), "").strip()
        except _TooLong as error:
            return error.begins

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InvalidInput(f"cannot read the file ({error})", where=str(self.path)) from None

    def _open(self) -> IO[bytes]:
        with self._readable():
            return reading.opened(self.path, packed=True)
