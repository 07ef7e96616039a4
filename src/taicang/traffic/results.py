"""Benchmarks that leave figures of the whole run: MLPerf's logs, AISBench's and MindIE's tables of percentiles, the
summaries of genai-perf, AIPerf, LLMPerf, trtllm-bench, inference-perf and EvalScope.

They become as many equal requests as they state, of the mean lengths that they state, and what was measured of all.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from taicang import reading
from taicang.errors import InvalidInput
from taicang.traffic.bench import MOST, offline, positive
from taicang.traffic.columns import flat, form_of
from taicang.traffic.formats import Format, Row
from taicang.traffic.lines import Lines

NS = 1e-9
DEFAULT_REQUESTS = 1000
"""Of a log that does not say how many there were."""
_STAT = re.compile(r"(?:(mean)|(\d\d)\.00[ _]percentile)")
_MLPERF: Mapping[str, str] = {"first": "ttft_s", "output": "tpot_s"}
"""Word of a line's name -> what it is of; a latency without either is of the whole request."""
_TABLE: Mapping[str, str] = {
    "E2EL": "e2e_s", "GenerateTime": "e2e_s", "TTFT": "ttft_s", "FirstTokenTime": "ttft_s", "TPOT": "tpot_s",
    "DecodeTime": "tpot_s",
}  # fmt: skip
_STATS: Mapping[str, str] = {
    "average": "mean", "avg": "mean", "mean": "mean", "median": "p50",
    "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99",
}  # fmt: skip
_SCALE: Mapping[str, float] = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0}


def of(
    path: Path, lines: Lines, first: str, missing_input: int | None
) -> tuple[Format, Iterator[tuple[int, Row]]] | None:
    """The requests of such a file; None where it is none. Raises ``InvalidInput`` for what it lacks."""
    if first.startswith(("====", ":::MLLOG")):
        return _requests(path, *_mlperf(lines), missing_input)
    names = [name.strip() for name in first.split(",")]
    if names[:1] in (["Performance Parameters"], ["Metric"]) and {"Average", "average"} & set(names):
        return _requests(path, *_table(path, lines), missing_input)
    if names[:1] == ["Metric"] and "avg" in names:
        return _requests(path, *_exported(_rows(lines)), missing_input)
    if names[:1] == ["Run Info"]:
        raise InvalidInput("guidellm's table of runs: its benchmarks.json says the same and is read", where=str(path))
    return None


def of_object(
    path: Path, head: Mapping[str, Any], missing_input: int | None
) -> tuple[Format, Iterator[tuple[int, Row]]] | None:
    """The requests of a summary that is one object; None where it is none."""
    for key, reader in _SUMMARIES.items():
        if key in head:
            return _requests(path, *reader(head), missing_input)
    return None


_EXPORTED: Mapping[str, str] = {
    "time_to_first_token": "ttft_s", "inter_token_latency": "tpot_s", "request_latency": "e2e_s",
}  # fmt: skip
_COUNTED: Mapping[str, str] = {
    "input_sequence_length": "input", "output_sequence_length": "output", "request_count": "many",
}  # fmt: skip


def _exported(head: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """What genai-perf and AIPerf export: an object of statistics, with its unit, for each metric."""
    figures, stated = dict[str, float](), dict[str, float]()
    for name, each in head.items():
        if not isinstance(each, Mapping):
            continue
        if name in _EXPORTED:
            if scale := _SCALE.get(str(each.get("unit", "ms"))):
                stated |= _statistics(each, _EXPORTED[name], scale)
        elif (mean := _number(each.get("avg"))) is not None and name in _COUNTED:
            figures[_COUNTED[name]] = mean
        elif mean is not None and name == "output_token_throughput":
            stated["output_tokens_per_s"] = mean
    config = _measured_phase(head.get("input_config"))
    if "constant" in (_inside(config, "request_rate_mode"), _inside(config, "type")):
        stated["arrivals_cv"] = 0.0
    keys = {"concurrency": "clients", "request_rate": "rate_per_s", "rate": "rate_per_s"}
    return figures, stated | _taken({name: _inside(config, name) for name in keys}, keys)


def _measured_phase(config: Any) -> Any:
    """Of a configuration with phases, the last that is no warm-up; else the configuration."""
    phases = _inside(config, "phases")
    listed = [each for each in (phases if isinstance(phases, list) else ()) if isinstance(each, Mapping)]
    return next((each for each in reversed(listed) if "warmup" not in (each.get("kind"), each.get("name"))), config)


def _rows(lines: Lines) -> dict[str, Any]:
    """The CSV of the same: "Time To First Token (ms)" and its statistics, then metrics of one value."""
    found: dict[str, Any] = {}
    names: list[str] = []
    for cells in csv.reader(text for _, text in lines):
        if cells and cells[0] == "Metric":
            names = cells[1:]
        elif len(cells) > 1:
            metric, _, unit = cells[0].partition(" (")
            values = [cell.replace(",", "") for cell in cells[1:]]
            named = {"avg" if name == "Value" else name: value for name, value in zip(names, values, strict=False)}
            found[metric.strip().lower().replace(" ", "_")] = named | {"unit": unit.rstrip(")")}
    return found


_GUIDELLM: Mapping[str, tuple[str, float]] = {
    "time_to_first_token_ms": ("ttft_s", 1e-3), "inter_token_latency_ms": ("tpot_s", 1e-3),
    "request_latency": ("e2e_s", 1.0),
}  # fmt: skip


def of_metrics(path: Path, run: Mapping[str, Any]) -> tuple[Format, Iterator[tuple[int, Row]]] | None:
    """The requests of a run of guidellm's whose document kept its metrics alone; None where it has none."""
    metrics = run.get("metrics")
    good = {
        name: each["successful"]
        for name, each in (metrics.items() if isinstance(metrics, Mapping) else ())
        if isinstance(each, Mapping) and isinstance(each.get("successful"), Mapping)
    }
    figures, stated = {}, dict[str, float]()
    for name, each in good.items():
        mean, parts = _number(each.get("mean")), each.get("percentiles")
        if name in _GUIDELLM:
            stated |= _statistics({**(parts if isinstance(parts, Mapping) else {}), **each}, *_GUIDELLM[name])
        elif mean is not None and name in ("prompt_token_count", "output_token_count"):
            figures["input" if name[0] == "p" else "output"] = mean
            figures["many"] = _number(each.get("count")) or figures.get("many") or DEFAULT_REQUESTS
        elif mean is not None and name == "output_tokens_per_second":
            stated["output_tokens_per_s"] = mean
    return _requests(path, figures, stated, None) if figures and stated else None


def _inside(config: Any, name: str) -> Any:
    """The value of a key, however deep it lies."""
    if not isinstance(config, Mapping):
        return None
    if config.get(name) is not None and not isinstance(config[name], Mapping):
        return config[name]
    return next((each for value in config.values() if (each := _inside(value, name)) is not None), None)


def _statistics(each: Mapping[str, Any], quantity: str, scale: float) -> dict[str, float]:
    return {
        f"{quantity} {stat}": value * scale
        for name, stat in _STATS.items()
        if (value := _number(each.get(name))) is not None
    }


def _taken(said: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    """The figures of ``said`` that are given and more than nothing, by what they are here."""
    return {quantity: value for name, quantity in names.items() if (value := _number(said.get(name)))}


def _llmperf(head: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """Its latency between tokens counts the first one in: TTFT and the whole say what there is to say."""
    figures = {
        "input": _number(head.get("results_number_input_tokens_mean", head.get("mean_input_tokens"))),
        "output": _number(head.get("results_number_output_tokens_mean", head.get("mean_output_tokens"))),
        "many": _number(head.get("results_num_completed_requests")),
    }
    stated: dict[str, float] = {}
    for metric, quantity in (("ttft_s", "ttft_s"), ("end_to_end_latency_s", "e2e_s")):
        start = f"results_{metric}_"
        named = {
            key.removeprefix(start).removeprefix("quantiles_"): v for key, v in head.items() if key.startswith(start)
        }
        stated |= _statistics(named, quantity, 1.0)
    whole = {"num_concurrent_requests": "clients", "results_mean_output_throughput_token_per_s": "output_tokens_per_s"}
    stated |= _taken(head, whole)
    return {name: value for name, value in figures.items() if value is not None}, stated


def _trtllm(head: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    figures = {
        "input": _number(_inside(head, "avg_input_length")), "output": _number(_inside(head, "avg_output_length")),
        "many": _number(_inside(head, "num_requests")),
    }  # fmt: skip
    stated: dict[str, float] = {}
    streaming = head.get("streaming_metrics")
    for name, quantity in (("ttft_percentiles", "ttft_s"), ("tpot_percentiles", "tpot_s")):
        if isinstance(streaming, Mapping) and isinstance(streaming.get(name), Mapping):
            stated |= _statistics(streaming[name], quantity, 1e-3)
    whole = {"avg_num_concurrent_requests": "clients", "system_output_throughput_tok_s": "output_tokens_per_s"}
    stated |= _taken({key: _inside(head, key) for key in whole}, whole)
    return {name: value for name, value in figures.items() if value is not None}, stated


def _successes(head: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """inference-perf's summary: seconds."""
    good = head.get("successes")
    figures = {
        name: number
        for name, key in (("input", "prompt_len"), ("output", "output_len"))
        if (number := _number(_inner(good, key).get("mean"))) is not None
    }
    if many := _number(_inside(good, "count")):
        figures["many"] = many
    stated: dict[str, float] = {}
    for key, quantity in (
        ("time_to_first_token", "ttft_s"), ("time_per_output_token", "tpot_s"), ("request_latency", "e2e_s"),
    ):  # fmt: skip
        stated |= _statistics(_inner(good, key), quantity, 1.0)
    if rate := _number(_inside(good, "output_tokens_per_sec")):
        stated["output_tokens_per_s"] = rate
    return figures, stated


def _inner(config: Any, name: str) -> Mapping[str, Any]:
    """The object under a key, however deep it lies; empty where there is none."""
    if not isinstance(config, Mapping):
        return {}
    here = config.get(name)
    return here if isinstance(here, Mapping) else next((i for v in config.values() if (i := _inner(v, name))), {})


def _evalscope(head: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    said = {" ".join(str(key).lower().split()): _number(value) for key, value in head.items()}

    def named(names: Mapping[str, str]) -> dict[str, float]:
        return {quantity: value for name, quantity in names.items() if (value := said.get(name)) and value > 0}

    return named(_EVALSCOPE_SIZES), named(_EVALSCOPE)


_EVALSCOPE_SIZES: Mapping[str, str] = {
    "average input tokens per request": "input", "average output tokens per request": "output",
    "total requests": "many", "succeed requests": "many", "success requests": "many",
}  # fmt: skip
_EVALSCOPE: Mapping[str, str] = {
    "average latency (s)": "e2e_s mean", "average time to first token (s)": "ttft_s mean",
    "average time per output token (s)": "tpot_s mean", "number of concurrency": "clients", "concurrency": "clients",
    "request rate (req/s)": "rate_per_s", "output token throughput (tok/s)": "output_tokens_per_s",
}  # fmt: skip
_SUMMARIES = {
    "time_to_first_token": _exported, "request_latency": _exported, "results_num_completed_requests": _llmperf,
    "request_info": _trtllm, "load_summary": _successes, "Average input tokens per request": _evalscope,
    "last_gen_throughput": offline,
}  # fmt: skip
"""Key of a summary -> what reads it."""


def _requests(
    path: Path, figures: dict[str, float], stated: dict[str, float], missing_input: int | None
) -> tuple[Format, Iterator[tuple[int, Row]]]:
    """Equal requests: ``figures`` has their number and mean lengths, as far as they are known."""
    if "output" not in figures:
        raise InvalidInput("states no output tokens: nothing of a language model", where=str(path))
    inputs = figures.get("input") or missing_input
    if not inputs:
        raise InvalidInput("states no length of its prompts: --missing-input gives one", where=str(path))
    if not stated:
        raise InvalidInput("has no mean and no percentile of a latency", where=str(path))
    many = int(figures.get("many") or DEFAULT_REQUESTS)
    if not 1 <= many <= MOST:
        raise InvalidInput(f"{many:,} requests are not between 1 and {MOST:,}", where=str(path))
    notes = ["lengths of single requests (the file has means: all are taken as equal)"]
    if "many" not in figures:
        notes.append(f"the number of its requests (not stated: {many:,})")
    form = Format(kind="benchmark", input="input", output="output", ignored=tuple(notes), stated=stated)
    row = {"input": round(inputs), "output": max(round(figures["output"]), 1)}
    return form, ((1, row) for _ in range(many))


def _mlperf(lines: Lines) -> tuple[dict[str, float], dict[str, float]]:
    """LoadGen's summary (``name : value``) or its detail log (one object a line)."""
    said: dict[str, str] = {}
    for _, text in lines:
        if text.startswith(":::MLLOG"):
            entry = reading.line(text.removeprefix(":::MLLOG"))
            if isinstance(entry, dict) and "key" in entry:
                said[str(entry["key"]).lower()] = str(entry.get("value"))
        elif ":" in text:
            name, _, value = text.partition(":")
            said.setdefault(" ".join(name.lower().split()), value.strip())
    stated: dict[str, float] = {}
    for name, value in said.items():
        stat = _STAT.search(name)
        number = _number(value)
        if not stat or number is None or "ns" not in re.split(r"[^a-z]", name):
            continue
        word = next((quantity for word, quantity in _MLPERF.items() if word in re.split(r"[^a-z]", name)), "e2e_s")
        stated[f"{word} {'mean' if stat[1] else 'p' + stat[2]}"] = number * NS
    figures: dict[str, float] = {}
    tokens, samples = _first(said, "tokens per second", "tokens_per_second"), _first(said, *_SAMPLES)
    if tokens and samples:
        figures["output"] = tokens / samples
        stated["output_tokens_per_s"] = tokens
    many = max(_first(said, name) or 0 for name in ("result_query_count", "samples_per_query"))
    if many > 1:
        figures["many"] = many
    scenario = (said.get("scenario") or said.get("effective_scenario", "")).lower()
    if scenario == "server" and (rate := _first(said, *_RATES)):
        stated["rate_per_s"] = rate
    elif scenario in ("offline", "singlestream"):  # one query of all samples, or one sample after the other
        stated["clients"] = figures.get("many", DEFAULT_REQUESTS) if scenario == "offline" else 1.0
    return figures, stated


_SAMPLES = ("completed samples per second", "result_completed_samples_per_sec", "samples per second",
            "result_samples_per_second")  # fmt: skip
_RATES = ("scheduled samples per second", "result_scheduled_samples_per_sec", "target_qps", "effective_target_qps")


def _first(said: Mapping[str, str], *names: str) -> float | None:
    """The first of the values of keys that end so."""
    for name in names:
        for key, value in said.items():
            if key.endswith(name) and (number := _number(value)):
                return number
    return None


def _number(value: Any) -> float | None:
    try:
        return float(str(value).split()[0])
    except (ValueError, IndexError):
        return None


def _table(path: Path, lines: Lines) -> tuple[dict[str, float], dict[str, float]]:
    """A line for each quantity, its mean and percentiles beside it with their units; AISBench's second file beside."""
    figures: dict[str, float] = {}
    stated: dict[str, float] = {}
    for cells in csv.DictReader(text for _, text in lines):
        row = {str(key).strip().lower(): str(value or "").strip() for key, value in cells.items()}
        name = row.get("performance parameters") or row.get("metric", "")
        if quantity := _TABLE.get(name):
            for column, stat in _STATS.items():
                if (value := _seconds(row.get(column, ""))) is not None:
                    stated.setdefault(f"{quantity} {stat}", value)
            if (count := _number(row.get("n"))) is not None:
                figures["many"] = count
        mean = _number(row.get("average"))
        if name in ("InputTokens", "OutputTokens", "GeneratedTokens") and mean is not None:
            figures["input" if name == "InputTokens" else "output"] = mean
    return figures, stated | _beside(path)


def _seconds(text: str) -> float | None:
    """ "12.5 ms" in seconds; a bare number is in ms, as these tools write."""
    number, unit = _number(text), text.split()[1:] or ["ms"]
    return None if number is None or unit[0] not in _SCALE else number * _SCALE[unit[0]]


def _beside(path: Path) -> dict[str, float]:
    """What AISBench says of the whole run, in a JSON file of the same name."""
    other = path.with_suffix(".json")
    if not other.is_file():
        return {}
    said = reading.document(reading.text(other), str(other))
    found: dict[str, float] = {}
    for key, name in (("Max Concurrency", "clients"), ("Output Token Throughput", "output_tokens_per_s")):
        each = said.get(key) if isinstance(said, dict) else None
        value = _number(next(iter(each.values()), None) if isinstance(each, dict) else each)
        if value:
            found[name] = value
    return found


def listed(
    path: Path, found: tuple[int, Any], columns: Mapping[str, str] | None
) -> tuple[Format, Iterator[tuple[int, Row]]]:
    """Requests that succeeded in one (number, run) of guidellm's document."""
    number, run = found[0], found[1] if isinstance(found[1], dict) else {}
    kept = run.get("requests")
    good = kept.get("successful") if isinstance(kept, dict) else run.get("results")  # its first version kept one list
    rows = [flat(row) for row in good or () if isinstance(row, dict)]
    form = form_of(rows[0], columns, f"{path}:1") if rows else None
    if not rows and (summary := of_metrics(path, run)):
        return replace(summary[0], stated={**summary[0].stated, **_strategy(run)}), summary[1]
    if form is None:
        what = f"benchmarks[{number - 1}].requests.successful has no requests with lengths"
        raise InvalidInput(what, where=f"{path}:1")
    return replace(form, stated=_strategy(run)), ((1, row) for row in rows)


def _strategy(run: Mapping[str, Any]) -> dict[str, float]:
    """How guidellm sent the requests of a run: streams of a closed loop, or a rate."""
    for group in ("config", "args"):
        held = run.get(group)
        said = held.get("strategy") if isinstance(held, dict) else None
        if isinstance(said, dict):
            clients = 1 if said.get("type_") == "synchronous" else said.get("streams") or said.get("max_concurrency")
            found = {"clients": positive(clients), "rate_per_s": positive(said.get("rate"))}
            steady = {"arrivals_cv": 0.0} if said.get("type_") == "constant" else {}
            return steady | {name: value for name, value in found.items() if value is not None}
    return {}
