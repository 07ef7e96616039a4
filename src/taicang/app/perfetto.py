"""A run as trace events (Chrome's JSON format) for ui.perfetto.dev: steps, requests, and counters over time.

Written as an object with ``traceEvents``; times in microseconds. Long runs are cut: a picture of a million steps helps
nobody, and the viewer takes no more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np

from taicang.serve.record import STAMP

if TYPE_CHECKING:
    from taicang.predict.replay import Replay

MOST = 100_000
"""Steps and requests that are drawn, each."""
MICROSECOND = STAMP / 1e6
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
        "drawn": f"the first {MOST:,} steps of each instance and requests at most",
    }  # fmt: skip


def _all(result: Replay) -> Iterable[dict[str, Any]]:
    for number, name in ((INSTANCES, "instances"), (REQUESTS, "requests"), (COUNTERS, "load")):
        yield {"ph": "M", "pid": number, "tid": 0, "name": "process_name", "args": {"name": name}}
        yield {"ph": "M", "pid": number, "tid": 0, "name": "process_sort_index", "args": {"sort_index": number}}
    for at in result.log.names:
        yield {"ph": "M", "pid": INSTANCES, "tid": at, "name": "thread_name", "args": {"name": f"instance {at}"}}
        yield from _steps(at, result.log.of(at))
    yield from _outages(result)
    yield from _requests(result.table)
    yield from _counters(result.usage)


def _steps(name: int, rows: Any) -> Iterator[dict[str, Any]]:
    parts = (rows[field][:MOST].tolist() for field in ("start", "end", "steps", "sequences", "tokens", "prompts"))
    for start, end, steps, sequences, tokens, prompts in zip(*parts, strict=True):
        decodes = f"decode {sequences}" + (f" x {steps} steps" if steps > 1 else "") if steps else ""
        what = " + ".join(([f"prefill {tokens}"] if tokens else []) + ([decodes] if steps else []))
        yield {
            "ph": "X", "pid": INSTANCES, "tid": name, "name": what or "step", "cat": "prefill" if tokens else "decode",
            "ts": start / MICROSECOND, "dur": (end - start) / MICROSECOND,
            "args": {"decode_steps": steps, "sequences": sequences, "prompt_tokens": tokens, "prompts": prompts},
        }  # fmt: skip


def _outages(result: Replay) -> Iterator[dict[str, Any]]:
    ends = result.table["arrival_s"] + result.table["e2e_s"]
    last_s = float(ends.max()) if len(ends) else 0.0
    for each in result.outages:
        until_s = last_s if each.until_s is None else min(each.until_s, last_s)
        yield {
            "ph": "X", "pid": INSTANCES, "tid": each.instance, "name": "down", "cat": "down",
            "ts": each.from_s * 1e6, "dur": max(until_s - each.from_s, 0.0) * 1e6,
        }  # fmt: skip


def _requests(table: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each request as an asynchronous slice, with its phases inside."""
    order = np.argsort(table["arrival_s"], kind="stable")
    order = order[~np.isnan(table["ttft_s"][order])][:MOST]
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


def _counters(usage: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for i, (at, pool) in enumerate(zip(usage["time_s"].tolist(), usage["pool"].tolist(), strict=True)):
        for name in ("busy_ratio", "decoding_sequences", "power_w", "waiting", "running"):
            value = float(usage[name][i])
            if not isnan(value):
                track = name if name in ("waiting", "running") else f"{pool}: {name}"
                yield {"ph": "C", "pid": COUNTERS, "tid": 0, "name": track, "ts": at * 1e6, "args": {"value": value}}
