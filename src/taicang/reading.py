"""Files of users in: plain files of a bounded size, UTF-8, and JSON that says each thing once.

Every reader of the package comes through here or stays within the limits that stand here.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast
from zipfile import BadZipFile

from taicang.errors import InvalidInput

LINE = 2**26
"""Bytes of the longest line: the prompt of one request, or its hash ids."""
DOCUMENT = 2**30
"""Bytes of a file that is read as a whole."""
SETTINGS = 2**20
"""Bytes of a file that a person writes: YAML, a model's config.json."""
PIECE = 2**20
"""Bytes that are read at once."""
DEPTH = 32
"""Levels of nesting."""
NODES = 50_000
"""Keys and values of one file, aliases written out."""
VALUES = 50_000_000
"""Values of a JSON file: some 4 GB of memory where each is an empty list."""
DIGITS = 40
"""Characters of the longest number."""
STUMBLES = (ArithmeticError, AttributeError, BadZipFile, EOFError, LookupError, MemoryError, NotImplementedError,
            TypeError, ValueError, csv.Error, zlib.error)  # fmt: skip
"""What comes of reading a file as what it is not."""
FAULTS = (ValueError, RecursionError)
"""What is no JSON: malformed or in two voices (a ``ValueError``), with a number of thousands of digits, or too deep."""


def data(path: Path, where: str = "", *, most: int = DOCUMENT, packed: bool = False) -> bytes:
    """The bytes of a plain file (or ``packed``: of what gzip made of one) of at most ``most``; ``InvalidInput`` at
    ``where`` (default: the path)."""
    where = where or str(path)
    try:
        held = io.BytesIO()
        with opened(path, packed=packed) as file:  # by pieces: a file takes room for ``most`` bytes at once
            while held.tell() <= most and (piece := file.read(min(PIECE, most + 1 - held.tell()))):
                held.write(piece)
        found = held.getvalue()
    except (OSError, ValueError, EOFError, zlib.error) as error:  # a ValueError: a path with a zero in it
        raise InvalidInput(f"cannot read the file ({error})", where=where) from None
    if len(found) > most:
        raise InvalidInput(f"the file is longer than {most:,} bytes", where=where)
    return found


def check(path: Path) -> None:
    """Raise ``OSError`` unless ``path`` is a plain file: what is none may have no end."""
    if not os.path.isfile(path):
        raise OSError("not a plain file" if os.path.exists(path) else "no such file")


def opened(path: Path, *, packed: bool = False) -> IO[bytes]:
    """A plain file to read from, never waited for; ``packed``: gzip, which its first bytes tell, is unpacked."""
    check(path)
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = os.fdopen(handle, "rb")
    if not packed or file.peek(2)[:2] != b"\x1f\x8b":
        return file
    unpacked = gzip.GzipFile(fileobj=file)
    unpacked.myfileobj = cast(Any, file)  # which it closes with itself
    return cast("IO[bytes]", unpacked)


def text(path: Path, where: str = "", *, most: int = SETTINGS) -> str:
    """The text of a plain file, as ``data``: UTF-8, or UTF-16 that says so, as some shells redirect output."""
    found = data(path, where, most=most)
    try:
        return found.decode("utf-16" if found[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"cannot read the file ({error})", where=where or str(path)) from None


@contextmanager
def expected(what: str, where: str) -> Iterator[None]:
    """Tell that a file is not ``what`` where its contents make the code within stumble: for files that nobody writes by
    hand, whose shape is not checked key by key."""
    try:
        yield
    except STUMBLES as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0][:100]
        raise InvalidInput(f"not {what}, or damaged ({said})", where=where) from None


def document(given: str | bytes, where: str) -> Any:
    """JSON as plain data. ``InvalidInput`` (with line) for what is malformed, too deep or in two voices."""
    try:
        written = given if isinstance(given, str) else given.decode(json.detect_encoding(given))
    except UnicodeDecodeError as error:
        raise InvalidInput(f"not JSON: {error}", where=where) from None
    if sum(map(written.count, ",[{")) > VALUES:
        raise InvalidInput(f"more than {VALUES:,} values", where=where)
    try:
        found = json.loads(written, object_pairs_hook=one_voice)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"not JSON: {error.msg}", where=f"{where}:{error.lineno}") from None
    except RecursionError:
        raise InvalidInput("not JSON: nested too deep", where=where) from None
    except ValueError as error:
        raise InvalidInput(f"not JSON: {str(error).partition(';')[0]}", where=where) from None
    return found


def line(written: str | bytes) -> Any:
    """A line of JSON as plain data; None for one that is none, as where it was cut when the power went."""
    try:
        return json.loads(written)
    except FAULTS:
        return None


def row(written: str) -> Any:
    """A line of a table in JSON as plain data; one of ``FAULTS`` where it is malformed or in two voices."""
    if written.count("{") == 1:  # nothing is nested: then most lines need no look at each key
        found = PLAIN(written)
        if isinstance(found, dict) and written.count(":") == len(found):  # as many keys as colons: none stands twice
            return found
    return CAREFUL(written)


def one_voice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's keys and values, as JSON readers hand them over; ``ValueError`` where a key has two values."""
    made = dict(pairs)
    if len(made) < len(pairs):
        for key, value in pairs:
            if made[key] != value:
                raise ValueError(f"the key {key!r} stands twice, with two values")
    return made


PLAIN = json.JSONDecoder().decode
CAREFUL = json.JSONDecoder(object_pairs_hook=one_voice).decode
