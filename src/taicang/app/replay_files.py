"""What ``taicang replay --out`` writes: each file whole, or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taicang.errors import InvalidInput, NotModelled
from taicang.output import Content, check_folder, check_place
from taicang.output import write as write_set
from taicang.records import plain
from taicang.serve.record import STAMP
from taicang.trace_events import Event, counter, process, span, thread

if TYPE_CHECKING:
    from taicang.predict.replay import Replay


ROWS = 65_536
"""Rows that are turned into text at a time."""


def check(folder: str | None, form: str, *, perfetto: bool) -> None:
    """Refuse before the run what could not be written after it."""
    if folder is None:
        if perfetto:
            raise InvalidInput("needs --out, a folder for trace.json", where="--perfetto")
        return
    if form == "parquet":
        _arrow()
    check_folder(Path(folder), "--out")
    for name in _names(form, perfetto=perfetto):
        check_place(Path(folder, name), "--out")


def _names(form: str, *, perfetto: bool) -> tuple[str, ...]:
    return ("summary.json", f"requests.{form}", f"usage.{form}", *(("trace.json",) if perfetto else ()))


def write(result: Replay, folder: str, form: str = "csv", *, perfetto: bool = False) -> None:
    """summary.json; requests and usage in ``form``; trace.json for Perfetto."""
    whole = (name for name in result.__dataclass_fields__ if name not in ("table", "usage", "log"))
    run = {name: plain(getattr(result, name)) for name in whole}
    contents: list[Content] = [json.dumps(run, indent=2, ensure_ascii=False, allow_nan=False) + "\n"]
    for table in (result.table, result.usage):
        contents.append(_parquet(table, run) if form == "parquet" else _csv(table) if form == "csv" else _json(table))
    if perfetto:
        contents.append(events(result))
    write_set(dict(zip(_names(form, perfetto=perfetto), contents, strict=True)), Path(folder), "--out")


def _parts(table: Mapping[str, Any]) -> Iterable[list[list[str]]]:
    """Columns as text, some rows at a time; what is not known is empty."""
    count = len(next(iter(table.values()), ()))
    for low in range(0, count, ROWS):
        columns = []
        for values in table.values():
            part = values[low : low + ROWS].tolist()
            real = values.dtype.kind == "f"
            columns.append([("" if isnan(v) else f"{v:.9f}") for v in part] if real else [str(v) for v in part])
        yield columns


def _csv(table: Mapping[str, Any]) -> Iterable[str]:
    yield ",".join(table) + "\n"
    for columns in _parts(table):
        yield "\n".join(map(",".join, zip(*columns, strict=True))) + "\n"


def _json(table: Mapping[str, Any]) -> Iterable[str]:
    """A list of objects, one to a line."""
    names = [json.dumps(name) for name in table]
    quoted = [values.dtype.kind not in "fiub" for values in table.values()]
    before = "[\n"
    for columns in _parts(table):
        for cells in zip(*columns, strict=True):
            pairs = zip(names, cells, quoted, strict=True)
            yield before + "{" + ", ".join(f"{n}: {json.dumps(v) if q else v or 'null'}" for n, v, q in pairs) + "}"
            before = ",\n"
    yield "\n]\n" if before != "[\n" else "[]\n"


def _arrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise NotModelled("--format parquet needs pyarrow: pip install 'taicang[parquet]'") from None


def _parquet(table: Mapping[str, Any], run: Mapping[str, Any]) -> Content:
    """With seed, catalogue digest and version among the file's own metadata."""
    arrow, parquet = _arrow()
    made = arrow.table(
        {
            name: arrow.array(values, mask=np.isnan(values) if values.dtype.kind == "f" else None)
            for name, values in table.items()
        }
    )
    about = {f"taicang.{name}": str(run[name]) for name in ("seed", "digest", "version")}
    made = made.replace_schema_metadata(about | {"taicang.partial": str(run["summary"]["partial"])})
    return lambda file: parquet.write_table(made, file, compression="zstd")


MOST_DRAWN = 100_000
"""Steps and requests that are drawn, each."""
INSTANCES, REQUESTS, COUNTERS = 1, 2, 3


def events(result: Replay) -> Iterator[str]:
    """The file, piece by piece."""
    yield '{"displayTimeUnit": "ms", "otherData": ' + json.dumps(_about(result)) + ', "traceEvents": [\n'
    first = True
    for event in _all(result):
        yield ("" if first else ",\n") + json.dumps(event)
        first = False
    yield "\n]}\n"


def _about(result: Replay) -> dict[str, str]:
    return {
        "model": result.model, "machine": result.machine, "trace": result.trace, "seed": str(result.seed),
        "catalogue": result.digest, "taicang": result.version, "partial": str(result.summary.partial),
        "drawn": f"the first {MOST_DRAWN:,} steps of each instance and requests at most",
    }  # fmt: skip


def _all(result: Replay) -> Iterable[Event]:
    for number, name in ((INSTANCES, "instances"), (REQUESTS, "requests"), (COUNTERS, "load")):
        yield process(number, name)
        yield {"ph": "M", "pid": number, "tid": 0, "name": "process_sort_index", "args": {"sort_index": number}}
    for at in result.log.names:
        yield thread(INSTANCES, at, f"instance {at}")
        yield from _steps(at, result.log.of(at))
    yield from _outages(result)
    yield from _requests(result.table)
    yield from _counters(result.usage)


def _steps(name: int, rows: Any) -> Iterator[Event]:
    parts = (rows[field][:MOST_DRAWN].tolist() for field in ("start", "end", "steps", "sequences", "tokens", "prompts"))
    for start, end, steps, sequences, tokens, prompts in zip(*parts, strict=True):
        decodes = f"decode {sequences}" + (f" x {steps} steps" if steps > 1 else "") if steps else ""
        what = " + ".join(([f"prefill {tokens}"] if tokens else []) + ([decodes] if steps else []))
        yield span(
            (INSTANCES, name), what or "step", start / STAMP, end / STAMP, "prefill" if tokens else "decode",
            decode_steps=steps, sequences=sequences, prompt_tokens=tokens, prompts=prompts,
        )  # fmt: skip


def _outages(result: Replay) -> Iterator[Event]:
    ends = result.table["arrival_s"] + result.table["e2e_s"]
    last_s = float(ends.max()) if len(ends) else 0.0
    for each in result.outages:
        until_s = last_s if each.until_s is None else min(each.until_s, last_s)
        yield span((INSTANCES, each.instance), "down", each.from_s, max(until_s, each.from_s))


def _requests(table: dict[str, Any]) -> Iterator[Event]:
    """Each request as an asynchronous slice, with its phases inside."""
    order = np.argsort(table["arrival_s"], kind="stable")
    order = order[~np.isnan(table["ttft_s"][order])][:MOST_DRAWN]
    names = ("id", "arrival_s", "queue_s", "ttft_s", "moved_s", "e2e_s", "input_tokens", "output_tokens", "instance")
    columns = [table[name][order].tolist() for name in names]
    for number, arrival, queue, ttft, moved, e2e, prompt, answer, instance in zip(*columns, strict=True):
        marks = [("queue", 0.0, queue), ("prefill", queue, ttft)]
        marks += [("move cache", ttft, ttft + moved)] if moved else []
        marks += [("decode", ttft + moved, e2e)]
        about = {"input_tokens": prompt, "output_tokens": answer, "instance": instance}
        for name, begin, end in [(f"request {number}", 0.0, e2e), *marks]:
            if end > begin or name.startswith("request"):
                common = {"cat": "request", "id": number, "pid": REQUESTS, "tid": 0, "name": name}
                yield common | {"ph": "b", "ts": (arrival + begin) * 1e6, "args": about}
                yield common | {"ph": "e", "ts": (arrival + end) * 1e6}


def _counters(usage: dict[str, Any]) -> Iterator[Event]:
    for i, (at, pool) in enumerate(zip(usage["time_s"].tolist(), usage["pool"].tolist(), strict=True)):
        for name in ("busy_ratio", "decoding_sequences", "power_w", "waiting", "running"):
            value = float(usage[name][i])
            if not isnan(value):
                track = name if name in ("waiting", "running") else f"{pool}: {name}"
                yield counter(COUNTERS, track, at, value=value)
