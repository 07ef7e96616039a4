"""Read the traces that users have; refuse what is wrong with file and line, or mend it on request and count."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from taicang import reading
from taicang.errors import InvalidInput
from taicang.traffic import bench, formats, results
from taicang.traffic.collect import NO_COUNTER, Collector
from taicang.traffic.columns import flat, form_of, sized, times_of
from taicang.traffic.formats import Format, Row
from taicang.traffic.lines import Lines
from taicang.traffic.texts import Counter, conversations, items
from taicang.traffic.trace import Trace

T = TypeVar("T")
PEEK = 1000
"""Rows among which one of a request that succeeded is looked for."""


def read_trace(
    path: Path, *, block: int = 0, repair: bool = False, count: Counter | None = None,
    missing_output: int | None = None, missing_input: int | None = None, head: int | None = None,
    columns: Mapping[str, str] | None = None, run: int | None = None,
) -> Trace:  # fmt: skip
    """The trace in ``path`` (CSV, JSON lines or JSON, plain or gzip); its format is told by its columns.

    ``block`` overrides the tokens of a block, ``count`` counts the tokens of texts, ``missing_output`` stands for
    output lengths that are not given, ``head`` ends the reading after so many requests, ``columns`` names the columns
    of a table of one's own (see ``traffic.columns``), ``run`` picks one of several runs of a benchmark (from 1),
    ``missing_input`` is the length of prompts where a benchmark's summary has none. Raises ``InvalidInput`` with
    file and line for anything that is wrong; with ``repair`` faulty rows are dropped, rows out of order are sorted, and
    both are counted.
    """
    lines = Lines(path, repair=repair)
    first = lines.start()
    if not first:
        raise InvalidInput("empty: expected a header or JSON", where=f"{path}:1")
    if (summed := results.of(path, lines, first, missing_input)) is not None:
        form, rows = summed
    elif first.startswith("["):
        form, rows = _array(path, lines, count, columns)
    elif first.startswith("{"):
        form, rows = _json(path, lines, first, columns, run, missing_input)
    else:
        form, rows = _csv(path, lines, first, columns)
    made = Collector(path, form, block or form.block, repair, count, missing_output)
    for number, row in rows:
        made.take(number, row)
        if head is not None and len(made) >= head:
            break
    if lines.lost:
        made.mended["lines torn by a damaged gzip"] = lines.lost
    return made.trace()


def _form(known: Format | None, row: Row, columns: Mapping[str, str] | None, where: str) -> Format:
    """The format of a table whose first row is ``row``; ``InvalidInput`` says what is there and what is needed."""
    form = known
    if known is None or (known.output not in row and known.expand is None):  # input alone may be any table's name
        form = form_of(row, columns, where) or known
    if form is None:
        raise InvalidInput(
            f"{', '.join(sorted(row))}: of no known format ({', '.join(formats.KINDS)}); name the columns: "
            "--columns input=...,output=...,arrival=...",
            where=where,
        )
    return form


def _csv(
    path: Path, lines: Lines, header: str, columns: Mapping[str, str] | None
) -> tuple[Format, Iterator[tuple[int, Row]]]:
    """A table; its header tells whether commas, semicolons or tabs part its cells."""
    mark = max(",;\t", key=lambda each: (header.count(each), each == ","))
    table = csv.reader((text for _, text in lines), delimiter=mark)
    names = _cells(table, path)
    if names is None:
        raise InvalidInput("empty: expected a header", where=f"{path}:1")
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise InvalidInput(f"column {twice[0]} stands twice", where=f"{path}:1")
    width = len(names)
    first = _cells(table, path)
    known = None if columns else formats.of_header(names)
    if known is not None and known.time and known.time not in names:  # its time stands in another column
        columns, known = {"input": known.input, "output": known.output} | times_of(names), None
    form = _form(known, dict(zip(names, first or [""] * width, strict=False)), columns, f"{path}:1")

    def rows() -> Iterator[tuple[int, Row]]:
        each = first
        while each is not None:
            if each and len(each) != width:
                yield table.line_num, {"": f"{len(each)} cells, the header has {width}"}
            elif each:
                yield table.line_num, dict(zip(names, each, strict=True))
            each = _cells(table, path)

    used = tuple(name for name in form.ignored if name in names)
    return replace(form, ignored=used), rows()


def _cells(table: Any, path: Path) -> list[str] | None:
    """The next row; None at the end. Raises ``InvalidInput`` for what is no CSV."""
    try:
        found: list[str] | None = next(table, None)
    except csv.Error as error:
        raise InvalidInput(f"not CSV ({error})", where=f"{path}:{table.line_num}") from None
    return found


def _json(
    path: Path, lines: Lines, first: str, columns: Mapping[str, str] | None, run: int | None, missing_input: int | None
) -> tuple[Format, Iterator[tuple[int, Row]]]:
    try:
        head = reading.row(first)
    except reading.FAULTS as error:
        head = _document(lines)
        if head is None:
            said = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise InvalidInput(f"not JSON ({said})", where=f"{path}:1") from None
        first = ""
    if bench.is_run(head):
        return bench.runs(path, _picked(path, [(1, head)] if not first else _objects(lines), run))
    if isinstance(head.get("benchmarks"), list):
        found = _picked(path, list(enumerate(head["benchmarks"], 1)), run or 1)
        form, requests = results.listed(path, found[0], columns)
        if run is None and len(head["benchmarks"]) > 1:
            form = replace(form, ignored=(*form.ignored, f"all but the first of {len(head['benchmarks'])} runs"))
        return form, requests
    if not columns and (summed := results.of_object(path, head, missing_input)) is not None:
        return summed
    known = None if columns else formats.of_object(head.keys())
    form = _form(known, _sized(flat(head), lines if first and not known else ()), columns, f"{path}:1")

    def rows() -> Iterator[tuple[int, Row]]:
        for number, row in _objects(lines):
            if form.expand is None or "" in row:
                yield number, row if form is known else flat(row)
                continue
            try:
                yield from ((number, each) for each in form.expand(row))
            except (KeyError, TypeError, AttributeError):
                yield number, {"": f"is no row of {form.kind}"}

    return form, rows()


def _sized(head: Row, rows: Iterable[tuple[int, str]]) -> Row:
    """The first row (flat) with lengths, if the first rows have one: that of a failed request has none."""
    if not sized(head):
        near = (flat(row) for _, row in _objects(islice(rows, PEEK)))
        return next((row for row in near if sized(row)), head)
    return head


def _picked(path: Path, found: Iterable[tuple[int, T]], run: int | None) -> list[tuple[int, T]]:
    """One of the runs of a file, or all."""
    every = list(found)
    if run is not None and not 1 <= run <= len(every):
        raise InvalidInput(f"has {len(every)} runs, no run {run}", where=str(path))
    return every if run is None else [every[run - 1]]


def runs_in(path: Path) -> int:
    """Runs of a benchmark in the file; one of any other."""
    lines = Lines(path)
    first = lines.start()
    if not first.startswith("{"):
        return 1
    try:
        head, several = reading.row(first), True
    except reading.FAULTS:
        head, several = _document(lines) or {}, False
    if bench.is_run(head):
        return sum(1 for _ in _objects(lines)) if several else 1
    return max(len(head["benchmarks"]), 1) if isinstance(head.get("benchmarks"), list) else 1


def _objects(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Row]]:
    """Line and object of JSON lines; what is none is a row that says so."""
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = reading.row(line)
        except reading.FAULTS as error:
            row = {"": f"not JSON ({error})"}
        yield number, row if isinstance(row, dict) else {"": "not a JSON object"}


def _document(lines: Lines) -> Row | None:
    try:
        found = reading.CAREFUL(lines.whole())
    except reading.FAULTS:
        return None
    return found if isinstance(found, dict) else None


def _array(
    path: Path, lines: Lines, count: Counter | None, columns: Mapping[str, str] | None
) -> tuple[Format, Iterator[tuple[int, Row]]]:
    """A JSON array: ShareGPT conversations, or objects with lengths."""
    text = lines.whole()
    rows = [(number, each) for number, each in items(text, str(path))]
    objects = [each for _, each in rows[:PEEK] if isinstance(each, dict)]
    head = next((each for each in objects if sized(flat(each))), objects[0] if objects else {})
    if columns or not {"conversations", "conversation"} & set(head):
        form = form_of(flat(head), columns, f"{path}:1")
        if form is not None:
            return form, ((n, flat(each) if isinstance(each, dict) else {"": "not a JSON object"}) for n, each in rows)
    if count is None:
        raise InvalidInput(NO_COUNTER, where=f"{path}:1")
    return replace(formats.CUSTOM, kind="sharegpt"), conversations(text, str(path), count)


def read_rates(path: Path) -> tuple[float, list[float]]:
    """(seconds of a window, rates) of a CSV with the start of each window in seconds and the rate in it, plain or gzip.

    Raises ``InvalidInput`` with file and line for what is no number or no equal window.
    """
    starts: list[float] = []
    rates: list[float] = []
    for number, text in Lines(path):
        cells = text.split(",")
        try:
            start, rate = float(cells[0]), float(cells[1])
        except (ValueError, IndexError):
            if number == 1:  # names of the columns
                continue
            raise InvalidInput("expected window start in s and rate", where=f"{path}:{number}") from None
        if len(starts) > 1 and abs(start - starts[-1] - (starts[1] - starts[0])) > 1e-6 * start:
            raise InvalidInput("windows of unequal length", where=f"{path}:{number}")
        starts.append(start)
        rates.append(rate)
    if len(starts) < 2 or starts[1] <= starts[0]:
        raise InvalidInput("expected rates of at least two windows, one after the other", where=str(path))
    return starts[1] - starts[0], rates
