"""What a Prometheus server scrapes, under the names of vLLM (or SGLang), in the machine's seconds."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from taicang.serve.request import SECOND, Request

FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640,
         2560)  # fmt: skip
BETWEEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
WHOLE = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
LENGTHS = tuple(m * 10**e for e in range(7) for m in (1, 2, 5))
"""Upper ends of the classes, as vLLM has them, so that panels made for it show the same."""

HISTOGRAMS = {
    "time_to_first_token_seconds": ("From the arrival to the first token.", FIRST),
    "inter_token_latency_seconds": ("Between the tokens of an answer that a client waits for.", BETWEEN),
    "request_time_per_output_token_seconds": ("Mean time between the tokens of a request.", BETWEEN),
    "e2e_request_latency_seconds": ("From the arrival to the last token.", WHOLE),
    "request_queue_time_seconds": ("From the arrival to the first step.", WHOLE),
    "request_prefill_time_seconds": ("From the first step to the first token.", WHOLE),
    "request_decode_time_seconds": ("From the first token to the last one.", WHOLE),
    "request_inference_time_seconds": ("From the first step to the last token.", WHOLE),
    "request_prompt_tokens": ("Lengths of prompts.", LENGTHS),
    "request_generation_tokens": ("Lengths of answers.", LENGTHS),
}
SGLANG = {
    "time_to_first_token_seconds": "time_to_first_token_seconds",
    "inter_token_latency_seconds": "inter_token_latency_seconds",
    "e2e_request_latency_seconds": "e2e_request_latency_seconds",
    "request_queue_time_seconds": "queue_time_seconds",
    "num_requests_running": "num_running_reqs",
    "num_requests_waiting": "num_queue_reqs",
    "kv_cache_usage_perc": "token_usage",
    "prompt_tokens_total": "prompt_tokens_total",
    "generation_tokens_total": "generation_tokens_total",
}
"""Its names for what both have."""


class Histogram:
    """Counts by class, and their sum."""

    __slots__ = ("counts", "ends", "total")

    def __init__(self, ends: Sequence[float]) -> None:
        self.ends = ends
        self.counts = [0] * (len(ends) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count ``value``."""
        self.counts[bisect_left(self.ends, value)] += times
        self.total += value * times


class Metrics:
    """Counters since the start; all requests of the machine, those of the background too."""

    def __init__(self) -> None:
        self.histograms = {name: Histogram(ends) for name, (_, ends) in HISTOGRAMS.items()}
        self.counters = dict.fromkeys(
            ("prompt_tokens_total", "generation_tokens_total", "prefix_cache_queries_total",
             "prefix_cache_hits_total", "num_preemptions_total"), 0,
        )  # fmt: skip
        self.ends = dict.fromkeys(("stop", "length", "abort"), 0)
        self._gaps = self.histograms["inter_token_latency_seconds"]

    def gap(self, ticks: int, tokens: int) -> None:
        """``tokens`` came ``ticks`` after those before them."""
        if tokens:
            self._gaps.add(ticks / SECOND, tokens)

    def ended(self, request: Request, why: str) -> None:
        """A request left."""
        seen, counters = self.histograms, self.counters
        counters["num_preemptions_total"] += request.preempted
        counters["generation_tokens_total"] += request.made
        if request.failed or request.first < 0:
            self.ends["abort"] += 1
            return
        self.ends[why] += 1
        counters["prompt_tokens_total"] += request.input
        counters["prefix_cache_queries_total"] += request.input
        counters["prefix_cache_hits_total"] += request.cached
        arrival, started, first, end = (
            t / SECOND for t in (request.arrival, request.started, request.first, request.end)
        )
        seen["time_to_first_token_seconds"].add(first - arrival)
        seen["e2e_request_latency_seconds"].add(end - arrival)
        seen["request_queue_time_seconds"].add(started - arrival)
        seen["request_prefill_time_seconds"].add(first - started)
        seen["request_decode_time_seconds"].add(end - first)
        seen["request_inference_time_seconds"].add(end - started)
        seen["request_prompt_tokens"].add(request.input)
        seen["request_generation_tokens"].add(request.output)
        if request.output > 1:
            seen["request_time_per_output_token_seconds"].add((end - first) / (request.output - 1))


def text(
    metrics: Metrics, gauges: Mapping[str, tuple[str, Iterable[tuple[str, float]]]], model: str, *,
    sglang: bool = False,
) -> str:  # fmt: skip
    """The exposition format. ``gauges``: help, and (engine, value) of each, by name."""
    lines: list[str] = []
    label = f'model_name="{model}"'

    def named(name: str) -> str | None:
        if not sglang:
            return f"vllm:{name}"
        return f"sglang:{SGLANG[name]}" if name in SGLANG else None

    def head(name: str, kind: str, about: str) -> None:
        lines.extend((f"# HELP {name} {about}", f"# TYPE {name} {kind}"))

    for plain, (about, values) in gauges.items():
        name = named(plain)
        if name is not None:
            head(name, "gauge", about)
            lines.extend(f'{name}{{engine="{engine}",{label}}} {value!r}' for engine, value in values)
    for plain, value in metrics.counters.items():
        name = named(plain)
        if name is not None:
            head(name, "counter", plain.removesuffix("_total").replace("_", " ") + ".")
            lines.append(f"{name}{{{label}}} {value}")
    if not sglang:
        head("vllm:request_success_total", "counter", "Requests that ended, by why.")
        lines.extend(
            f'vllm:request_success_total{{finished_reason="{why}",{label}}} {n}' for why, n in metrics.ends.items()
        )
    for plain, seen in metrics.histograms.items():
        name = named(plain)
        if name is not None:
            head(name, "histogram", HISTOGRAMS[plain][0])
            bounds = [*(f"{float(end)}" for end in seen.ends), "+Inf"]
            lines.extend(
                f'{name}_bucket{{le="{end}",{label}}} {n}'
                for end, n in zip(bounds, accumulate(seen.counts), strict=True)
            )
            lines.extend((f"{name}_sum{{{label}}} {seen.total!r}", f"{name}_count{{{label}}} {sum(seen.counts)}"))
    return "\n".join(lines) + "\n"
