"""Suites as ``data/suites.yaml`` declares them: which rows, what is said of each, what was measured; and their kinds.

The one place where a row and its prediction become an ``Outcome``. Texts may speak of a row's columns or fields in
braces; a bare name is the value of that column or field, a name with a dot a function of the row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from taicang.catalog import files
from taicang.evidence.kernels import tables
from taicang.evidence.measured import attempt
from taicang.evidence.score import Outcome
from taicang.evidence.tables import BOARD, CARRIED, lines, named


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure of a row."""

    predict: str
    """Function of the row that gives its value, or several of which it is the one at ``place``."""
    place: int | None = None
    measured: str
    unit: str
    held: str | bool
    suite: str
    group: str
    id: str = "{id}"
    figure: str = ""
    when: str = ""
    """Column or field without which the row has no such figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Rows that are read in one way, and the ``suites`` that their outcomes are of."""

    name: str
    suites: tuple[str, ...]
    files: tuple[str, ...] = ()
    rows: str = ""
    """Function of the file, or without one of nothing; without a function lines are rows."""
    figures: tuple[Figure, ...] = ()
    outcomes: str = ""
    """In place of rows and figures, where whole tables are one operator of arrays: a function of the folder."""
    run: str = ""
    """Function of the row: what is known of the run, where bands are fitted for it."""
    note: str = ""
    carried: bool = False
    """The package carries the rows: no evidence folder is needed."""
    many: bool = False
    """An outcome is of several rows together: none of the rows of a user's file."""
    long: bool = False
    """Takes half a minute: runs on the carried tables only when it is asked for."""

    def told(self, folder: Path | None = None) -> Iterator[Outcome]:
        """What is predicted of every row of an evidence ``folder`` (else of those that the package carries)."""
        folder = folder or BOARD
        if self.outcomes:
            return iter(named(self.outcomes)(*(() if self.carried else (folder,))))
        path = (CARRIED if self.carried else folder) / self.files[0] if self.files else None
        read: Callable[..., Iterable[Any]] = named(self.rows) if self.rows else lines
        return self.of(read() if path is None else read(path))

    def of(self, rows: Iterable[Any]) -> Iterator[Outcome]:
        """What is predicted of these rows."""
        for row in rows:
            told: dict[str, tuple[Any, str]] = {}
            run = attempt(partial(named(self.run), row))[0] if self.run else None
            for figure in self.figures:
                if figure.when and value(row, figure.when) is None:
                    continue
                if figure.predict not in told:
                    told[figure.predict] = attempt(partial(named(figure.predict), row))
                said, why = told[figure.predict]
                held = figure.held if isinstance(figure.held, bool) else bool(value(row, figure.held))
                yield Outcome(
                    id=text(row, figure.id), suite=text(row, figure.suite), group=text(row, figure.group),
                    unit=text(row, figure.unit), figure=text(row, figure.figure), note=text(row, self.note),
                    measured=float(value(row, figure.measured)), held_out=held, refused=why, run=run,
                    predicted=said if said is None or figure.place is None else said[figure.place],
                )  # fmt: skip


def value(row: Any, name: str) -> Any:
    """The column or field ``name`` of a row, or what a function says of it."""
    if "." in name:
        return named(name)(row)
    return row[name] if isinstance(row, Mapping) else getattr(row, name)


class _Fields:
    """Columns or fields of a row by name, for texts."""

    def __init__(self, row: Any) -> None:
        self.row = row

    def __getitem__(self, name: str) -> Any:
        return value(self.row, name)


def text(row: Any, template: str) -> str:
    """``template`` with the row's columns or fields in place of their names in braces."""
    return template.format_map(_Fields(row)) if "{" in template else template


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of evidence file: which sources read it, what tells it, and what it states as measured."""

    file: str
    sources: tuple[str, ...]
    columns: frozenset[str]
    measured: Mapping[str, tuple[str, str]]
    """Suite -> (column, unit of the column)."""
    says: str = ""
    """Content of the column ``kind``, where several kinds share their columns."""


SHARED = ("suite", "group", "held")
"""What a source may say for all of its figures."""


@cache
def _said() -> Mapping[str, Any]:
    return files.read(CARRIED / "suites.yaml")


@cache
def sources() -> Mapping[str, Source]:
    """Every source by name, in the order of the scoreboard."""
    made = {}
    for name, said in _said()["sources"].items():
        shared = {key: said[key] for key in SHARED if key in said}
        plain: dict[str, Any] = {key: said[key] for key in said.keys() - {"figures", *SHARED}}
        lists = {key: tuple(said.get(key, ())) for key in ("suites", "files")}
        figures = tuple(Figure(**shared | figure) for figure in said.get("figures", ()))
        made[name] = Source(name=name, figures=figures, **plain | lists)
    return made


@cache
def kinds() -> tuple[Kind, ...]:
    """Every kind of evidence file."""
    said = [
        Kind(
            file=file,
            sources=tuple(name for name, source in sources().items() if file in source.files and not source.many),
            columns=frozenset(said["columns"].split()),
            measured={suite: tuple(stated.split("/")) for suite, stated in said["measured"].items()},
            says=said.get("says", ""),
        )
        for file, said in _said()["files"].items()
    ]
    return (*said, *(
        Kind(
            file=table.file,
            sources=("kernels",),
            columns=frozenset([*table.columns.split(), table.time]),
            measured={suite: (table.time, "ms")},
        )
        for suite, table in tables().items()
    ))  # fmt: skip
