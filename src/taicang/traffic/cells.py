"""One row of a trace to numbers. What is wrong raises ``ValueError`` with the reason; the reader adds file and line."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite, isinf, nan
from typing import Any

from taicang.traffic.formats import Format

LONGEST = 4_000_000
"""Tokens beyond which a length is taken for an error."""
LATEST_S = 253_402_300_800.0
"""End of the year 9999, where the calendar of dates ends: a time beyond it is no time."""
HTTP_ERRORS = 400
"""Codes from here on are of requests that failed."""
OUTCOMES = {"warmup": "warm-up"} | dict.fromkeys(
    ("failure", "failed", "fail", "error", "errored", "cancelled", "canceled", "timeout", "aborted"), "failed"
)
BLOCKS = (16, 32, 64, 128, 256, 512, 1024)
"""Block sizes in use, to suggest one."""


def length(row: Mapping[str, Any], key: str) -> int | None:
    """Tokens under ``key`` (ids of tokens are counted); None where there are none."""
    value = row.get(key)
    if isinstance(value, list) and set(map(type, value)) <= {int}:
        return len(value)
    if value is None or value == "":
        return None
    if isinstance(value, bool) or (isinstance(value, float) and (not isfinite(value) or value != int(value))):
        raise ValueError(f"{key} is {value!r}, not a number of tokens")
    try:
        return int(value)
    except (ValueError, TypeError):
        raise ValueError(f"{key} is {value!r}, not a number of tokens") from None


def left_out(outcome: Any) -> str:
    """Why a request with such a status or phase is no part of the load: "failed", "warm-up", or ""."""
    said = str(outcome or "").strip().lower()
    if said.isdigit():
        return "failed" if int(said) >= HTTP_ERRORS else ""
    return OUTCOMES.get(said, "")


def measured(value: Any) -> float:
    """A latency as it stands in the file; NaN where there is none."""
    if value is None or value == "":
        return nan
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"a latency is {str(value)[:40]!r}, not a number")
    found = float(value)
    if found < 0 or isinf(found):
        raise ValueError(f"a latency is {value!r}")
    return found


def check(inp: int, out: int, ids: Any, block: int) -> None:
    """Lengths that a request can have, and as many hash ids as its prompt has blocks."""
    for name, tokens in (("input", inp), ("output", out)):
        if tokens < 1:
            raise ValueError(f"{name} of {tokens} tokens" + (": a failed request?" if tokens == 0 else ""))
        if tokens > LONGEST:
            raise ValueError(f"{name} of {tokens} tokens is beyond any model")
    if ids:
        if not isinstance(ids, list) or set(map(type, ids)) != {int}:
            raise ValueError("hash_ids is not a list of whole numbers")
        if len(ids) != -(-inp // block):
            fits = [size for size in BLOCKS if -(-inp // size) == len(ids)]
            hint = f"--block-tokens {fits[0]} would fit" if len(fits) == 1 else "--block-tokens"
            raise ValueError(
                f"{len(ids)} hash ids for {inp} tokens; blocks of {block} make {-(-inp // block)} ({hint})"
            )


def seconds(value: Any, key: str, form: Format) -> float:
    """A time of this format in seconds."""
    if form.unit_s:
        try:
            found = float(value) * form.unit_s
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{key} is {str(value)[:40]!r}, not a number") from None
        if not isfinite(found) or found < 0:
            raise ValueError(f"{key} is {value!r}")
        if found > LATEST_S:
            raise ValueError(f"{key} is {value!r}: as seconds, that is beyond the year 9999")
        return found
    text = str(value)
    try:  # seven-digit fractions, optional fraction, optional zone
        whole = datetime.fromisoformat(text[:19]).replace(tzinfo=UTC)
        rest = text[19:].removesuffix("Z")
        at = max(rest.find("+"), rest.find("-"))
        fraction, zone = (rest, "") if at < 0 else (rest[:at], rest[at:])
        found = float("0" + fraction) if fraction else 0.0
        if zone:
            whole = datetime.fromisoformat(text[:19] + zone)
    except ValueError:
        raise ValueError(f"{key} is {value!r}, not a date such as 2023-11-16 18:15:46.6805900") from None
    return whole.timestamp() + found
