"""Folders that a command writes into: checked before the work, written in one go after it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from taicang.errors import InvalidInput


def check_folder(folder: Path, where: str) -> None:
    """Raise ``InvalidInput`` unless files can be written into ``folder``, which need not exist; leaves nothing behind.

    It is tried, for permissions alone do not tell (/proc belongs to root, who cannot make a file there either).
    """
    made: list[Path] = []
    try:
        made = [each for each in (folder, *folder.parents) if not each.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InvalidInput(f"cannot write into {folder}: {error.strerror or error}", where=where) from None
    finally:
        for each in made:
            with suppress(OSError):
                each.rmdir()


def write_into(files: Mapping[str, str | bytes], folder: Path, where: str) -> list[Path]:
    """Write ``files`` by name into ``folder``, all of them or none, and return the paths. Raises ``InvalidInput``."""
    parts = {folder / name: folder / f".{name}.part" for name in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for (path, part), content in zip(parts.items(), files.values(), strict=True):
            if path.is_dir():
                raise InvalidInput(f"{path} is a folder", where=where)
            part.write_bytes(content.encode() if isinstance(content, str) else content)
        for path, part in parts.items():
            part.replace(path)
    except OSError as error:
        raise InvalidInput(f"cannot write into {folder}: {error.strerror or error}", where=where) from None
    finally:
        for part in parts.values():
            with suppress(OSError):
                part.unlink(missing_ok=True)
    return list(parts)
