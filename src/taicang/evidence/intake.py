"""Evidence files of any name: recognised by their columns, and scored row by row where a whole file cannot be.

A suite reads its own file names in an evidence folder. A file that a user brings is staged under the name of its kind
in an empty folder; a row that its suite cannot read is found by halving and becomes a refusal with its reason, so that
one odd line, an unknown machine or a missing column costs coverage and nothing else.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from taicang import reading
from taicang.catalog import calibration
from taicang.catalog.trust import BANDS
from taicang.errors import InvalidInput, TaicangError, unless_interrupted
from taicang.evidence import ascend_serving, ascend_steps, served
from taicang.evidence.fitting import fingerprint
from taicang.evidence.score import Outcome
from taicang.evidence.suites import Kind, Source, kinds, sources
from taicang.output import scratch

Cells: TypeAlias = Mapping[str, str]


FEW = 300
"""Rows that are replayed unasked: a few seconds."""


def your_outcomes(path: Path, wanted: Collection[str] = (), stack: str = "") -> list[Outcome]:
    """Outcomes of a file that a user brings: all "yours", but for a file that the package's own constants saw.

    Suites that take long run where they are ``wanted`` or rows are few; ``stack`` takes the place of those that rows of
    serving and training name. Raises as ``file_outcomes``.
    """
    found = file_outcomes(path, wanted, stack)
    return found if fitted_on(path) else [replace(outcome, yours=True) for outcome in found]


def fitted_on(path: Path) -> bool:
    """Whether constants or bands of the package were fitted on this very file."""
    if not path.is_file():
        return False
    mine = fingerprint(path)
    fits = (str(calibration.read(family.stem)["fitted_on"]) for family in calibration.FOLDER.glob("*.yaml"))
    return any(mine in each for each in fits) or mine in BANDS.read_text(encoding="utf-8")


def file_outcomes(path: Path, wanted: Collection[str] = (), stack: str = "") -> list[Outcome]:
    """Outcomes of one file. Raises ``InvalidInput`` for a file of no known kind, or without rows of a suite wanted."""
    found = _outcomes_of(path, wanted, stack)
    chosen = [outcome for outcome in found if not wanted or outcome.suite in wanted]
    if wanted and found and not chosen:
        has = ", ".join(sorted({outcome.suite for outcome in found}))
        raise InvalidInput(f"no rows of {' or '.join(wanted)} here; this file has {has}", where=str(path))
    return chosen


def _outcomes_of(path: Path, wanted: Collection[str], stack: str) -> list[Outcome]:
    if path.suffix in (".yaml", ".yml"):
        return step_outcomes(path)
    fitting, rows = table(path)
    if stack:
        rows = [row | {"stack": stack} for row in rows]
    if not fitting[0].says:
        return of_kind(max(fitting, key=lambda kind: len(kind.columns)), rows, wanted)
    strange = [row for row in rows if row["kind"] not in {kind.says for kind in fitting}]
    return [
        *(o for kind in fitting for o in _published(kind, [row for row in rows if row["kind"] == kind.says])),
        *(o for i, row in enumerate(strange) for o in refused(fitting[0], row, i, f"no suite of kind {row['kind']!r}")),
    ]


def table(path: Path) -> tuple[list[Kind], list[dict[str, str]]]:
    """The kinds that the columns of a CSV file fit (at least one), and its rows. Raises ``InvalidInput``."""
    try:
        reader = csv.DictReader(io.StringIO(reading.text(path, most=reading.LINE), newline=""))
        header, rows = set(reader.fieldnames or ()), [_clean(row) for row in reader]
    except csv.Error as error:
        raise InvalidInput(f"cannot read this file ({error})", where=str(path)) from None
    fitting = [kind for kind in kinds() if kind.columns <= header]
    serving = next(kind for kind in kinds() if "served" in kind.sources)
    if serving not in (fitting or [serving]):
        return fitting, rows
    own = [served.completed(row, number) for number, row in enumerate(rows, start=1)]
    names = dict.fromkeys(column for row in own for column in row)
    if lacks := serving.columns - {*header, *names}:
        raise InvalidInput(_unlike(header, lacks), where=str(path))
    return [serving], [dict.fromkeys(names, "") | row for row in own]


def _unlike(header: Collection[str], lacks: Collection[str]) -> str:
    """Why columns are of no kind, with what served rows, the commonest, would need."""
    if any(name.lstrip().startswith(("{", "[")) for name in header):
        return "a document in JSON, no table: `taicang check` compares what benchmarks saved"
    shown = ", ".join(sorted(header)) or "(none)"
    return f"no kind of evidence has the columns {shown}; served rows lack {', '.join(sorted(lacks))}"


def _clean(row: Mapping[str | None, str | list[str] | None]) -> dict[str, str]:
    """A line with every cell a text: short lines lack cells, long ones carry more than the header names."""
    return {str(key): value if isinstance(value, str) else "" for key, value in row.items() if key is not None}


def _published(kind: Kind, rows: Sequence[Cells]) -> list[Outcome]:
    ascend = [row for row in rows if kind.says == "serving" and row.get("chip", "").lower().startswith("ascend")]
    others = [row for row in rows if row not in ascend]
    own = replace(kind, sources=("ascend_serving",), measured={"ascend_serving": ("value", "")})
    return [*_read_as(own, ascend, ascend_serving.row_of), *of_kind(kind, others)]


def of_kind(kind: Kind, rows: Sequence[Cells], wanted: Collection[str] = ()) -> list[Outcome]:
    """Outcomes of rows of one kind, in their order as far as its suites keep it; long suites of ``FEW`` rows at most or
    where ``wanted``."""
    if not rows:
        return []
    found: list[Outcome] = []
    for name in kind.sources:
        source = sources()[name]
        if set(source.suites) & set(wanted) or not (wanted or (source.long and len(rows) > FEW)):
            found += _of_source(kind, source, rows)
    if not found:  # none of those wanted
        return of_kind(kind, rows)
    return [_in_unit_of_file(outcome, kind) for outcome in found]


def _of_source(kind: Kind, source: Source, rows: Sequence[Cells]) -> list[Outcome]:
    """Outcomes of the rows; those that cannot even be read are found by halving."""
    names = (*kind.measured, *(("replay",) if source.long else ()))
    with scratch() as folder:
        (folder / "kernels").mkdir()
        file = folder / kind.file
        known = {outcome.id for outcome in source.told(folder)}  # what the package carries is not in the file

        def read(some: Sequence[tuple[int, Cells]]) -> list[Outcome]:
            with file.open("w", newline="", encoding="utf-8") as handle:
                writer = csv.DictWriter(handle, list(some[0][1]))
                writer.writeheader()
                writer.writerows(row for _, row in some)
            try:
                mine = [each for each in source.told(folder) if each.id not in known]
            finally:
                file.unlink()
            return [sound(each) for each in mine if each.suite.startswith(names)]

        def halved(some: Sequence[tuple[int, Cells]]) -> list[Outcome]:
            try:
                return read(some)
            except Exception as error:  # whatever a reader stumbles over must not take the other rows with it
                if len(some) == 1:
                    return list(refused(kind, some[0][1], some[0][0], reason(error), replayed=source.long))
            middle = len(some) // 2
            return halved(some[:middle]) + halved(some[middle:])

        found = halved(list(enumerate(rows)))
    return [*found, *_left_out(kind, rows, found, replayed=source.long)]


def _left_out(kind: Kind, rows: Sequence[Cells], found: Sequence[Outcome], *, replayed: bool) -> Iterator[Outcome]:
    """Refusals of the rows with a name that their suite passed over."""
    seen = {outcome.id for outcome in found}
    for index, row in enumerate(rows):
        name = row.get("id")
        if name and not any(f"{name}{part}" in seen for part in ("", "-token", "-power")):
            why = f"the suite takes no {row.get('metric') or 'such'} rows of this source"
            yield from refused(kind, row, index, why, replayed=replayed)


def reason(error: Exception) -> str:
    """Why a row could not be read, in words. Raises ``KeyboardInterrupt`` where Ctrl-C is why."""
    unless_interrupted(error)
    if isinstance(error, TaicangError):
        return str(error)
    if isinstance(error, KeyError):
        return f"no entry for {error.args[0]!r}" if error.args else "a missing entry"
    return f"cannot read this row: {error}"


def sound(outcome: Outcome) -> Outcome:
    """The outcome, or a refusal where either number is none that an error can be taken of."""
    said = outcome.predicted
    if not (math.isfinite(outcome.measured) and outcome.measured > 0):
        return replace(outcome, predicted=None, refused=outcome.refused or "the row states no positive measured value")
    if said is not None and not (math.isfinite(said) and said > 0):
        return replace(outcome, predicted=None, refused=f"the prediction is {said}")
    return outcome


def refused(kind: Kind, row: Mapping[str, Any], index: int, why: str, *, replayed: bool = False) -> Iterator[Outcome]:
    """One refusal per figure that the row states; as nothing is known of it, it counts as held out."""
    for suite, (column, unit) in kind.measured.items():
        yield Outcome(
            id=str(row.get("id") or f"row {index + 1}"),
            suite=f"{suite.replace('served', 'replay' if replayed else 'served')}_{row.get('mode') or 'agg'}"
            if suite.startswith("served")
            else suite,
            group="refused",
            measured=_number(row.get(column, "")),
            predicted=None,
            unit=unit or row.get("unit", ""),
            held_out=True,
            refused=why,
        )


def _in_unit_of_file(outcome: Outcome, kind: Kind) -> Outcome:
    """Seconds and microseconds as the milliseconds that the file states."""
    units = {unit for _, unit in kind.measured.values()}
    scale = {"s": 1e3, "us": 1e-3}.get(outcome.unit)
    if units != {"ms"} or scale is None:
        return outcome
    said = None if outcome.predicted is None else outcome.predicted * scale
    return replace(outcome, measured=outcome.measured * scale, predicted=said, unit="ms")


def _read_as(kind: Kind, rows: Iterable[Mapping[str, Any]], read: Callable[[Any], Any]) -> Iterator[Outcome]:
    """Outcomes of what ``read`` makes of each row for the source of ``kind``, one by one."""
    for index, row in enumerate(rows):
        try:
            found: Iterable[Outcome] = list(sources()[kind.sources[0]].of([read(row)]))
        except Exception as error:  # as in a table
            found = refused(kind, row, index, reason(error))
        yield from (_in_unit_of_file(sound(each), kind) for each in found)


STEPS = Kind(
    file="step_times.yaml", sources=("ascend_steps",), columns=frozenset(),
    measured={"ascend_steps": ("step_time_ms_reference", "ms")},
)  # fmt: skip
"""Lists of forward steps, which are no tables."""


def step_outcomes(path: Path) -> list[Outcome]:
    """Outcomes of a YAML list of forward steps (``id``, ``step_time_ms_reference``, ``config``).

    Raises ``InvalidInput`` for a file that is none.
    """
    try:
        listed = yaml.safe_load(reading.text(path, most=reading.LINE))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InvalidInput(f"cannot read this file ({error})", where=str(path)) from None
    if not isinstance(listed, list) or not all(isinstance(each, dict) and "config" in each for each in listed):
        raise InvalidInput("expected a list of steps, each with 'id', 'config' and a reference time", where=str(path))
    return list(_read_as(STEPS, listed, ascend_steps.row_of))


def _number(cell: object) -> float:
    """NaN where a cell holds none."""
    try:
        return float(str(cell))
    except ValueError:
        return math.nan
