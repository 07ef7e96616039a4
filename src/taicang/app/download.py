"""Files from the net by address and checksum: whole and right, or not there."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import click

from taicang.errors import InvalidInput, TaicangError
from taicang.output import check_file

CHUNK = 1 << 20
TRIES = 3


def download(entry: Mapping[str, Any], folder: Path) -> Path:
    """The file of a catalogue entry (``name``, ``url``, ``sha256``) in ``folder``.

    What is there already and right is not fetched again. Bytes gather in a file ending in .part, which a broken
    connection is resumed from, here and in the next call; it is removed when its sum is not the catalogue's.
    """
    url, wanted = entry.get("url") or "", entry.get("sha256")
    if not wanted or not url or " " in url:
        raise InvalidInput("no address and checksum are known", where=entry["name"])
    target = folder / url.rsplit("/", 1)[-1]
    if target.is_file() and _sum(target) == wanted:
        return target
    part = target.with_name(target.name + ".part")
    for place in (target, part):
        check_file(place, "--out")
    folder.mkdir(parents=True, exist_ok=True)
    for left in reversed(range(TRIES)):
        try:
            _get(url, part)
            break
        except HTTPError as error:
            _drop_empty(part)
            raise TaicangError(f"{url}: {error}") from None
        except (URLError, HTTPException, OSError, ValueError) as error:
            if not left:
                kept = f"; {part.stat().st_size:,} bytes kept, call again to go on" if _drop_empty(part) else ""
                raise TaicangError(f"{url}: {error}{kept}") from None
    found = _sum(part)
    if found != wanted:
        part.unlink()
        raise InvalidInput(f"sha256 {found} is not {wanted} of the catalogue; nothing kept", where=url)
    part.replace(target)
    return target


def _get(url: str, part: Path) -> None:
    """Append what is missing from ``part``; raises ``OSError`` where the connection ends early."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        answer = urlopen(Request(url, headers=headers), timeout=60)
    except HTTPError as error:
        if error.code == 416 and have:  # nothing is missing
            return
        raise
    with answer:
        resumed = answer.status == 206
        length = answer.headers.get("Content-Length")
        total = int(length) + (have if resumed else 0) if length else None
        with part.open("ab" if resumed else "wb") as file:
            _copy(answer, file, total, part.name.removesuffix(".part"))
            if total is not None and file.tell() < total:
                raise OSError(f"the connection ended after {file.tell():,} of {total:,} bytes")


def _copy(answer: Any, file: BinaryIO, total: int | None, name: str) -> None:
    shown = sys.stderr.isatty()
    while data := answer.read(CHUNK):
        file.write(data)
        if shown:
            of = f" of {total / 1e6:,.1f}" if total else ""
            click.echo(f"\r{name}: {file.tell() / 1e6:,.1f}{of} MB", nl=False, err=True)
    if shown:
        click.echo("\r" + " " * 60 + "\r", nl=False, err=True)


def _drop_empty(part: Path) -> bool:
    """Whether ``part`` holds anything; an empty one is removed."""
    if part.exists() and not part.stat().st_size:
        part.unlink()
    return part.exists()


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
