"""Requests in any table: lengths and times by the names that gateways, benchmarks and data sets give them.

Nested objects are read by their path ("metrics.input_sequence_length.value"). The user may name the columns; else each
of the names below is looked for, and a file in which two of them could be meant is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from taicang.errors import InvalidInput, UnknownName
from taicang.traffic.formats import Format, Row

UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "date": 0.0}
NAMES: Mapping[str, tuple[str, ...]] = {
    "input": (
        "prompt_tokens", "input_tokens", "num_input_tokens", "number_input_tokens", "n_prompt_tokens", "prompt_len",
        "input_len", "input_length", "usage.prompt_tokens", "usage.input_tokens", "response.body.usage.prompt_tokens",
        "metrics.input_sequence_length.value", "input_metrics.text_tokens",
        "prompt_token_count", "input_ids", "prompt_token_ids",
        "tokens_prompt", "tokens_in", "PromptTokens", "promptTokens", "input.inputTokenCount",
        "gen_ai.usage.input_tokens",
        "attributes.gen_ai.usage.input_tokens", "usage.input", "ai.proxy.usage.prompt_tokens", "isl",
    ),
    "output": (
        "completion_tokens", "output_tokens", "num_output_tokens", "number_output_tokens", "n_completion_tokens",
        "output_len", "output_length", "usage.completion_tokens", "usage.output_tokens",
        "response.body.usage.completion_tokens", "metrics.output_sequence_length.value", "output_metrics.text_tokens",
        "output_token_count",
        "body.max_completion_tokens", "body.max_tokens", "tokens_completion", "tokens_out", "CompletionTokens",
        "completionTokens",
        "output.outputTokenCount", "gen_ai.usage.output_tokens", "attributes.gen_ai.usage.output_tokens",
        "usage.output", "ai.proxy.usage.completion_tokens", "osl",
    ),
    "arrival": (
        "arrival", "arrival_time", "arrival_s", "arrival_ms", "arrival_ns", "start_time", "startTime", "start_time_ns",
        "start_time_ms", "request_start_ns", "metadata.request_start_ns",
        "info.timings.request_start", "timestamp", "timestamp_ms", "time", "ts",
        "created_at", "time_iso8601", "msec", "request_time", "TimeGenerated", "@timestamp", "started_at", "created",
        "Time",
    ),
    "session": ("session_id", "session", "conversation_id", "chat_id"),
    "priority": ("priority",),
    "deadline": ("deadline",),
}  # fmt: skip
"""What a request has, and the columns that it may stand in."""
MEASURED: Mapping[str, tuple[str, ...]] = {
    "ttft_s": (
        "ttft", "ttft_s", "ttft_ms", "time_to_first_token", "time_to_first_token_s", "time_to_first_token_ms",
        "metrics.time_to_first_token.value",
    ),
    "tpot_s": (
        "tpot", "tpot_s", "tpot_ms", "inter_token_latency", "inter_token_latency_s", "inter_token_latency_ms",
        "time_per_output_token_ms", "metrics.inter_token_latency.value",
    ),
    "e2e_s": (
        "e2e", "e2e_s", "e2e_ms", "latency", "latency_s", "latency_ms", "end_to_end_latency_s", "request_latency",
        "request_latency_s", "request_latency_ms", "metrics.request_latency.value",
    ),
}  # fmt: skip
"""What benchmarks note of a request; in ms where the name or a column beside it ("unit") says so."""
LATENCIES: Mapping[str, str] = {"ttft": "ttft_s", "tpot": "tpot_s", "e2e": "e2e_s"}
"""Fields that a user may name beside ``NAMES``, and what they are of."""
RUNS = ("concurrency", "max_concurrency", "clients", "num_concurrent_requests")
"""Columns of tables whose rows sum up many requests."""
FAILED = (
    "error", "error_code", "error_message", "response.body.error", "response.body.error.message", "error.code",
    "error.type", "error.message",
)  # fmt: skip
"""Columns that say why a request failed, or nothing."""
OUTCOME = (
    "metadata.benchmark_phase", "status", "status_code", "statusCode", "http_status", "response.status_code",
)  # fmt: skip
"""Columns that say how a request ended, or in which phase of a benchmark it was sent."""


def parse(text: str) -> dict[str, str]:
    """``--columns arrival=ts:ms,input=prompt_tokens`` as a mapping. Raises ``InvalidInput`` for a part that is none."""
    named: dict[str, str] = {}
    for part in text.split(","):
        field, equals, column = (each.strip() for each in part.partition("="))
        if field not in (*NAMES, *LATENCIES):
            raise UnknownName("field", field, (*NAMES, *LATENCIES), where="--columns")
        if not equals or not column:
            raise InvalidInput(f"expected FIELD=COLUMN, got {part!r}", where="--columns")
        if field in named:
            raise InvalidInput(f"{field} is named twice", where="--columns")
        named[field] = column
    return named


def form_of(row: Row, named: Mapping[str, str] | None, where: str) -> Format | None:
    """The format of rows like ``row`` (flat); None where no names of lengths are known and none are given."""
    named = named or {}
    if not named and _there(row, RUNS) and not _there(row, NAMES["arrival"]):
        raise InvalidInput(
            f"rows that state a {_there(row, RUNS)[0]} are runs of a benchmark, not requests: `taicang score` compares "
            "them", where=where,
        )  # fmt: skip
    whole = {"input", "output"} <= set(named)  # then no other name is guessed
    found = dict(named) if whole else _known(row, where, named)
    if found is None:
        if lacks := [field for field in ("input", "output") if named and field not in named]:
            raise InvalidInput(f"{' and '.join(lacks)} is not named, nor known by its name", where="--columns")
        return None
    column, unit = _unit(found.get("arrival", ""), row)
    found["arrival"] = column
    seen = {quantity: _unit(named[field], row) for field, quantity in LATENCIES.items() if field in named}
    for column in (*(found[field] for field in named if field in found), *(name for name, _ in seen.values())):
        if column and column not in row:
            raise UnknownName("column", column, row, where=where)
    return Format(
        kind="columns",
        input=found["input"],
        output=found["output"],
        time=found["arrival"],
        unit_s=unit,
        session=found.get("session", ""),
        priority=found.get("priority", "priority"),
        deadline=found.get("deadline", "deadline"),
        failed=FAILED,
        outcome=OUTCOME,
        measured=measured(row) | seen,
    )


def measured(row: Row) -> dict[str, tuple[str, float]]:
    """Columns of latencies in rows like ``row`` and their units, by what they are."""
    found = {}
    for quantity, names in MEASURED.items():
        column = next(iter(_there(row, names)), "")
        if column == "inter_token_latency_s" and "number_total_tokens" in row:
            continue  # LLMPerf counts the time to the first token in
        if column:
            unit = row.get(f"{column.removesuffix('.value')}.unit", column.rpartition("_")[2])
            found[quantity] = (column, UNITS.get(str(unit), 1.0) or 1.0)
    return found


def times_of(names: Iterable[str]) -> dict[str, str]:
    """The column of arrivals among ``names``, if there is one and no other."""
    found = _there(dict.fromkeys(names), NAMES["arrival"])
    return {"arrival": found[0]} if len(found) == 1 else {}


def _there(row: Row, names: Iterable[str]) -> list[str]:
    """Columns of ``row`` with these names, however they are spaced and capitalised ("Prompt Tokens")."""
    spelt: dict[str, str] = {}
    for column in row:
        spelt.setdefault(_plain(column), column)
    exact = [name for name in names if name in row]
    return exact or list(dict.fromkeys(spelt[_plain(name)] for name in names if _plain(name) in spelt))


def _plain(name: str) -> str:
    return re.sub(r"[\s\-]+", "_", str(name).strip()).lower()


def _known(row: Row, where: str, named: Mapping[str, str]) -> dict[str, str] | None:
    found = {field: column for field, column in named.items() if field in NAMES}
    for field, known in NAMES.items():
        if field in found:
            continue
        there = _there(row, known)
        there = [name for name in there if row[name] not in (None, "")] or there
        if len(there) > 1 and "request_time" in there:  # beside a time it is how long the request took
            there.remove("request_time")
        if len(there) > 1 and len({str(row[name]) for name in there}) > 1:
            said = f"{' and '.join(there)} could both be the {field}: name it with --columns {field}=..."
            raise InvalidInput(said, where=where)
        if there:
            found[field] = there[0]
    return found if "input" in found and "output" in found else None


def sized(row: Row) -> bool:
    """Whether a row has both lengths, by names that are known: a failed request may have none."""
    return all(_there(row, NAMES[side]) for side in ("input", "output"))


def _unit(column: str, row: Row) -> tuple[str, float]:
    """A time's column and unit: as written behind a colon, by the ending of the name, or what the value looks like."""
    name, colon, unit = column.rpartition(":")
    if colon and unit in UNITS:
        return name, UNITS[unit]
    ending = column.rpartition("_")[2]
    if ending in ("ns", "us", "ms"):
        return column, UNITS[ending]
    try:
        float(row.get(column, 0.0))
    except (TypeError, ValueError):
        return column, UNITS["date"]
    return column, UNITS["s"]


def flat(row: Mapping[str, Any], prefix: str = "", depth: int = 6) -> dict[str, Any]:
    """Nested objects as one row whose keys are paths."""
    made: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict) and depth:
            made |= flat(value, f"{prefix}{key}.", depth - 1)
        else:
            made[f"{prefix}{key}"] = value
    return made
