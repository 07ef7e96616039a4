"""Columns of the trace formats that users have, and which of them a file is in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """Columns of one format. ``unit_s`` is the unit of its numeric times (0: dates)."""

    kind: str
    input: str
    output: str
    time: str = ""
    unit_s: float = 1.0
    session: str = ""
    parent: str = ""
    """Names the request that this one follows; ``session`` then names the request itself."""
    delay: str = ""
    """Time after the end of the session's request before it, in the unit of time."""
    priority: str = "priority"
    """Any format may have these two columns. The smaller priority is served first..."""
    deadline: str = "deadline"
    """... and the deadline is the time after the arrival by which a request is to start, in the unit of time."""
    blocks: str = ""
    block: int = 0
    text: str = ""
    """Where a prompt's text may stand in place of its length."""
    ignored: tuple[str, ...] = ()
    """Columns that change the load and are not used."""
    failed: tuple[str, ...] = ()
    """Columns that say why a request failed: such rows are left out and counted."""
    outcome: tuple[str, ...] = ()
    """Columns that may say that it failed, by a word or by HTTP's code, or that it was sent to warm up."""
    measured: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    """Columns of what a benchmark saw, and their units in seconds, by what they are (see ``Trace.measured``)."""
    stated: Mapping[str, float] = field(default_factory=dict)
    """See ``Trace.stated``."""
    expand: Callable[[Row], Iterator[Row]] | None = None
    """Makes several requests of one row."""


def _batch(row: Row) -> Iterator[Row]:
    """AIBrix: all requests of one moment."""
    for each in row["requests"]:
        yield {"timestamp": row.get("timestamp"), **each}


def _calls(row: Row) -> Iterator[Row]:
    """LLMServingSim, agents: calls of a model with a tool between them."""
    tool = None
    for each in row["sub_requests"]:
        made = {"session_id": row.get("session_id"), **each}
        yield made | ({"arrival_time_ns": row.get("arrival_time_ns")} if tool is None else {"delay_ns": tool})
        tool = each.get("tool_duration_ns", 0)


def _batched(row: Row) -> Iterator[Row]:
    """OpenAI's batch files: a request's body, or the usage in the answer to it."""
    answer = row.get("response")
    if isinstance(answer, dict) or row.get("error"):
        body = (answer or {}).get("body") or {}
        usage, failed = body.get("usage") or {}, row.get("error") or body.get("error")
        yield {
            "error": failed or ("" if usage else "no usage"),
            "input_length": usage.get("prompt_tokens", usage.get("input_tokens")),
            "output_length": usage.get("completion_tokens", usage.get("output_tokens")),
        }
        return
    body = row["body"]
    limits = ("max_completion_tokens", "max_output_tokens", "max_tokens")
    prompt, said = body.get("prompt", body.get("input")), body.get("messages")
    yield {
        "messages": said if said is not None else prompt if isinstance(prompt, list) else None,
        "prompt": prompt if isinstance(prompt, str) else None,
        "output_length": next((body[name] for name in limits if body.get(name)), None),
    }


FLAT = Format(
    kind="llmservingsim", input="input_toks", output="output_toks", time="arrival_time_ns", unit_s=1e-9,
    session="session_id", delay="delay_ns",
)  # fmt: skip
CSV_FORMATS = (
    Format(
        kind="azure", input="ContextTokens", output="GeneratedTokens", time="TIMESTAMP", unit_s=0.0,
        ignored=("NumImages",),
    ),
    Format(kind="burstgpt", input="Request tokens", output="Response tokens", time="Timestamp", session="Session ID"),
    Format(kind="vidur", input="num_prefill_tokens", output="num_decode_tokens", time="arrived_at"),
    Format(kind="splitwise", input="prompt_size", output="token_size", time="arrival_timestamp"),
    FLAT,
)  # fmt: skip
BAILIAN = Format(
    kind="bailian", input="input_length", output="output_length", time="timestamp", session="chat_id",
    parent="parent_chat_id", blocks="hash_ids", block=16,
)  # fmt: skip
MOONCAKE = Format(
    kind="mooncake", input="input_length", output="output_length", time="timestamp", unit_s=1e-3,
    session="session_id", delay="delay", blocks="hash_ids", block=512, text="text_input",
)  # fmt: skip
AIBRIX = Format(
    kind="aibrix", input="Prompt Length", output="Output Length", time="timestamp", unit_s=1e-3, expand=_batch
)
AGENTS = Format(
    kind="llmservingsim", input="input_toks", output="output_toks", time="arrival_time_ns", unit_s=1e-9,
    session="session_id", delay="delay_ns", expand=_calls,
)  # fmt: skip
CUSTOM = Format(kind="custom", input="prompt_len", output="output_tokens", text="prompt")
"""``vllm bench serve --dataset-name custom``."""


BATCH = Format(
    kind="openai-batch", input="input_length", output="output_length", text="messages", failed=("error",),
    expand=_batched,
)  # fmt: skip


def of_header(names: Collection[str]) -> Format | None:
    """The format of a CSV file with these columns."""
    return next((form for form in CSV_FORMATS if form.input in names and form.output in names), None)


def of_object(keys: Collection[str]) -> Format | None:
    """The format of JSON lines whose first object has these keys."""
    if "custom_id" in keys and {"body", "response"} & set(keys):
        return BATCH
    if "chat_id" in keys and "input_length" in keys:
        return BAILIAN
    if {"input_length", "text_input", "messages"} & set(keys):
        return MOONCAKE
    if "sub_requests" in keys:
        return AGENTS
    if "requests" in keys and "timestamp" in keys:
        return AIBRIX
    if "input_toks" in keys:
        return FLAT
    return CUSTOM if "prompt" in keys else None


KINDS = (*dict.fromkeys(form.kind for form in (*CSV_FORMATS, BAILIAN, MOONCAKE, AIBRIX, CUSTOM, BATCH)), "columns")
