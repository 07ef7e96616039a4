"""Load generators of others: how each is called, and where it writes what it saw (in seconds of its own clock)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEY, MODEL, REQUESTS, PROMPT, ANSWER = "sesame", "qwen3-32b", 24, 200, 60


def aiperf(url: str, folder: Path) -> list[str]:
    """Synthetic prompts, four at a time."""
    return [
        "aiperf", "profile", "--model", MODEL, "--url", url, "--endpoint-type", "chat", "--streaming", "--api-key", KEY,
        "--tokenizer", str(folder), "--extra-inputs", "ignore_eos:true", "--no-gpu-telemetry", "--ui", "none",
        "--artifact-dir", str(folder / "aiperf"), "--concurrency", "4", "--request-count", str(REQUESTS), "--isl",
        str(PROMPT), "--osl", str(ANSWER), "--extra-inputs", f"min_tokens:{ANSWER}",
    ]  # fmt: skip


def mooncake(url: str, folder: Path) -> list[str]:
    """A trace in Mooncake's form at its own times, with prefixes that prompts share."""
    trace = folder / "trace.jsonl"
    rows = [
        {"timestamp": 2500 * at, "input_length": 700 + 10 * at, "output_length": ANSWER, "hash_ids": [at % 3, 100 + at]}
        for at in range(REQUESTS)
    ]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = aiperf(url, folder)
    chosen = ["--input-file", str(trace), "--custom-dataset-type", "mooncake_trace", "--fixed-schedule"]
    return common[: common.index("--concurrency")] + chosen + common[-2:]


def seen_by_aiperf(folder: Path) -> dict[str, float]:
    """Its summary."""
    said = json.loads((folder / "aiperf" / "profile_export_aiperf.json").read_text())
    return {
        "requests": said["request_count"]["avg"], "ttft_s": said["time_to_first_token"]["avg"] / 1e3,
        "tpot_s": said["inter_token_latency"]["avg"] / 1e3,
        "output_tokens_per_s": said["output_token_throughput"]["avg"],
    }  # fmt: skip


def guidellm(url: str, folder: Path) -> list[str]:
    """Four streams."""
    return [
        "guidellm", "run", "--backend", f"kind=openai_http,target={url},api_key={KEY},model={MODEL}", "--profile",
        "kind=concurrent,streams=4", "--constraint", f"kind=max_requests,count={REQUESTS}", "--data",
        f"kind=synthetic_text,prompt_tokens={PROMPT},output_tokens={ANSWER}", "--tokenizer",
        f"kind=huggingface_auto,model={folder}", "--output", f"kind=json,path={folder / 'guidellm.json'}",
        "--disable-console",
    ]  # fmt: skip


def seen_by_guidellm(folder: Path) -> dict[str, float]:
    """Its one benchmark."""
    (said,) = json.loads((folder / "guidellm.json").read_text())["benchmarks"]
    metrics: Any = said["metrics"]
    return {
        "requests": metrics["request_totals"]["successful"],
        "ttft_s": metrics["time_to_first_token_ms"]["successful"]["mean"] / 1e3,
        "tpot_s": metrics["inter_token_latency_ms"]["successful"]["mean"] / 1e3,
        "output_tokens_per_s": metrics["output_tokens_per_second"]["successful"]["mean"],
    }


def bench(url: str, folder: Path) -> list[str]:
    """vLLM's own benchmark, four at a time."""
    return [
        "vllm", "bench", "serve", "--backend", "openai", "--base-url", url, "--model", MODEL, "--tokenizer",
        str(folder), "--dataset-name", "random", "--random-input-len", str(PROMPT), "--random-output-len", str(ANSWER),
        "--num-prompts", str(REQUESTS), "--max-concurrency", "4", "--ignore-eos", "--disable-tqdm", "--save-result",
        "--result-dir", str(folder), "--result-filename", "bench.json",
    ]  # fmt: skip


def seen_by_bench(folder: Path) -> dict[str, float]:
    """Its result."""
    said = json.loads((folder / "bench.json").read_text())
    return {
        "requests": said["completed"], "ttft_s": said["mean_ttft_ms"] / 1e3, "tpot_s": said["mean_tpot_ms"] / 1e3,
        "output_tokens_per_s": said["output_throughput"],
    }  # fmt: skip


CLIENTS: dict[str, tuple[str, Callable[[str, Path], list[str]], Callable[[Path], dict[str, float]]]] = {
    "aiperf": ("aiperf", aiperf, seen_by_aiperf),
    "aiperf-mooncake": ("aiperf", mooncake, seen_by_aiperf),
    "guidellm": ("guidellm", guidellm, seen_by_guidellm),
    "vllm-bench": ("vllm", bench, seen_by_bench),
}
"""Environment, command, and what it saw."""
