"""Results that benchmarks leave: MLPerf's logs, AISBench's and MindIE's tables, several runs, batch files, gateways."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from taicang.app.main import cli
from taicang.errors import InvalidInput
from taicang.predict.check import _in_flight
from taicang.traffic.columns import parse
from taicang.traffic.read import read_trace, runs_in

SUMMARY = """\
================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : Server
Mode     : PerformanceOnly
Completed samples per second    : 8.00
Completed tokens per second: 2400.00
Result is : VALID
  Performance constraints satisfied : Yes
TTFT Early Stopping Result:
 * Run successful.

================================================
Additional Stats
================================================
Scheduled samples per second : 8.05
Mean latency (ns)               : 9000000000
99.00 percentile latency (ns)   : 12000000000

Completed tokens per second                 : 2400.00
Mean First Token latency (ns)               : 200000000
50.00 percentile first token latency (ns)   : 180000000
97.00 percentile first token latency (ns)   : 400000000
99.00 percentile first token latency (ns)   : 600000000

Mean Time per Output Token (ns)                : 30000000
99.00 percentile time to output token (ns)   : 45000000

================================================
Test Parameters Used
================================================
samples_per_query : 1
target_qps : 8.1
"""
DETAIL = [
    ("effective_scenario", "Server"), ("result_query_count", 4000), ("result_completed_samples_per_sec", 8.0),
    ("result_completed_tokens_per_second", 2400.0), ("result_scheduled_samples_per_sec", 8.05),
    ("result_mean_latency_ns", 9000000000), ("result_first_token_mean_latency_ns", 200000000),
    ("result_first_token_99.00_percentile_latency_ns", 600000000),
    ("result_time_per_output_token_mean_ns", 30000000),
    ("result_time_per_output_token_99.00_percentile_ns", 45000000),
]  # fmt: skip
AISBENCH = """\
Performance Parameters,Stage,Average,Min,Max,Median,P75,P90,P99,N
E2EL,total,2048.2 ms,1729.6 ms,3450.9 ms,2491.8 ms,2750 ms,3184.4 ms,3424.8 ms,512
TTFT,total,50.3 ms,50.1 ms,52.9 ms,50.2 ms,51 ms,52 ms,52.5 ms,512
TPOT,total,10.6 ms,10.5 ms,10.8 ms,10.6 ms,10.7 ms,10.7 ms,10.8 ms,512
InputTokens,total,1512.5,1481.0,1566.0,1511.0,1520,1533,1561,512
OutputTokens,total,287.1,200.0,407.0,251.0,300,380,401,512
"""
MINDIE = """\
Metric,average,max,min,P75,P90,SLO_P90,P99,N
FirstTokenTime,171.1 ms,400 ms,90 ms,180 ms,200 ms,201 ms,390 ms,128
DecodeTime,40.5 ms,80 ms,30 ms,42 ms,44 ms,44 ms,60 ms,128
GenerateTime,10.4 s,12 s,9 s,11 s,11.5 s,11.5 s,12 s,128
InputTokens,1024,1024,1024,1024,1024,1024,1024,128
GeneratedTokens,256,256,256,256,256,256,256,128
"""
RUNS = [
    {"max_concurrency": clients, "input_lens": [500] * 6, "output_lens": [40] * 6, "ttfts": [0.05 * clients] * 6,
     "itls": [[0.01] * 39] * 6}
    for clients in (1, 2, 4)
]  # fmt: skip


def test_mlperf_summary_and_detail_say_the_same(tmp_path):
    summary, detail = tmp_path / "mlperf_log_summary.txt", tmp_path / "mlperf_log_detail.txt"
    summary.write_text(SUMMARY)
    detail.write_text("".join(f":::MLLOG {json.dumps({'key': key, 'value': value})}\n" for key, value in DETAIL))
    with pytest.raises(InvalidInput, match="--missing-input"):
        read_trace(summary)
    one, two = read_trace(summary, missing_input=294), read_trace(detail, missing_input=294)
    for name, value in (
        ("ttft_s mean", 0.2), ("ttft_s p99", 0.6), ("tpot_s mean", 0.03), ("tpot_s p99", 0.045), ("e2e_s mean", 9.0),
        ("output_tokens_per_s", 2400.0), ("rate_per_s", 8.05),
    ):  # fmt: skip
        assert one.stated[name] == pytest.approx(value)
        assert two.stated[name] == pytest.approx(value)
    assert (len(two), two.input_tokens[0], two.output_tokens[0]) == (4000, 294, 300)
    assert len(one) == 1000
    assert any("not stated: 1,000" in note for note in one.notes)


def test_tables_of_percentiles_have_lengths_and_latencies(tmp_path):
    first, second = tmp_path / "gsm8k.csv", tmp_path / "result_perf.csv"
    first.write_text(AISBENCH)
    (tmp_path / "gsm8k.json").write_text(
        json.dumps({"Max Concurrency": {"total": 64}, "Output Token Throughput": {"total": "5400.2 token/s"}})
    )
    second.write_text(MINDIE)
    one, two = read_trace(first), read_trace(second)
    assert (len(one), one.input_tokens[0], one.output_tokens[0]) == (512, 1512, 287)
    assert one.stated["ttft_s p50"] == pytest.approx(0.0502)
    assert (one.stated["clients"], one.stated["output_tokens_per_s"]) == (64.0, 5400.2)
    assert (len(two), two.input_tokens[0], two.output_tokens[0]) == (128, 1024, 256)
    assert two.stated["tpot_s mean"] == pytest.approx(0.0405)
    assert two.stated["e2e_s p99"] == pytest.approx(12.0)
    second.write_text(MINDIE.replace("GeneratedTokens", "Rubbish"))
    with pytest.raises(InvalidInput, match="no output tokens"):
        read_trace(second)


def statistics(mean, **unit):
    return {"avg": mean, "p50": mean, "p90": 1.2 * mean, "p99": 1.5 * mean, "min": 0.1, "max": 9e9, **unit}


EXPORTED = {
    "request_throughput": {"unit": "requests/sec", "avg": 4.0},
    "request_latency": statistics(1500.0, unit="ms"),
    "time_to_first_token": statistics(100.0, unit="ms"),
    "inter_token_latency": statistics(10.0, unit="ms"),
    "output_token_throughput": {"unit": "tokens/sec", "avg": 600.0},
    "input_sequence_length": statistics(1000.0, unit="tokens"),
    "output_sequence_length": statistics(150.0, unit="tokens"),
    "request_count": {"unit": "count", "avg": 40.0},
}
EXPORTED_CSV = """\
Metric,avg,min,max,p99,p95,p90,p75,p50,p25
Time To First Token (ms),100.0,50,200,150,130,120,110,100,90
Inter Token Latency (ms),10,5,20,15,13,12,11,10,9
Request Latency (ms),"1,500.0",700,3000,2250,2000,1800,1600,1500,1400
Output Sequence Length (tokens),150,100,200,199,190,180,170,150,120
Input Sequence Length (tokens),"1,000.0",900,1100,1090,1080,1070,1050,1000,950

Metric,Value
Output Token Throughput (tokens/sec),600
Request Count (count),40
"""
LLMPERF = {
    "version": "2023-08-31", "model": "m", "mean_input_tokens": 1000, "mean_output_tokens": 150,
    "num_concurrent_requests": 16, "results_inter_token_latency_s_mean": 0.0107, "results_ttft_s_mean": 0.1,
    "results_ttft_s_quantiles_p50": 0.1, "results_ttft_s_quantiles_p99": 0.15,
    "results_end_to_end_latency_s_mean": 1.5, "results_number_input_tokens_mean": "1000.0",
    "results_number_output_tokens_mean": 150.0, "results_num_completed_requests": 40,
    "results_mean_output_throughput_token_per_s": 600.0,
}  # fmt: skip
TRTLLM = {
    "engine": {"backend": "pytorch"},
    "request_info": {"num_requests": 40, "avg_num_concurrent_requests": 16.0, "avg_input_length": 1000.0,
                     "avg_output_length": 150.0},
    "performance": {"system_output_throughput_tok_s": 600.0},
    "streaming_metrics": {"ttft_percentiles": {"average": 100.0, "p50": 100.0, "p99": 150.0},
                          "tpot_percentiles": {"average": 10.0, "p99": 15.0}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "clients"),
    [
        ("genai.json", json.dumps(EXPORTED | {"input_config": {"concurrency": 16}}), 16.0),
        ("perf.json", json.dumps(EXPORTED | {"input_config": {"analyzer": {"stimulus": {"concurrency": 16}}}}), 16.0),
        ("aiperf.json", json.dumps({"input_config": {"loadgen": {"concurrency": 16}}} | EXPORTED, indent=1), 16.0),
        ("genai.csv", EXPORTED_CSV, None),
        ("llmperf.json", json.dumps(LLMPERF), 16.0),
        ("report.json", json.dumps(TRTLLM, indent=2), 16.0),
    ],
)  # fmt: skip
def test_summaries_of_whole_runs_say_the_same_whoever_wrote_them(name, text, clients, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    found = read_trace(path)
    assert (len(found), found.input_tokens[0], found.output_tokens[0]) == (40, 1000, 150)
    assert found.stated.get("clients") == clients
    known = {"ttft_s mean": 0.1, "ttft_s p50": 0.1, "ttft_s p99": 0.15, "tpot_s mean": 0.01, "tpot_s p99": 0.015,
             "e2e_s mean": 1.5, "output_tokens_per_s": 600.0}  # fmt: skip
    assert {"ttft_s mean", "ttft_s p99", "output_tokens_per_s"} <= set(found.stated)
    for stat, value in known.items():
        assert found.stated.get(stat, value) == pytest.approx(value)
    assert ("tpot_s mean" in found.stated) == (name != "llmperf.json")  # it counts the first token in


def test_guidellm_s_first_version_kept_one_list(tmp_path):
    row = {"type": "text_generation_result", "prompt_token_count": 100, "output_token_count": 20, "start_time": 1e9}
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"benchmarks": [{"mode": "synchronous", "results": [row] * 3}]}))
    assert (len(read_trace(path)), read_trace(path).output_tokens[0]) == (3, 20)


def test_each_of_several_runs_is_compared(tmp_path):
    path = tmp_path / "sweep.jsonl"
    path.write_text("\n".join(map(json.dumps, RUNS)) + "\n")
    assert runs_in(path) == 3
    assert read_trace(path, run=3).stated["clients"] == 4.0
    assert len(read_trace(path)) == 18
    with pytest.raises(InvalidInput, match="has 3 runs, no run 4"):
        read_trace(path, run=4)
    job = ["check", str(path), "qwen3-8b", "--on", "hgx-h100", "--tp", "1", "--no-causes", "--json"]
    said = json.loads(CliRunner().invoke(cli, job, standalone_mode=False).output)
    assert [run["clients"] for run in said["runs"]] == [1, 2, 4]
    alone = json.loads(CliRunner().invoke(cli, [*job, "--run", "2"], standalone_mode=False).output)
    assert alone["figures"] == said["runs"][1]["figures"]


def test_guidellm_runs_are_picked_and_say_how_they_sent(tmp_path):
    good = [{"prompt_tokens": 100, "output_tokens": 20, "time_to_first_token_ms": 30.0, "request_latency": 0.5}] * 3
    runs = [{"config": {"strategy": {"type_": "concurrent", "streams": n}}, "requests": {"successful": good}}
            for n in (2, 8)]  # fmt: skip
    path = tmp_path / "benchmarks.json"
    path.write_text(json.dumps({"benchmarks": runs}))
    assert runs_in(path) == 2
    assert read_trace(path, run=2).stated == {"clients": 8.0}
    assert any("first of 2 runs" in note for note in read_trace(path).notes)


def test_openai_batch_files_are_read(tmp_path):
    asked, answered = tmp_path / "batch.jsonl", tmp_path / "batch_output.jsonl"
    bodies = [
        {"model": "m", "messages": [{"role": "user", "content": "word " * 40}], "max_completion_tokens": 50},
        {"model": "m", "prompt": "x" * 400, "max_tokens": 10},
    ]
    asked.write_text("\n".join(json.dumps({"custom_id": str(i), "body": body}) for i, body in enumerate(bodies)))
    trace = read_trace(asked, count=lambda text: -(-len(text) // 4))
    assert trace.input_tokens.tolist() == [50, 100]
    assert trace.output_tokens.tolist() == [50, 10]
    with pytest.raises(InvalidInput, match="--tokenizer"):
        read_trace(asked)
    usage = {"prompt_tokens": 12, "completion_tokens": 7}
    lines = [
        {"custom_id": "0", "response": {"status_code": 200, "body": {"usage": usage}}, "error": None},
        {"custom_id": "1", "response": {"status_code": 400, "body": {"error": {"message": "no"}}}, "error": None},
        {"custom_id": "2", "response": None, "error": {"code": "batch_expired"}},
    ]
    answered.write_text("\n".join(map(json.dumps, lines)))
    trace = read_trace(answered)
    assert (trace.input_tokens.tolist(), trace.output_tokens.tolist()) == ([12], [7])
    assert any("2 failed requests" in note for note in trace.notes)


@pytest.mark.parametrize(
    "row",
    [
        {"timestamp": "2026-01-01T00:00:00Z", "input": {"inputTokenCount": 10}, "output": {"outputTokenCount": 4}},
        {"TimeGenerated": "2026-01-01T00:00:00Z", "PromptTokens": 10, "CompletionTokens": 4},
        {"created_at": "2026-01-01T00:00:00Z", "tokens_prompt": 10, "tokens_completion": 4},
        {"@timestamp": "2026-01-01T00:00:00Z", "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 4},
        {"startTime": "2026-01-01T00:00:00Z", "prompt_tokens": 10, "completion_tokens": 4,
         "usage": {"prompt_tokens": 10, "completion_tokens": 4}},
    ],
)  # fmt: skip
def test_logs_of_gateways_are_traces(row, tmp_path):
    path = tmp_path / "log.jsonl"
    later = json.loads(json.dumps(row).replace("00:00:00", "00:00:03"))
    path.write_text(json.dumps(row) + "\n" + json.dumps(later) + "\n")
    trace = read_trace(path)
    assert (trace.input_tokens.tolist(), trace.output_tokens.tolist()) == ([10, 10], [4, 4])
    assert trace.span_s == 3.0


def test_what_is_named_stands_over_what_is_known(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("ts,time,prompt_tokens,completion_tokens,first\n5,1,10,4,20\n7,2,10,4,30\n")
    with pytest.raises(InvalidInput, match="could both be the arrival"):
        read_trace(path)
    trace = read_trace(path, columns=parse("arrival=ts,ttft=first:ms"))
    assert trace.span_s == 2.0
    assert np.allclose(trace.measured["ttft_s"], [0.02, 0.03])
    with pytest.raises(InvalidInput, match="frist"):
        read_trace(path, columns=parse("arrival=ts,ttft=frist"))


NEWER = {
    "one_batch.jsonl": (
        '{"run_name": "x", "batch_size": 16, "input_len": 1024, "output_len": 256, "prefill_latency": 0.8, '
        '"median_decode_latency": 0.018, "total_latency": 4.6}\n',
        16, {"clients": 16.0, "ttft_s mean": 0.8, "tpot_s p50": 0.018, "e2e_s mean": 4.6},
    ),
    "offline.jsonl": (
        '{"backend": "engine", "successful_requests": 10, "total_latency": 8.0, "total_input_tokens": 10240, '
        '"total_output_tokens": 2560, "output_throughput": 320.0, "last_gen_throughput": 900.0}\n',
        10, {"clients": 10.0, "output_tokens_per_s": 320.0},
    ),
    "profile_export_aiperf.json": (
        '{"schema_version": "1.4", "request_count": {"unit": "requests", "avg": 8}, '
        '"time_to_first_token": {"unit": "ms", "avg": 150.0}, "input_sequence_length": {"avg": 1024}, '
        '"output_sequence_length": {"avg": 256}, "input_config": {"benchmark": {"phases": [{"name": "warmup", '
        '"concurrency": 2}, {"name": "profiling", "type": "concurrency", "concurrency": 16}]}}}',
        8, {"clients": 16.0, "ttft_s mean": 0.15},
    ),
    "summary_lifecycle_metrics.json": (
        '{"load_summary": {"count": 9}, "successes": {"count": 8, "latency": {"request_latency": {"mean": 5.0}, '
        '"time_to_first_token": {"mean": 0.15, "p90": 0.2}}, "throughput": {"output_tokens_per_sec": 270.0}, '
        '"prompt_len": {"mean": 1024.0}, "output_len": {"mean": 256.0}}, "failures": {"count": 1}}',
        8, {"ttft_s mean": 0.15, "ttft_s p90": 0.2, "e2e_s mean": 5.0, "output_tokens_per_s": 270.0},
    ),
    "benchmark_summary.json": (
        '{"Number of concurrency": 16, "Request rate (req/s)": -1, "Total requests": 9, "Succeed requests": 8, '
        '"Average latency (s)": 5.0, "Average time to first token (s)": 0.15, '
        '"Average input tokens per request": 1024, '
        '"Average output tokens per request": 256.0}',
        8, {"clients": 16.0, "ttft_s mean": 0.15, "e2e_s mean": 5.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NEWER)
def test_summaries_of_further_tools_become_equal_requests(name, tmp_path):
    text, many, stated = NEWER[name]
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    found = read_trace(file)
    assert len(found) == many
    assert set(found.input_tokens) == {1024}
    assert set(found.output_tokens) == {256}
    assert found.stated == pytest.approx(stated)


def test_a_file_without_times_or_load_is_replayed_with_as_many_clients_as_little_s_law_gives(tmp_path):
    file = tmp_path / "summary_lifecycle_metrics.json"
    file.write_text(NEWER[file.name][0], encoding="utf-8")
    assert _in_flight(read_trace(file)) == 5
