"""Traces in formats that other tools read: Mooncake JSON lines (with blocks), Vidur CSV."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import isnan
from pathlib import Path

from taicang.errors import InvalidInput
from taicang.output import write_file
from taicang.traffic.trace import Trace


def write(trace: Trace, path: Path) -> list[str]:
    """Write ``trace`` in the format that the suffix names: .jsonl (Mooncake) or .csv (Vidur). Whole or not at all.

    Returns what the format cannot hold.
    """
    if path.suffix not in (".jsonl", ".csv"):
        raise InvalidInput("expected .jsonl (Mooncake) or .csv (Vidur)", where=str(path))
    lines = _mooncake(trace) if path.suffix == ".jsonl" else _vidur(trace)
    write_file(path, (line + "\n" for line in lines), "OUT")
    held = ("blocks", "session", "delay_s", "priority", "deadline_s") if path.suffix == ".csv" else ()
    left_out = [name.removesuffix("_s") for name in held if _has(trace, name)]
    return [f"Vidur CSV has no place for: {', '.join(left_out)}"] if left_out else []


def _has(trace: Trace, name: str) -> bool:
    value = getattr(trace, name)
    return value is not None and len(value) > 0


def _mooncake(trace: Trace) -> Iterator[str]:
    times, sessions = trace.arrival_s.tolist(), trace.session.tolist() if trace.session is not None else None
    ranks = trace.priority.tolist() if trace.priority is not None else None
    deadlines = trace.deadline_s.tolist() if trace.deadline_s is not None else None
    delays = trace.delay_s.tolist() if trace.delay_s is not None else None
    lengths = zip(trace.input_tokens.tolist(), trace.output_tokens.tolist(), strict=True)
    for i, (prompt, answer) in enumerate(lengths):
        row: dict[str, object] = {"timestamp": round(times[i] * 1e3, 6)} if times else {}
        if delays and not isnan(delays[i]):  # it follows an answer
            row = {"delay": round(delays[i] * 1e3, 6)}
        row |= {"input_length": prompt, "output_length": answer}
        if trace.blocks:
            row["hash_ids"] = list(trace.blocks[i])
        if sessions:
            row["session_id"] = sessions[i]
        if ranks:
            row["priority"] = ranks[i]
        if deadlines and not isnan(deadlines[i]):
            row["deadline"] = round(deadlines[i] * 1e3, 6)
        yield json.dumps(row)


def _vidur(trace: Trace) -> Iterator[str]:
    times = trace.arrival_s.tolist()
    yield ("arrived_at," if times else "") + "num_prefill_tokens,num_decode_tokens"
    lengths = zip(trace.input_tokens.tolist(), trace.output_tokens.tolist(), strict=True)
    for i, (prompt, answer) in enumerate(lengths):
        yield (f"{times[i]:.9g}," if times else "") + f"{prompt},{answer}"
