"""Mapping of published rows: by what a row states, never by its name; refusals name what the source leaves out."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taicang.errors import NotModelled
from taicang.evidence.published import EPLB_EXPERTS, FILE, Published, completed, read, setups
from taicang.evidence.suite_published import predict, queue
from taicang.serve.saturated import drained, limited, most_sequences, offline, saturated

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "evidence"


def row(**changes: Any) -> Published:
    base = Published(
        id="x", source="trtllm_v1", system="HGX", chip="H200-SXM", count=8, model="Llama-3.3-70B", dtype="FP8",
        par={"tp": 2}, batch={}, seq={"isl": 1000, "osl": 1000}, metric="output_tokens_per_s_per_gpu", value=1.0,
        unit="tok/s/GPU", grade="A", role="validation", extra={}, notes="",
    )  # fmt: skip
    return replace(base, **changes)


def deepseek(**changes: Any) -> Published:
    base = row(
        source="sglang_x", chip="H100-SXM", model="DeepSeek-V3", count=72, par={"phase": "decode", "ep": 72},
        batch={"batch_per_gpu": 256}, seq={"isl": 2000, "osl": 100}, metric="output_tokens_per_s_per_node",
    )  # fmt: skip
    return replace(base, **changes)


def test_dense_layout_and_formats() -> None:
    setup = setups(row())[0]
    assert (setup.plan.tp, setup.plan.dp, setup.plan.quant.dense, setup.plan.quant.kv) == (2, 1, "fp8", "fp8")
    assert setup.machine.name == "hgx-h200"


@pytest.mark.parametrize(
    ("source", "model", "dtype", "chip", "kv"),
    [
        ("trtllm_new", "DeepSeek-R1-0528", "FP8", "H200-SXM", "fp8"),
        ("trtllm_new", "GPT-OSS-120B", "NVFP4", "GB200", "fp8"),
        ("trtllm_new", "GPT-OSS-20B", "FP8", "H100-SXM", "bf16"),
        ("trtllm_v1", "DeepSeek-R1-0528", "FP8", "H200-SXM", "bf16"),
    ],
)
def test_the_cache_is_as_the_scripts_of_tables_ask_for(source: str, model: str, dtype: str, chip: str, kv: str) -> None:
    found = setups(row(source=source, model=model, dtype=dtype, chip=chip))[0]
    assert found.plan.quant.kv == kv


def test_wide_expert_parallelism_spans_nodes_and_is_tried_with_and_without_overlap() -> None:
    found = setups(deepseek())
    assert {one.plan.microbatches for one in found} == {1, 2}
    plan = found[0].plan
    assert (plan.tp, plan.dp, plan.ep, plan.exchange) == (1, 72, 72, "all_to_all")
    assert plan.redundant >= EPLB_EXPERTS
    assert (256 + plan.redundant) % 72 == 0
    assert found[0].machine.ranks == 72
    stated = setups(deepseek(par={"phase": "decode", "ep": 72, "tbo": False}))
    assert [one.plan.microbatches for one in stated] == [1]


def test_balanced_routing_needs_no_redundancy_and_no_skew() -> None:
    setup = setups(deepseek(notes="derived from a trace (balanced routing)", par={"phase": "decode", "ep": 128}))[0]
    assert (setup.plan.redundant, setup.skew) == (0, 0.0)


def test_accepted_drafts_reproduce_the_stated_gain() -> None:
    setup = setups(deepseek(par={"phase": "decode", "ep": 16, "mtp": 2}, notes="accept 2.4-2.7"))[0]
    assert setup.plan.tokens_per_step == pytest.approx(2.55, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"par": {"phase": "pd-disagg"}}, "split"),
        ({"par": {}}, "laid out"),
        ({"seq": {}}, "lengths"),
        ({"chip": "TPU"}, "catalogue"),
        ({"dtype": "ternary"}, "format"),
        ({"metric": "joy"}, "metric"),
        ({"par": {"phase": "decode", "ep": 16, "mtp": "deeper"}, "model": "DeepSeek-V3"}, "unstated depth"),
    ],
)
def test_what_the_source_leaves_out_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(NotModelled, match=words):
        predict(row(**changes))


def test_doubtful_rows_stay_out_of_the_headline() -> None:
    assert row().suite == "published_trtllm"
    assert row(grade="C").suite == row(role="context").suite == "published_trtllm_context"


def test_units_follow_the_metric() -> None:
    each = predict(row())
    assert predict(row(metric="output_tokens_per_s_total")) == pytest.approx(8 * each)
    assert predict(row(metric="output_tokens_per_s_per_node")) == pytest.approx(8 * each)


def test_queues_shorten_with_length() -> None:
    sizes = [queue(*pair) for pair in ((128, 128), (1000, 1000), (2048, 2048), (20000, 2000))]
    assert sizes == sorted(sizes, reverse=True)


def test_longer_answers_hold_fewer_sequences_and_lower_limits_serve_fewer() -> None:
    setup = setups(row())[0]
    short = most_sequences(setup, context=1000.0, tokens=8192.0)
    assert short > most_sequences(setup, context=4000.0, tokens=8192.0) > 0
    loose = limited(setup, input_tokens=500.0, output_tokens=200.0, spread=0.0, tpot_s=0.2, ttft_s=2.0)
    tight = limited(setup, input_tokens=500.0, output_tokens=200.0, spread=0.0, tpot_s=0.02, ttft_s=0.5)
    free = offline(setup, input_tokens=500.0, output_tokens=200.0)
    assert loose is not None
    assert free is not None
    assert tight is None or tight.output_tokens_per_s <= loose.output_tokens_per_s
    assert limited(setup, input_tokens=500.0, output_tokens=200.0, spread=0.0, tpot_s=1e-6, ttft_s=1.0) is None


def test_candidates_at_once_give_the_numbers_of_each_alone() -> None:
    setup = setups(row())[0]
    sizes = np.array([1.0, 7.0, 64.0, 300.0])
    many = saturated(setup, sizes, input_tokens=700.0, output_tokens=300.0)
    for at, size in enumerate(sizes.tolist()):
        one = saturated(setup, size, input_tokens=700.0, output_tokens=300.0)
        assert np.asarray(many.output_tokens_per_s)[at] == one.output_tokens_per_s
        assert np.asarray(many.tpot_s)[at] == one.tpot_s


def test_a_drained_run_is_slower_than_its_steady_state() -> None:
    setup = setups(row())[0]
    full = saturated(setup, 200.0, input_tokens=300.0, output_tokens=300.0, spread=1.0)
    runs = [
        drained(setup, full, requests=n, input_tokens=300.0, output_tokens=300.0, longest=1024.0)
        for n in (400.0, 4000.0, 400000.0)
    ]
    assert runs == sorted(runs)
    assert runs[-1] <= full.output_tokens_per_s * (1 + 1e-9)


def test_spread_answers_make_steps_slower() -> None:
    setup = setups(row())[0]
    even = saturated(setup, 64.0, input_tokens=1000.0, output_tokens=1000.0)
    spread = saturated(setup, 64.0, input_tokens=1000.0, output_tokens=1000.0, spread=1.0)
    assert spread.tpot_s > even.tpot_s


def test_what_sources_say_beside_the_columns_completes_their_rows() -> None:
    simulated = completed(deepseek(par={"phase": "decode", "ep": 72, "mtp": "simulated 60%"}))
    plan = setups(simulated)[0].plan
    assert (plan.draft_tokens, plan.tokens_per_step) == (1, pytest.approx(1.6))
    for phase, ranks in (("prefill", 32), ("decode", 128)):
        profile = deepseek(source="infersim", par={"phase": phase}, batch={}, seq={}, metric="tokens_per_s_per_gpu")
        assert setups(completed(profile))[0].plan.ranks == ranks
        assert predict(completed(profile)) > 0.0
    mixed = deepseek(source="vllm_gb300", par={"phase": "mixed", "tp": 8}, seq={"isl": 2000, "osl": 128})
    with pytest.raises(NotModelled, match="how many requests"):
        predict(completed(mixed))


def test_a_source_with_a_door_tells_it_in_its_first_tokens() -> None:
    first = row(
        source="mooncake_kv", model="Qwen3-8B", dtype="BF16", chip="H800-SXM", par={"phase": "1P1D", "tp": 8},
        seq={"isl": 1024}, batch={"concurrency": 1}, metric="ttft", unit="ms",
    )  # fmt: skip
    assert predict(completed(first)) == pytest.approx(predict(first) + 0.04 + 1024 * 4e-6)
    assert setups(first)[0].stack.name == "vllm@0.11.2"


@pytest.mark.skipif(not (SHARED / FILE).is_file(), reason="the evidence folder is absent")
def test_every_row_is_read_and_most_are_answered() -> None:
    rows = [one for one in read(SHARED / FILE) if not one.context]
    answered = 0
    for one in rows[::7]:
        with contextlib.suppress(NotModelled):
            answered += predict(one) > 0
    assert len(rows) > 400
    assert answered / len(rows[::7]) >= 0.85
