"""What benchmarks of serving engines save: the requests that they sent, and what they saw of each.

vLLM and SGLang write one object for a run, with lists of a value for each request (where they were asked to keep them)
beside figures of the whole, and SGLang's benchmark of one batch a line for each; guidellm writes one document with a
list of runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isfinite, nan
from pathlib import Path
from typing import Any

from taicang.errors import InvalidInput
from taicang.traffic import cells
from taicang.traffic.formats import Format, Row

LISTS = ("input_lens", "output_lens", "start_times", "ttfts", "itls", "errors")
STATS = {"mean": "mean", "median": "p50", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99"}
STATED = {"ttft": "ttft_s", "tpot": "tpot_s", "e2el": "e2e_s", "e2e_latency": "e2e_s"}
MEASURED = {name: (name, 1.0) for name in ("ttft_s", "tpot_s", "e2e_s")}
BATCH = ("batch_size", "input_len", "output_len")
"""Of a batch of equal requests that are sent at once."""
WHOLE = {
    "ttft": "ttft_s mean", "prefill_latency": "ttft_s mean", "latency": "e2e_s mean", "total_latency": "e2e_s mean",
    "median_decode_latency": "tpot_s p50",
}  # fmt: skip
TOTALS = ("completed", "total_input_tokens", "total_output_tokens")
TRACED = "trace"
"""Stands for a rate where requests came at the times of a trace, which the file does not have."""
SECONDS_PER_MS = 1e-3
MOST = 2_000_000
"""Requests of a run with totals alone."""


def is_run(head: Row) -> bool:
    """Whether an object is a run of a benchmark, with its requests or with totals alone."""
    lists = any(set(names) <= set(head) for names in (("input_lens", "output_lens"), BATCH))
    return lists or ("completed" in head and len(set(TOTALS) & set(head)) > 1)


def runs(path: Path, found: Iterable[tuple[int, Row]]) -> tuple[Format, Iterator[tuple[int, Row]]]:
    """Requests of the runs in ``path``, one run after the other; clocks of two runs do not go on from each other."""
    rows: list[tuple[int, Row]] = []
    stated: dict[str, float] = {}
    timed, notes = True, []
    for count, (number, run) in enumerate(found, 1):
        where = f"{path}:{number}"
        if run.get(""):
            raise InvalidInput(run[""], where=where)
        made = _requests(run, where)
        timed = count == 1 and all("start_times" in row for row in made)
        stated = _stated(run, where) if count == 1 else {}
        if not run.get("input_lens") and not set(BATCH) <= set(run):
            notes = ["lengths of single requests (the file has totals: all are taken as equal)"]
        rows += [(number, row) for row in made]
        if run.get("ramp_up_strategy") and not timed and count == 1:
            notes.append("the ramp of its rate")
    if count > 1:
        notes.append(f"the time between {count} runs in one file")
    form = Format(
        kind="benchmark", input="input_lens", output="output_lens", time="start_times" if timed else "",
        failed=("errors",), ignored=tuple(notes), measured=MEASURED if rows and "ttft_s" in rows[0][1] else {},
        stated=stated,
    )  # fmt: skip
    return form, iter(sorted(rows, key=lambda row: row[1]["start_times"]) if timed else rows)


def _requests(run: Row, where: str) -> list[Row]:
    if set(BATCH) <= set(run):
        many, prompt, answer = (_count(run[name], name, where) for name in BATCH)
        return [{"input_lens": prompt, "output_lens": answer}] * _few(many, where)
    if not run.get("input_lens") and set(TOTALS) <= set(run):
        many, prompts, answers = (_count(run[name], name, where) for name in TOTALS)
        return [{"input_lens": round(prompts / many), "output_lens": max(round(answers / many), 1)}] * _few(many, where)
    if lacks := sorted(set(TOTALS) - set(run)) if "input_lens" not in run else []:
        raise InvalidInput(f"has neither {' and '.join(lacks)} nor lengths of single requests", where=where)
    columns = {key: run.get(key) for key in LISTS if run.get(key)}
    for name in ("input_lens", "output_lens"):
        if not isinstance(columns.setdefault(name, run.get(name)), list):
            raise InvalidInput(f"{name} is not a list", where=where)
    lengths = {name: len(each) for name, each in columns.items() if isinstance(each, list)}
    if len(set(lengths.values())) > 1 or len(lengths) < len(columns):
        raise InvalidInput(" but ".join(f"{size} {name}" for name, size in lengths.items()), where=where)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for row in rows:
        if row["output_lens"] == 0:  # a connection that broke leaves no words
            row["errors"] = row.get("errors") or "no output"
    return [row | _latencies(row, where) for row in rows] if "ttfts" in columns else list(rows)


def _few(many: int, where: str) -> int:
    if many > MOST:
        raise InvalidInput(f"{many:,} requests are more than {MOST:,}", where=where)
    return many


def _latencies(row: Row, where: str) -> dict[str, float]:
    """TTFT, TPOT and the whole, in seconds, of a request and the gaps between its tokens."""
    try:
        first = cells.measured(row["ttfts"])
    except ValueError as error:
        raise InvalidInput(f"ttfts: {error}", where=where) from None
    gaps = row.get("itls")
    if gaps is None:
        return {"ttft_s": first, "tpot_s": nan, "e2e_s": nan}
    if not isinstance(gaps, list) or not all(isinstance(each, int | float) for each in gaps):
        raise InvalidInput("itls is no list of numbers for each request", where=where)
    # tokens that came together have one gap: what counts is the time over the tokens after the first
    after = max(int(row["output_lens"]) - 1, 1) if isinstance(row["output_lens"], int) else max(len(gaps), 1)
    return {
        "ttft_s": first,
        "tpot_s": sum(gaps) / after if gaps else nan,
        "e2e_s": first + sum(gaps),
    }


def _count(value: Any, name: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < 1e12:
        raise InvalidInput(f"{name} is {value!r}, not a number of at least 1", where=where)
    return int(value)


def _stated(run: Row, where: str) -> dict[str, float]:
    """What a run says of itself as a whole."""
    found: dict[str, float] = {}
    if set(BATCH) <= set(run):
        found = {name: value for key, name in WHOLE.items() if (value := _figure(run, key, where)) is not None}
        return found | {"clients": float(run["batch_size"])}
    for key, unit, name in (
        ("max_concurrency", 1.0, "clients"),
        ("request_rate", 1.0, "rate_per_s"),
        ("output_throughput", 1.0, "output_tokens_per_s"),
    ):
        if (value := _figure(run, key, where)) is not None:
            found[name] = value * unit
    if "clients" not in found and _at_once(run):
        found["clients"] = float(max(len(run.get("input_lens") or ()), int(positive(run.get("completed")) or 0)))
    if (bursts := positive(run.get("burstiness"))) and bursts != 1.0:
        found["arrivals_cv"] = bursts**-0.5  # the shape of gamma gaps
    for metric, quantity in STATED.items():
        for word, stat in STATS.items():
            if (value := _figure(run, f"{word}_{metric}_ms", where)) is not None:
                found[f"{quantity} {stat}"] = value * SECONDS_PER_MS
    return found


def _at_once(run: Row) -> bool:
    """Whether a run says that it sent all its requests at the start, and they do not say when they were."""
    rate = str(run.get("request_rate", "")).lower().removeprefix("+")
    return rate in ("inf", "infinity") and not run.get("ramp_up_strategy") and not run.get("start_times")


def _figure(run: Row, key: str, where: str) -> float | None:
    """What a run states under ``key``, if it does. Raises ``InvalidInput`` for what no rate and no time can be."""
    said = run.get(key)
    if key == "request_rate" and said == TRACED:
        return None
    try:
        if said is not None and not float(said) >= 0.0:
            raise ValueError
    except (TypeError, ValueError):
        raise InvalidInput(f"{key} is {said!r}, not a number of at least 0", where=where) from None
    return positive(said)


def positive(value: Any) -> float | None:
    """A finite number, or none ("inf" is how benchmarks write that all requests are sent at once)."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if isfinite(found) and found > 0 else None


def offline(head: Row) -> tuple[dict[str, float], dict[str, float]]:
    """SGLang's offline throughput: all requests at once, and the seconds that they took together."""
    many, spent = positive(head.get("successful_requests")), positive(head.get("total_latency"))
    read, made = positive(head.get("total_input_tokens")), positive(head.get("total_output_tokens"))
    if not (many and spent and read and made):
        return {}, {}
    return {"many": many, "input": read / many, "output": made / many}, {
        "clients": many,
        "output_tokens_per_s": made / spent,
    }
