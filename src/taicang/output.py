"""Files that a command leaves: tried before the work, written beside their place, put there all together or not at all.

Every file of a user goes through ``write``: one set per call, which nobody sees until its bytes are on the disk.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO, TypeAlias

from taicang.errors import InvalidInput

Content: TypeAlias = str | bytes | Iterable[str] | Callable[[BinaryIO], object]
"""A text, bytes, pieces of a text one after the other, or what writes itself into an open file."""


def refused(place: Path, error: OSError, where: str) -> InvalidInput:
    """The one line that tells why nothing could be written at ``place``."""
    return InvalidInput(f"cannot write into {place}: {error.strerror or error}", where=where)


def check_folder(folder: Path, where: str) -> None:
    """Raise ``InvalidInput`` unless files can be written into ``folder``, which need not exist; leaves nothing behind.

    It is tried, for permissions alone do not tell (/proc belongs to root, who cannot make a file there either).
    """
    try:
        there = next(each for each in (folder, *folder.parents) if each.exists())
        # a missing folder is not made, even for a moment: another run may count on it by then
        with _interrupts_held(), tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise refused(folder, error, where) from None


def check_file(path: Path, where: str) -> None:
    """Raise ``InvalidInput`` unless ``path`` can become a file: its folder takes files, and nothing else is there."""
    check_place(path, where)
    check_folder(path.parent, where)


def check_place(path: Path, where: str) -> None:
    """Refuse folders, devices and links at ``path``: what is put there would take their place, or be lost in them."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise refused(path, error, where) from None
    if not stat.S_ISREG(mode):
        raise InvalidInput(f"{path} is a {'folder' if stat.S_ISDIR(mode) else 'link or device, no file'}", where=where)


def write(files: Mapping[str, Content], folder: Path, where: str) -> list[Path]:
    """Write ``files`` by name into ``folder``, all of them or none, and return the paths. Raises ``InvalidInput``.

    Where something fails, the files there are as they were. Two that write into one folder do not meet.
    """
    paths = [folder / name for name in files]
    for path in paths:
        check_place(path, where)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with scratch(folder, prefix=".", suffix=".part") as stage:
            for name, content in files.items():
                _fill(stage / name, content)
            with _interrupts_held():
                _move(stage, paths)
        _settle(folder)
    except OSError as error:
        raise refused(folder, error, where) from None
    return paths


def write_file(path: Path, content: Content, where: str) -> Path:
    """Write one file, whole or not at all. Raises ``InvalidInput``."""
    return write({path.name: content}, path.parent, where)[0]


@contextmanager
def scratch(folder: Path | None = None, prefix: str = "taicang-", suffix: str = "") -> Iterator[Path]:
    """A folder for a while, in ``folder`` or where the system has its own; Ctrl-C does not leave it behind."""
    with (
        _interrupts_held() as let_through,
        tempfile.TemporaryDirectory(suffix, prefix, folder, ignore_cleanup_errors=True) as made,
        let_through(),
    ):
        yield Path(made)


@contextmanager
def _interrupts_held() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Hold back Ctrl-C, save within what is yielded: a folder half made or half removed would stay behind.

    What was held strikes at the end. Only the main thread is ever interrupted, so elsewhere nothing is done; nor
    where a program that this is part of does as it likes with Ctrl-C.
    """
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield nullcontext
        return
    held = passes = False

    def struck(number: int, frame: FrameType | None) -> None:
        nonlocal held, passes
        if passes:
            passes = False  # what it raises leads to the cleaning, which another must not cut short
            usual(number, frame)
        else:
            held = True

    @contextmanager
    def let_through() -> Iterator[None]:
        nonlocal passes
        passes = True
        try:
            yield
        finally:
            passes = False

    signal.signal(signal.SIGINT, struck)
    try:
        yield let_through
    finally:
        signal.signal(signal.SIGINT, usual)
        if held:
            usual(signal.SIGINT, None)


def _fill(path: Path, content: Content) -> None:
    """Write ``content`` and wait until it is on the disk: only then may it take another's place."""
    with path.open("wb") as file:
        if callable(content):
            content(file)
        else:
            for piece in [content] if isinstance(content, str | bytes) else content:
                file.write(piece.encode() if isinstance(piece, str) else piece)
        file.flush()
        os.fsync(file.fileno())


def _move(stage: Path, paths: list[Path]) -> None:
    """Put the files of ``stage`` at ``paths``; where one cannot be put there, those before it go back."""
    old = stage / ".old"
    old.mkdir()
    for path in paths if len(paths) > 1 else ():
        if path.exists():
            try:
                os.link(path, old / path.name)
            except OSError:  # a file system without links
                shutil.copy2(path, old / path.name)
    moved: list[Path] = []
    try:
        for path in paths:
            moved.append(path)
            (stage / path.name).replace(path)
    except BaseException:
        for path in moved:
            if (old / path.name).exists():
                (old / path.name).replace(path)
            elif not (stage / path.name).exists():
                path.unlink(missing_ok=True)
        raise


def _settle(folder: Path) -> None:
    """Have the names in ``folder`` survive a loss of power, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
