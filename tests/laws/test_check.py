"""A benchmark is compared with the replay of its own load, and what it did without saying so is found again."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from taicang.app.main import cli
from taicang.errors import InvalidInput
from taicang.predict.check import check
from taicang.predict.replay import replay
from taicang.predict.system import System
from taicang.traffic.generate import fixed
from taicang.traffic.read import read_trace

MODEL, ON = "qwen3-8b", "hgx-h100"
SYSTEM = System(instances=1, stack="vllm@0.11.2")
"""An engine that finds what a chat template holds once: in turns, equal requests in lock step all wait for it."""


def benchmark(path, system, *, clients=16, requests=64, inputs=2000, outputs=100, form="vllm"):
    """What a benchmark would save of a run of ``system``."""
    table = replay(
        MODEL, ON, fixed(requests, inputs, outputs, spread=0.3, seed=5), system, clients=clients, seed=5
    ).table
    columns = {name: table[name].tolist() for name in ("input_tokens", "output_tokens", "ttft_s", "tpot_s", "e2e_s")}
    rows = list(zip(*columns.values(), strict=True))
    if form == "vllm":
        made = {
            "max_concurrency": clients,
            "input_lens": columns["input_tokens"],
            "output_lens": columns["output_tokens"],
            "ttfts": columns["ttft_s"],
            "itls": [[tpot] * (out - 1) for _, out, _, tpot, _ in rows],
        }
        path.write_text(json.dumps(made))
    elif form == "totals":
        made = {
            "max_concurrency": clients,
            "completed": requests,
            "total_input_tokens": sum(columns["input_tokens"]),
            "total_output_tokens": sum(columns["output_tokens"]),
            "mean_ttft_ms": 1e3 * float(np.mean(columns["ttft_s"])),
            "p99_tpot_ms": 1e3 * float(np.quantile(columns["tpot_s"], 0.99)),
            "mean_e2el_ms": 1e3 * float(np.mean(columns["e2e_s"])),
        }
        path.write_text(json.dumps(made))
    elif form == "aiperf":
        path.write_text(
            "\n".join(
                json.dumps(
                    {
                        "metrics": {
                            "input_sequence_length": {"value": i, "unit": "tokens"},
                            "output_sequence_length": {"value": o, "unit": "tokens"},
                            "time_to_first_token": {"value": 1e3 * ttft, "unit": "ms"},
                            "inter_token_latency": {"value": 1e3 * tpot, "unit": "ms"},
                            "request_latency": {"value": 1e3 * whole, "unit": "ms"},
                        }
                    }
                )
                for i, o, ttft, tpot, whole in rows
            )
        )
    elif form == "guidellm":
        good = [
            {
                "prompt_tokens": i,
                "output_tokens": o,
                "time_to_first_token_ms": 1e3 * ttft,
                "inter_token_latency_ms": 1e3 * tpot,
                "request_latency": whole,
            }
            for i, o, ttft, tpot, whole in rows
        ]
        path.write_text(json.dumps({"benchmarks": [{"requests": {"successful": good}}]}, indent=1))
    else:
        lines = ["prompt_tokens,completion_tokens,ttft_ms,latency_s"]
        lines += [f"{i},{o},{1e3 * ttft},{whole}" for i, o, ttft, _, whole in rows]
        path.write_text("\n".join(lines))
    return read_trace(path)


@pytest.mark.parametrize("form", ["vllm", "totals", "aiperf", "guidellm", "table"])
def test_a_run_of_the_same_set_up_is_measured_as_it_is_predicted(tmp_path, form):
    trace = benchmark(tmp_path / "bench", SYSTEM, form=form)
    found = check(MODEL, ON, trace, SYSTEM, clients=16, seed=5, causes=False)
    names = {each.metric for each in found.figures}
    assert {"ttft_s mean", "e2e_s mean"} <= names
    # requests are started in the order in which those of the benchmark ended: near, not equal
    loose = {"totals": 0.6}.get(form, 0.35)
    for each in found.figures:
        if each.metric.endswith("mean"):
            assert abs(np.log(each.predicted / each.measured)) < loose, each
    tpot = [each for each in found.figures if each.metric.startswith("tpot_s") and "9" not in each.metric]
    assert all(abs(each.error_ratio) < 0.05 for each in tpot)


PLANTED = {
    "--max-tokens 2048": {"tokens": 2048},
    "--kv fp8": {"kv": "fp8"},
    "4 ms late": {"faults": replace(SYSTEM.faults, jitter_s=4e-3)},
}


def gap(found):
    return np.mean([abs(np.log(each.predicted / each.measured)) for each in found.figures])


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(sorted(PLANTED)), st.integers(2000, 6000), st.integers(40, 150), st.integers(8, 24))
def test_what_a_benchmark_did_without_saying_so_is_among_the_nearest(tmp_path_factory, word, inputs, outputs, clients):
    path = tmp_path_factory.mktemp("bench") / "bench.json"
    did = replace(SYSTEM, **PLANTED[word])
    trace = benchmark(path, did, clients=clients, requests=5 * clients, inputs=inputs, outputs=outputs)
    found = check(MODEL, ON, trace, SYSTEM, clients=clients, seed=5)
    truth = check(MODEL, ON, trace, did, clients=clients, seed=5, causes=False)
    if gap(truth) > 0.5 * gap(found):  # chance alone makes as large a gap: nothing to tell it by
        return
    assert any(word in cause.change for cause in found.causes[:3]), [cause.change for cause in found.causes]
    assert all(0.0 <= cause.gap_ratio <= 0.9 for cause in found.causes)
    assert [cause.gap_ratio for cause in found.causes] == sorted(cause.gap_ratio for cause in found.causes)


@given(st.integers(1, 256), st.integers(1, 3000), st.integers(2, 900), st.floats(1e-3, 5.0), st.floats(1e-3, 0.2))
@settings(max_examples=20)
def test_a_document_of_guidellm_without_requests_has_its_metrics(
    tmp_path_factory, clients, inputs, outputs, ttft, tpot
):
    def of(mean):
        return {"successful": {"mean": mean, "median": mean, "percentiles": {"p90": mean, "p99": mean}, "count": 7}}

    metrics = {
        "prompt_token_count": of(inputs), "output_token_count": of(outputs), "time_to_first_token_ms": of(ttft * 1e3),
        "inter_token_latency_ms": of(tpot * 1e3), "request_latency": of(ttft + tpot * (outputs - 1)),
    }  # fmt: skip
    run = {
        "config": {"strategy": {"type_": "concurrent", "streams": clients}}, "metrics": metrics,
        "requests": {"successful": []},
    }  # fmt: skip
    path = tmp_path_factory.mktemp("guidellm") / "benchmarks.json"
    path.write_text(json.dumps({"benchmarks": [run]}))
    found = read_trace(path)
    assert found.input_tokens.tolist() == [inputs] * 7
    assert found.output_tokens.tolist() == [outputs] * 7
    assert found.stated["clients"] == clients
    for name, value in {"ttft_s": ttft, "tpot_s": tpot}.items():
        assert [found.stated[f"{name} {stat}"] for stat in ("mean", "p50", "p99")] == pytest.approx([value] * 3)


@pytest.mark.parametrize("column", ["concurrency", "Max Concurrency", "clients"])
def test_rows_that_sum_up_runs_are_no_requests(tmp_path, column):
    path = tmp_path / "runs.csv"
    path.write_text(f"model,{column},input_len,output_len,ttft_ms,tpot_ms\nm,4,100,50,80,9\n")
    with pytest.raises(InvalidInput, match="taicang score"):
        read_trace(path)
    assert read_trace(path, columns={"input": "input_len", "output": "output_len"}).input_tokens.size == 1


def test_lengths_alone_are_no_benchmark(tmp_path):
    path = tmp_path / "lengths.json"
    path.write_text(json.dumps({"input_lens": [10, 20], "output_lens": [3, 4]}))
    with pytest.raises(InvalidInput, match="nothing that was measured"):
        check(MODEL, ON, read_trace(path), SYSTEM)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"input_lens": [10], "output_lens": [3], "ttfts": ["x"], "itls": [[0.1]]}', "ttfts"),
        ('{"input_lens": [10], "output_lens": [3], "ttfts": [-1.0], "itls": [[0.1]]}', "latency"),
        ('{"input_lens": [10], "output_lens": [3], "ttfts": [0.1], "itls": [3]}', "itls"),
        ('{"completed": 1e11, "total_input_tokens": 1e11, "total_output_tokens": 1e11}', "more than"),
        ('{"completed": 0, "total_input_tokens": 5, "total_output_tokens": 5}', "at least 1"),
        ('{"completed": 8, "total_output_tokens": 5, "max_concurrency": 2}', "total_input_tokens"),
        ('{"completed": 8, "total_input_tokens": 5, "max_concurrency": 2}', "total_output_tokens"),
        *(
            (json.dumps({"completed": 8, "total_input_tokens": 80, "total_output_tokens": 80, key: said}), f"{key} is")
            for key in ("max_concurrency", "request_rate", "output_throughput", "mean_ttft_ms", "p99_tpot_ms")
            for said in (-1.0, "fast", [3])
        ),
        ('{"benchmarks": [3]}', "no requests"),
        ('{"input_lens": [10], "output_lens": [3], "input_lens": [11]}', "twice"),
        ('{"benchmarks": [{"requests": {"successful": [{"a": 1}]}}]}', "no requests|known format"),
    ],
)
def test_faults_are_named(tmp_path, text, says):
    path = tmp_path / "bench.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=says):
        read_trace(path)


def test_the_command_says_both_in_json(tmp_path):
    path = tmp_path / "bench.json"
    benchmark(path, SYSTEM)
    run = CliRunner().invoke(
        cli,
        ["check", str(path), MODEL, "--on", ON, "--stack", "vllm@0.11.0", "--no-causes", "--json"],
        standalone_mode=False,
    )
    assert run.exit_code == 0, run.output
    said = json.loads(run.stdout)
    assert said["clients"] == 16
    for each in said["figures"]:
        assert each["error_ratio"] == pytest.approx(each["predicted"] / each["measured"] - 1)
