"""The files of a repository: which there are, of which language, and which are tests, vendored or documentation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from taicang.errors import InvalidInput

MOST_BYTES: Final = 4 * 2**20
"""A longer source file is data that a program wrote."""
_SUFFIXES: Final = {
    ".py": "python", ".pyi": "stub", ".cu": "cuda", ".cuh": "cuda",
    ".c": "native", ".cc": "native", ".cpp": "native", ".cxx": "native", ".h": "native", ".hh": "native",
    ".hpp": "native", ".inl": "native", ".asc": "native",
    ".sh": "shell", ".bash": "shell", ".slurm": "shell", ".sbatch": "shell", ".env": "shell",
    ".yaml": "yaml", ".yml": "yaml", ".cmake": "build", ".mk": "build", ".toml": "packages", ".cfg": "packages",
}  # fmt: skip
_NAMES: Final = {"cmakelists.txt": "build", "makefile": "build", "dockerfile": "shell", "pipfile": "packages"}
_SKIPPED: Final = frozenset({"__pycache__", "node_modules", "build", "dist", "site-packages", "wandb"})
_TESTS: Final = frozenset({"test", "tests", "unittests", "unit_tests", "testing"})
_VENDORED: Final = frozenset(
    {"third_party", "thirdparty", "third-party", "3rdparty", "3rd_party", "vendor", "vendored", "external", "extern",
     "submodules", "deps"}
)  # fmt: skip
_ENDS: Final = frozenset(
    {"cuda", "gpu", "kernel", "kernels", "forward", "backward", "launcher", "fwd", "bwd", "wrapper"}
)
_SIDES: Final = {"ascend": frozenset({"ascend", "npu", "cann"}), "cuda": frozenset({"cuda", "nvidia"})}
_DOCS: Final = frozenset({"doc", "docs", "tutorials", "notebooks"})


def language(path: PurePosixPath) -> str:
    """The language of a file by its name, empty for one that is not read."""
    name = path.name.lower()
    if name in _NAMES or name.partition(".")[0] == "dockerfile":
        return _NAMES.get(name, "shell")
    if path.suffix.lower() in {".txt", ".in"} and ("requirement" in str(path).lower() or "constraints" in name):
        return "packages"
    return _SUFFIXES.get(path.suffix.lower(), "")


def role(path: PurePosixPath) -> str:
    """``source``, or why a file is not part of what is ported: ``test``, ``vendored``, ``docs``."""
    folders = {part.lower() for part in path.parts[:-1]}
    if folders & _VENDORED:
        return "vendored"
    name = path.name.lower()
    if folders & _TESTS or name.startswith("test_") or path.stem.lower().endswith("_test") or name == "conftest.py":
        return "test"
    return "docs" if folders & _DOCS else "source"


def is_for(to: str, path: PurePosixPath) -> bool:
    """Whether a file's folders or the end of its name say that it is for that side alone."""
    words = [*path.parts[:-1], path.stem.rpartition("_")[2]]
    return any(word.lower().strip("_") in _SIDES[to] for word in words)


def heads(stem: str) -> Iterator[str]:
    """A name and its beginnings, without what tells CUDA files from their host side: a_b_cuda_kernel is a_b as well.

    A single word tells too little where more stand in the name, unless only such words follow.
    """
    parts = stem.split("_")
    plain = [part for part in parts if part.lower() not in _ENDS] or parts
    yield stem
    yield "_".join(plain)
    yield from ("_".join(parts[:end]) for end in range(len(parts) - 1, 1, -1))


def files(root: Path) -> Iterator[tuple[str, Path]]:
    """Path below ``root`` and place of every file that is read, in order of path. Links are not followed."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(each for each in folders if not _skipped(Path(folder, each)))
        for name in sorted(names):
            place = Path(folder, name)
            path = PurePosixPath(place.relative_to(root).as_posix())
            if language(path) and os.path.isfile(place) and not os.path.islink(place):
                yield str(path), place


def _skipped(folder: Path) -> bool:
    name = folder.name.lower()
    if name in _SKIPPED or name.startswith(".") or name.endswith(".egg-info"):
        return True
    return os.path.exists(folder / "pyvenv.cfg")  # Path.exists raises where one may not look


def text(place: Path) -> str:
    """A file as text, bytes that are not UTF-8 replaced; ``InvalidInput`` where it is too long or cannot be read."""
    try:
        if place.stat().st_size > MOST_BYTES:
            raise InvalidInput(f"longer than {MOST_BYTES:,} bytes: not read as source")
        return place.read_bytes().decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise InvalidInput(f"cannot read the file ({error.strerror or error})") from None
