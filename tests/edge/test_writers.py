"""Files as the benchmarks write them, drawn at random: lengths, load and what was measured come out as they went in."""

import json
import random
from dataclasses import dataclass

import numpy as np
import pytest

from taicang.errors import InvalidInput
from taicang.predict.check import _clients, _load
from taicang.traffic.read import read_trace, runs_in

LOADS = {
    "closed": {"clients": 8.0},
    "rate": {"rate_per_s": 3.0},
    "both": {"clients": 64.0, "rate_per_s": 3.0},
}


@dataclass
class Seen:
    """What one client saw of one request."""

    at: float
    inputs: int
    outputs: int
    ttft: float
    gap: float
    failed: bool = False

    @property
    def whole(self):
        return self.ttft + self.gap * (self.outputs - 1)


def drawn(seed):
    """Requests in the order of their times: some fail, the first of them always."""
    rng = random.Random(seed)
    at, made = 0.0, []
    for number in range(rng.randint(12, 40)):
        at += rng.uniform(0.1, 0.5)
        made.append(
            Seen(at, rng.randint(20, 4000), rng.randint(2, 300), rng.uniform(0.03, 0.4), rng.uniform(0.004, 0.04),
                 failed=number == 0 or rng.random() < 0.15)
        )  # fmt: skip
    return made


def as_ended(requests):
    """Most tools write a request down when it has ended."""
    return requests[:1] + sorted(requests[1:], key=lambda each: each.at + each.whole)


def vllm(requests, load, **more):
    """``vllm bench serve --save-detailed``."""
    good = [each for each in requests if not each.failed]
    return json.dumps({
        "backend": "vllm", "label": None, "request_rate": load.get("rate_per_s", "inf"), "burstiness": 1.0,
        "max_concurrency": load.get("clients"), "duration": 9.0, "completed": len(good),
        "failed": len(requests) - len(good), "request_goodput": None,
        "input_lens": [each.inputs for each in requests],
        "output_lens": [0 if each.failed else each.outputs for each in requests],
        "ttfts": [0.0 if each.failed else each.ttft for each in requests],
        "itls": [[] if each.failed else [each.gap] * (each.outputs - 1) for each in requests],
        "start_times": [1e5 + each.at for each in requests],
        "errors": [random.Random(i).choice(["", "Bad Gateway"]) if each.failed else ""
                   for i, each in enumerate(requests)],
    } | more)  # fmt: skip


def sglang(requests, load):
    """``sglang.bench_serving --output-details``: no start times, an infinite rate as a number."""
    made = json.loads(vllm(requests, load))
    del made["start_times"], made["failed"]
    made |= {"request_rate": load.get("rate_per_s", float("inf")), "accept_length": None, "server_info": {"a": {}}}
    return json.dumps(made)


def aiperf(requests, _load):
    """AIPerf's records: a value and a unit each; those of failures have none of the usual metrics."""
    rows = []
    for number, each in enumerate(as_ended(requests)):
        metrics = {
            "input_sequence_length": {"value": each.inputs, "unit": "tokens"},
            "output_sequence_length": {"value": each.outputs, "unit": "tokens"},
            "time_to_first_token": {"value": each.ttft * 1e3, "unit": "ms"},
            "inter_token_latency": {"value": each.gap * 1e3, "unit": "ms"},
            "request_latency": {"value": each.whole * 1e3, "unit": "ms"},
        }
        rows.append({
            "metadata": {"session_num": number, "request_start_ns": 1760000000 * 10**9 + round(each.at * 1e9),
                         "request_ack_ns": None, "benchmark_phase": "profiling"},
            "metrics": {"error_isl": {"value": each.inputs, "unit": "tokens"}} if each.failed else metrics,
            "error": {"code": 500, "type": "X", "message": "no"} if each.failed else None,
        })  # fmt: skip
    warm = [row | {"metadata": row["metadata"] | {"benchmark_phase": "warmup"}} for row in rows[-1:]]
    return "\n".join(map(json.dumps, warm + rows))


def guidellm(requests, load):
    """guidellm's second schema: successes and failures apart, nulls where a figure is unknown."""

    def row(each):
        return {
            "request_start_time": 1e9 + each.at, "prompt_tokens": each.inputs, "output_tokens": each.outputs,
            "input_metrics": {"text_tokens": None}, "output_metrics": {"text_tokens": each.outputs},
            "info": {"timings": {"request_start": 1e9 + each.at}}, "cached_tokens": None,
            "request_latency": each.whole, "time_to_first_token_ms": each.ttft * 1e3,
            "inter_token_latency_ms": each.gap * 1e3, "time_per_output_token_ms": None,
        }  # fmt: skip

    strategy = {"type_": "poisson" if "rate_per_s" in load else "concurrent", "rate": load.get("rate_per_s")}
    strategy |= {"max_concurrency": load.get("clients")} if "rate_per_s" in load else {"streams": load["clients"]}
    ended = as_ended(requests)
    told = {"successful": [row(each) for each in ended if not each.failed],
            "errored": [row(each) for each in ended if each.failed], "incomplete": [], "total": None}  # fmt: skip
    run = {"type_": "generative_benchmark", "config": {"strategy": strategy}, "requests": told}
    return json.dumps({"metadata": {"version": 2}, "benchmarks": [run]}, indent=1)


def llmperf(requests, _load):
    """LLMPerf's individual responses: an array, without times; its gap counts the first token in."""
    return json.dumps([
        {"error_code": 429 if each.failed else None, "error_msg": "", "ttft_s": each.ttft,
         "inter_token_latency_s": each.whole / each.outputs, "end_to_end_latency_s": each.whole,
         "number_input_tokens": each.inputs, "number_output_tokens": 0 if each.failed else each.outputs,
         "number_total_tokens": each.inputs + each.outputs}
        for each in requests
    ])  # fmt: skip


WRITERS = {form.__name__: form for form in (vllm, sglang, aiperf, guidellm, llmperf)}


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 60))])
def test_requests_come_out_as_they_went_in(name, load, seed, tmp_path):
    requests, path = drawn(seed), tmp_path / f"{name}.json"
    path.write_text(WRITERS[name](requests, LOADS[load]), encoding="utf-8")
    good, found = [each for each in requests if not each.failed], read_trace(path)
    assert found.input_tokens.tolist() == [each.inputs for each in good]
    assert found.output_tokens.tolist() == [each.outputs for each in good]
    for quantity, values in (("ttft_s", "ttft"), ("tpot_s", "gap"), ("e2e_s", "whole")):
        if (name, quantity) != ("llmperf", "tpot_s"):
            assert np.allclose(found.measured[quantity], [getattr(each, values) for each in good], rtol=1e-9)
    if name not in ("sglang", "llmperf"):
        assert np.allclose(found.arrival_s, [each.at - good[0].at for each in good], atol=1e-5)
    if name not in ("aiperf", "llmperf"):  # their requests do not say how they were sent
        assert found.stated == LOADS[load]
    if name != "guidellm":
        assert f"{len(requests) - len(good)} failed requests left out" in found.notes


@pytest.mark.parametrize(("clients", "binds"), [(4, True), (400, False)])
def test_of_a_rate_and_a_concurrency_the_nearer_limit_is_the_load(clients, binds, tmp_path):
    """Two requests a second that take three seconds each are six at a time: 400 clients are no loop, four are."""
    whole = 3.0 if not binds else 2.0
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({
        "request_rate": 2.0 if not binds else 50.0, "max_concurrency": clients, "completed": 100,
        "total_input_tokens": 5000, "total_output_tokens": 2000, "output_throughput": 40.0 * 0.95,
        "mean_e2el_ms": whole * 1e3,
    }), encoding="utf-8")  # fmt: skip
    assert _clients(read_trace(path)) == (clients if binds else 0)


def test_a_rate_without_end_sends_all_at_once_and_bursts_are_kept(tmp_path):
    path = tmp_path / "bench.json"
    whole = {"completed": 60, "total_input_tokens": 6000, "total_output_tokens": 600, "output_throughput": 9.0,
             "mean_e2el_ms": 900.0}  # fmt: skip
    for rate in ("inf", float("inf")):
        path.write_text(json.dumps(whole | {"request_rate": rate, "max_concurrency": None}), encoding="utf-8")
        assert _clients(read_trace(path)) == 60
    path.write_text(json.dumps(whole | {"request_rate": "trace"}), encoding="utf-8")
    assert "rate_per_s" not in read_trace(path).stated
    path.write_text(json.dumps(whole | {"request_rate": 5.0, "burstiness": 0.25}), encoding="utf-8")
    trace, notes = _load(read_trace(path), 0, 0, stated=False)
    gaps = np.diff(trace.arrival_s)
    assert gaps.std() / gaps.mean() > 1.4  # drawn with 2
    assert "bursts" in notes[0]


def test_logs_leave_failures_out_and_tell_a_time_from_how_long_it_took(tmp_path):
    path = tmp_path / "access.jsonl"
    rows = [{"time_iso8601": f"2026-01-01T00:00:0{i}+00:00", "status": status, "request_time": 0.5 * i,
             "prompt_tokens": 10 * i, "completion_tokens": 5}
            for i, status in enumerate((200, "499", 500, "success", "failure", 200), 1)]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = read_trace(path)
    assert found.input_tokens.tolist() == [10, 40, 60]
    assert found.arrival_s.tolist() == [0.0, 3.0, 5.0]


def test_several_runs_in_one_file_each_keep_their_load(tmp_path):
    path, requests = tmp_path / "sweep.jsonl", drawn(3)
    path.write_text("\n".join(sglang(requests, load) for load in LOADS.values()), encoding="utf-8")
    assert runs_in(path) == len(LOADS)
    for number, load in enumerate(LOADS.values(), 1):
        assert read_trace(path, run=number).stated == load


@pytest.mark.parametrize(("unit", "scale"), [("ns", 1e9), ("ms", 1e3), ("s", 1.0), ("sec", 1.0), ("fortnights", 0.0)])
def test_exports_are_read_in_the_unit_that_they_name(unit, scale, tmp_path):
    path = tmp_path / "profile_export_aiperf.json"
    path.write_text(json.dumps({
        "input_config": {"loadgen": {"concurrency": None, "request_rate": 4.0, "request_rate_mode": "constant"}},
        "time_to_first_token": {"unit": "ms", "avg": 120.0}, "time_to_second_token": None,
        "request_latency": {"unit": unit, "avg": 1.5 * scale, "p99": 2.5 * scale, "std": None},
        "input_sequence_length": {"unit": "tokens", "avg": 900.0}, "request_count": {"unit": "requests", "avg": 30},
        "output_sequence_length": {"unit": "tokens", "avg": 150.0},
    }, indent=1), encoding="utf-8")  # fmt: skip
    whole = {"e2e_s mean": 1.5, "e2e_s p99": 2.5} if scale else {}
    assert read_trace(path).stated == pytest.approx(
        {"ttft_s mean": 0.12, "rate_per_s": 4.0, "arrivals_cv": 0.0} | whole
    )


@pytest.mark.parametrize(("scenario", "clients"), [("Offline", 512), ("SingleStream", 1), ("Server", 0)])
def test_loadgen_s_scenarios_are_the_load(scenario, clients, tmp_path):
    """Offline is one query of all samples, whatever Little's law makes of its mean latency."""
    path = tmp_path / "mlperf_log_detail.txt"
    said = {"effective_scenario": scenario, "result_query_count": 1, "samples_per_query": 512,
            "result_samples_per_second": 8.0, "result_tokens_per_second": 2400.0, "result_mean_latency_ns": 9 * 10**9,
            "effective_target_qps": 8.1}  # fmt: skip
    path.write_text("".join(f":::MLLOG {json.dumps({'key': key, 'value': value})}\n" for key, value in said.items()))
    found = read_trace(path, missing_input=900)
    assert (_clients(found), found.stated.get("rate_per_s")) == (clients, 8.1 if scenario == "Server" else None)
    assert found.output_tokens[0] == 300


def test_guidellm_s_table_is_refused_by_name(tmp_path):
    path = tmp_path / "benchmarks.csv"
    path.write_text("Run Info,Run Info,Benchmark\nRun ID,Run Index,Type\n,,\na,0,b\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"benchmarks\.json"):
        read_trace(path)
