"""What ``data/suites.yaml`` and ``data/kernels.yaml`` declare: modules that score, suites, files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from taicang.catalog import files
from taicang.evidence.kernels import tables
from taicang.evidence.tables import CARRIED


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Outcomes of one module: ``suites`` are in them; ``carried`` ones need no evidence folder."""

    module: str
    suites: tuple[str, ...]
    carried: bool = False
    long: bool = False
    """Takes half a minute: runs on the carried tables only when it is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of evidence file: which modules look for it and where, what tells it, and what it states as measured."""

    file: str
    modules: tuple[str, ...]
    columns: frozenset[str]
    measured: Mapping[str, tuple[str, str]]
    """Suite -> (column, unit of the column)."""
    says: str = ""
    """Content of the column ``kind``, where several kinds share their columns."""


@cache
def _said() -> Mapping[str, Any]:
    return files.read(CARRIED / "suites.yaml")


@cache
def suites() -> tuple[Suite, ...]:
    """Every module that scores, in the order of the scoreboard."""
    made = _said()["modules"].items()
    return tuple(Suite(module=module, **said | {"suites": tuple(said["suites"])}) for module, said in made)


@cache
def kinds() -> tuple[Kind, ...]:
    """Every kind of evidence file."""
    files = [
        Kind(
            file=file,
            modules=tuple(said["modules"]),
            columns=frozenset(said["columns"].split()),
            measured={suite: tuple(stated.split("/")) for suite, stated in said["measured"].items()},
            says=said.get("says", ""),
        )
        for file, said in _said()["files"].items()
    ]
    return (*files, *(
        Kind(
            file=table.file,
            modules=("kernels",),
            columns=frozenset([*table.columns.split(), table.time]),
            measured={suite: (table.time, "ms")},
        )
        for suite, table in tables().items()
    ))  # fmt: skip
