"""Read the traces that users have; refuse what is wrong with file and line, or mend it on request and count."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from taicang.errors import InvalidInput
from taicang.traffic.trace import Trace

LONGEST = 4_000_000
"""Tokens beyond which a length is taken for an error."""
GAP_S = 30 * 86400.0
"""A silence longer than this is taken for a change of the unit of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """Columns of one format. ``unit_s`` is the unit of its numeric times (0: dates)."""

    kind: str
    input: str
    output: str
    time: str = ""
    unit_s: float = 1.0
    session: str = ""
    blocks: str = ""
    block: int = 0
    sorts: bool = False
    """Its producers do not promise an order of time."""


CSV_FORMATS = (
    Format(kind="azure", input="ContextTokens", output="GeneratedTokens", time="TIMESTAMP", unit_s=0.0),
    Format(kind="burstgpt", input="Request tokens", output="Response tokens", time="Timestamp", session="Session ID"),
    Format(kind="vidur", input="num_prefill_tokens", output="num_decode_tokens", time="arrived_at"),
    Format(kind="splitwise", input="prompt_size", output="token_size", time="arrival_timestamp"),
)
JSON_FORMATS = (
    Format(kind="bailian", input="input_length", output="output_length", time="timestamp", session="chat_id",
           blocks="hash_ids", block=16),
    Format(kind="mooncake", input="input_length", output="output_length", time="timestamp", unit_s=1e-3,
           session="session_id", blocks="hash_ids", block=512),
    Format(kind="llmservingsim", input="input_toks", output="output_toks", time="arrival_time_ns", unit_s=1e-9),
)  # fmt: skip


def read(path: Path, *, block: int = 0, repair: bool = False) -> Trace:
    """The trace in ``path`` (CSV or JSON lines, plain or gzip); its format is told by its columns.

    ``block`` overrides the tokens of a block. Raises ``InvalidInput`` with file and line for anything that is wrong;
    with ``repair`` faulty rows are dropped, rows out of order are sorted, and both are counted.
    """
    if not path.is_file():
        raise InvalidInput("no such file", where=str(path))
    lines = _text(path)
    head = lines[0].lstrip("\ufeff") if lines else ""
    if not head.strip():
        raise InvalidInput("empty: expected a header or a JSON object", where=f"{path}:1")
    if head.lstrip().startswith("{"):
        form, rows = _json(path, lines)
    else:
        form, rows = _csv(path, lines, head)
    return _collect(path, form, rows, block or form.block, repair)


def _text(path: Path) -> list[str]:
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            kept = zlib.decompressobj(31)
            whole = 0
            with contextlib.suppress(zlib.error):
                whole = kept.decompress(raw).count(b"\n")
            raise InvalidInput(f"damaged gzip ({error})", where=f"{path}:{whole + 1}") from None
    try:
        return raw.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InvalidInput("not UTF-8 text", where=f"{path}:{line}") from None


def _csv(path: Path, lines: list[str], head: str) -> tuple[Format, Iterator[tuple[int, Mapping[str, Any]]]]:
    names = next(csv.reader([head]))
    for form in CSV_FORMATS:
        if form.input in names and form.output in names:
            break
    else:
        kinds = ", ".join(f.kind for f in CSV_FORMATS)
        raise InvalidInput(f"columns {', '.join(names)} are of no known format ({kinds})", where=f"{path}:1")
    width = len(names)

    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        for number, cells in enumerate(csv.reader(io.StringIO("\n".join(lines[1:]))), 2):
            if not cells:
                continue
            if len(cells) != width:
                yield number, {"": f"{len(cells)} cells, the header has {width}"}
            else:
                yield number, dict(zip(names, cells, strict=True))

    return form, rows()


def _json(path: Path, lines: list[str]) -> tuple[Format, Iterator[tuple[int, Mapping[str, Any]]]]:
    try:
        first = json.loads(lines[0].lstrip("\ufeff"))
    except json.JSONDecodeError as error:
        raise InvalidInput(f"not JSON ({error.msg})", where=f"{path}:1") from None
    for form in JSON_FORMATS:
        if form.input in first and (form.kind != "bailian" or "chat_id" in first):
            break
    else:
        keys = ", ".join(sorted(first))
        if {"text_input", "messages", "payload"} & first.keys():
            raise InvalidInput("has text, not lengths: count its tokens first (input_length)", where=f"{path}:1")
        raise InvalidInput(f"keys {keys} are of no known format", where=f"{path}:1")

    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    row = {"": f"not JSON ({error.msg})"}
                yield number, row if isinstance(row, dict) else {"": "not a JSON object"}

    return form, rows()


def _collect(
    path: Path, form: Format, rows: Iterator[tuple[int, Mapping[str, Any]]], block: int, repair: bool
) -> Trace:
    times: list[float] = []
    inputs: list[int] = []
    outputs: list[int] = []
    blocks: list[list[int]] = []
    sessions: list[int] = []
    mended: dict[str, int] = {}
    names: dict[str, int] = {}
    timed: bool | None = None
    unsorted = False
    before = float("-inf")
    for number, row in rows:
        fault = row.get("", "")
        if not fault:
            try:
                inp, out = _length(row, form.input), _length(row, form.output, default=1)
                when = row.get(form.time)
                has_time = when not in (None, "")
                at = _seconds(when, form) if has_time else 0.0
                ids = row.get(form.blocks) or []
                fault = _wrong(inp, out, ids, block)
                if not fault and timed is not None and has_time != timed:
                    fault = f"{form.time} is {'missing' if timed else 'given'}, unlike in the rows before"
                if not fault and has_time and at - before > GAP_S and times:
                    fault = f"{form.time} jumps by {(at - before) / 86400:.0f} days: mixed units?"
            except ValueError as error:
                fault = str(error)
        if fault:
            if not repair:
                raise InvalidInput(fault + " (--repair drops such rows)", where=f"{path}:{number}")
            mended["rows dropped"] = mended.get("rows dropped", 0) + 1
            continue
        if has_time and at < before:
            if not repair and not form.sorts:
                raise InvalidInput(
                    f"time goes back by {before - at:g} s (--repair sorts the rows)", where=f"{path}:{number}"
                )
            mended["rows out of order"] = mended.get("rows out of order", 0) + 1
            unsorted = True
        else:
            before = at
        timed = has_time
        times.append(at)
        inputs.append(inp)
        outputs.append(out)
        blocks.append(ids)
        if form.session and row.get(form.session) is not None:
            sessions.append(names.setdefault(str(row[form.session]), len(names)))
    if not inputs:
        raise InvalidInput("no requests", where=str(path))
    columns = _Columns(times=times if timed else [], inputs=inputs, outputs=outputs, blocks=blocks, sessions=sessions)
    return _assemble(path, form, columns, block, mended, unsorted=unsorted)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    times: list[float]
    inputs: list[int]
    outputs: list[int]
    blocks: list[list[int]]
    sessions: list[int]


def _assemble(
    path: Path, form: Format, columns: _Columns, block: int, mended: dict[str, int], *, unsorted: bool
) -> Trace:
    count = len(columns.inputs)
    arrival = np.asarray(columns.times, dtype=float)
    order = np.argsort(arrival, kind="stable") if unsorted else np.arange(count)
    arrival = arrival[order] if len(arrival) else arrival
    some = any(columns.blocks)
    return Trace(
        name=path.name,
        kind=form.kind,
        arrival_s=arrival - arrival[0] if len(arrival) else arrival,
        input_tokens=np.asarray(columns.inputs)[order],
        output_tokens=np.asarray(columns.outputs)[order],
        blocks=[columns.blocks[i] for i in order] if some else (),
        block=block if some else 0,
        session=np.asarray(columns.sessions)[order] if len(columns.sessions) == count else None,
        repaired=mended,
    )


def _length(row: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = row.get(key)
    if value is None or value == "":
        if default is None:
            raise ValueError(f"{key} is missing")
        return default
    if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
        raise ValueError(f"{key} is {value!r}, not a number of tokens")
    try:
        return int(value)
    except (ValueError, TypeError):
        raise ValueError(f"{key} is {value!r}, not a number of tokens") from None


def _wrong(inp: int, out: int, ids: Any, block: int) -> str:
    for name, length in (("input", inp), ("output", out)):
        if length < 1:
            return f"{name} of {length} tokens" + (": a failed request?" if length == 0 else "")
        if length > LONGEST:
            return f"{name} of {length} tokens is beyond any model"
    if ids:
        if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids):
            return "hash_ids is not a list of whole numbers"
        if len(ids) != -(-inp // block):
            return f"{len(ids)} hash ids for {inp} tokens; blocks of {block} make {-(-inp // block)} (--block-tokens)"
    return ""


def _seconds(value: Any, form: Format) -> float:
    if form.unit_s:
        try:
            seconds = float(value) * form.unit_s
        except (TypeError, ValueError):
            raise ValueError(f"{form.time} is {value!r}, not a number") from None
        if not np.isfinite(seconds) or seconds < 0:
            raise ValueError(f"{form.time} is {value!r}")
        return seconds
    text = str(value)
    try:  # seven-digit fractions, optional fraction, optional zone
        whole = datetime.fromisoformat(text[:19]).replace(tzinfo=UTC)
        rest = text[19:]
        zone = rest.find("+")
        fraction, offset = (rest, "") if zone < 0 else (rest[:zone], rest[zone:])
        seconds = float("0" + fraction.rstrip("Z")) if fraction.rstrip("Z") else 0.0
        if offset:
            whole = datetime.fromisoformat(text[:19] + offset)
    except ValueError:
        raise ValueError(f"{form.time} is {value!r}, not a date such as 2023-11-16 18:15:46.6805900") from None
    return whole.timestamp() + seconds
