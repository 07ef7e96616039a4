"""What a scan finds: findings, kernels, files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from taicang.port.tables import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One place that a port has to think of."""

    line: int
    column: int
    rule: Rule
    text: str
    """What stands there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel and the lines it takes, its decorators included."""

    name: str
    line: int
    lines: int
    language: str
    """triton, cuda, ascend or numba."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """A module that a file imports: as written, with the dots before it, and the names taken from it."""

    module: str
    level: int
    names: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """A native extension that a build file declares."""

    name: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Use:
    """An operator of the framework that the code calls, by how it is priced, and the sizes that stand there."""

    name: str
    kind: str
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What one file of the repository holds."""

    path: str
    language: str
    lines: int
    findings: tuple[Finding, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    uses: tuple[Use, ...] = ()
    imports: tuple[Import, ...] = ()
    defined: frozenset[str] = frozenset()
    """Names that a Python module defines at its top."""
    registered: frozenset[str] = frozenset()
    """Those of them that a decorator puts into a registry, so that a configuration can name them."""
    extensions: tuple[Extension, ...] = ()
    package_folders: Mapping[str, str] = field(default_factory=dict)
    """Of a setup.py: package -> folder it lies in."""
    runs: bool = False
    """Begins by itself: ``if __name__ == "__main__"``."""
    error: str = ""
    """Why it could not be read as its language, with the line."""
