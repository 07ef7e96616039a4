"""Conventions of the sources of served rows."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taicang import catalog
from taicang.catalog.models import model
from taicang.catalog.trust import UNVALIDATED, bands
from taicang.errors import InvalidInput, NotModelled, UnknownName
from taicang.evidence import fit_stacks, served
from taicang.evidence.served import layout, quantisation, read
from taicang.evidence.suite_served import _both, as_it_ran, job, predict, replayed, run_of
from taicang.search.choices import quantisation as quantisation_asked
from taicang.search.door import Run, forms_of, job_of
from taicang.serve.memory import MOST_RATIO, state_room
from taicang.traffic.generate import fixed

FILE = Path(__file__).resolve().parents[2].parent / "shared" / "evidence" / "served_e2e.csv"


@pytest.mark.parametrize(
    ("stated", "routed", "meant"),
    [
        ((8, 1, 8, 1), True, (8, 1, 8, 1)),  # tensor parallel throughout
        ((8, 1, 1, 8), True, (8, 1, 1, 8)),  # attention TP, experts spread
        ((1, 8, 1, 8), True, (1, 8, 1, 8)),  # attention DP, experts spread
        ((1, 64, 8, 8), True, (1, 8, 1, 8)),  # dp = tp x ep of the launcher
        ((1, 16, 4, 4), True, (1, 4, 1, 4)),
        ((4, 4, 1, 16), True, (1, 4, 1, 4)),  # ep = tp x dp of the launcher
        ((1, 4, 4, 1), True, (1, 4, 4, 1)),
        ((1, 0, 2, 1), True, (1, 2, 2, 1)),  # attention replicated over expert ranks
        ((4, 0, 0, 0), False, (4, 1, 4, 1)),  # no experts
    ],
)
def test_layout(stated, routed, meant):
    assert layout(*stated, routed) == meant


def placed(tp, dp, moe_tp, ep, **row):
    degrees = {"tp_size": tp, "attention_dp_size": dp, "moe_tp_size": moe_tp, "moe_ep_size": ep}
    run = {"backend_version": "", "gemm_quant_mode": "fp8", "moe_quant_mode": "fp8", "concurrency": "32"}
    return cells(**run | {name: str(value) for name, value in degrees.items()} | row)


@pytest.mark.parametrize("degree", [2, 4, 8])
def test_a_public_launcher_names_the_same_gpus_by_tp_and_by_ep(degree):
    assert layout(degree**2, 1, degree, degree, True, twice=True) == (degree, 1, 1, degree)
    assert layout(degree**2, 1, degree, degree, True) == (degree**2, 1, degree, degree)
    assert layout(degree, 1, degree, 1, True, twice=True) == (degree, 1, degree, 1)


@pytest.mark.parametrize("degree", [2, 4, 8])
def test_expert_parallel_rows_of_vllm_keep_attention_tensor_parallel_unless_a_script_says_otherwise(degree):
    row = placed(degree, degree, 1, degree**2, backend="vllm", model_path="MiniMaxAI/MiniMax-M2.5")
    plan = served._role(row, "", model("minimax-m2.5"), 1).plan
    assert (plan.tp, plan.dp, plan.moe_tp, plan.ep) == (degree, 1, 1, degree)
    whole = served._role(row | {"precision": "fp4", "concurrency": "512"}, "", model("minimax-m2.5"), 1).plan
    assert (whole.tp, whole.dp) == ((1, 2) if degree == 2 else (degree, 1))


def test_experts_of_gpt_oss_on_h200_are_spread_whatever_the_row_says():
    for stated in ((4, 1, 4, 1), (16, 1, 4, 4)):
        row = placed(*stated, backend="trtllm", model_path="openai/gpt-oss-120b", system="h200_sxm")
        plan = served._role(row, "", model("gpt-oss-120b"), 1).plan
        assert (plan.tp, plan.dp, plan.moe_tp, plan.ep) == (4, 1, 1, 4)


@pytest.mark.parametrize("stated", [(8, 1, 8, 1), (1, 64, 8, 8), (2, 2, 1, 4), (1, 32, 1, 32), (2, 0, 4, 1)])
def test_expert_ranks_equal_attention_ranks(stated):
    tp, dp, moe_tp, ep = layout(*stated, True)
    assert tp * dp == moe_tp * ep


def cells(**changes):
    base = {
        "model_path": "deepseek-ai/DeepSeek-R1", "source": "inferencex", "measured": "2026-02-06", "system": "b200_sxm",
        "precision": "fp8", "tp_size": "8.0", "mode": "agg",
    }  # fmt: skip
    return base | changes


def drafts(row, engine, dp, ep):
    return served.drafts(cells() | row | {"backend": engine}, model(row["model_path"]), dp, ep)


def test_drafts_follow_the_launch_scripts():
    assert drafts(cells(), "trtllm", 1, 1) == 3
    assert drafts(cells(), "trtllm", 8, 8) == 1
    assert drafts(cells(), "sglang", 1, 1) == 2
    assert drafts(cells(measured="2025-11-02"), "trtllm", 1, 1) == 0
    assert drafts(cells(source="nvidia-internal"), "trtllm", 1, 1) == 0
    assert drafts(cells(model_path="deepseek-ai/DeepSeek-V3"), "trtllm", 1, 1) == 0


def test_drafts_of_qwen35_follow_the_layout():
    row = cells(model_path="Qwen/Qwen3.5-397B-A17B", tp_size="4.0")
    assert drafts(row, "sglang", 1, 1) == 3
    assert drafts(row, "sglang", 1, 4) == 0
    assert drafts(row | {"tp_size": "8.0"}, "sglang", 1, 1) == 0
    assert drafts(row | {"precision": "fp4"}, "sglang", 1, 1) == 0


def forms(name, mode, engine, machine):
    return quantisation(model(name), mode, catalog.stack(engine), machine)


def test_formats_of_checkpoints():
    gpt = forms("gpt-oss-120b", "nvfp4", "vllm", "hgx-h100")
    assert (gpt.attention, gpt.experts) == ("bf16", "mxfp4_w4a16")
    assert forms("gpt-oss-120b", "nvfp4", "vllm", "hgx-b200").experts == "mxfp4_w4a8"
    latent = forms("deepseek-v3", "nvfp4", "tensorrt-llm", "hgx-b200")
    assert (latent.attention, latent.experts) == ("bf16", "nvfp4")
    assert forms("deepseek-v3", "fp8", "tensorrt-llm", "hgx-h200").experts == "fp8_block"
    assert forms("llama-3.1-70b", "fp8", "vllm", "hgx-h100").dense == "fp8"
    block = quantisation(model("qwen3.5-397b-a17b"), "fp8", catalog.stack("sglang"), "hgx-b200", "fp8_block")
    assert (block.dense, block.experts) == ("fp8_block", "fp8_block"), "scaled by blocks throughout"


def test_an_unknown_mode_is_refused_by_name_and_int4_is_what_the_product_picks():
    with pytest.raises(UnknownName, match="awq_int4_typo"):
        forms("qwen3-32b", "awq_int4_typo", "vllm", "hgx-h100")
    kimi = forms("kimi-k2.5", "int4_wo", "vllm", "hgx-h200")
    assert (kimi.attention, kimi.dense, kimi.experts) == ("bf16", "bf16", "w4a16_g32")


@pytest.mark.parametrize(("engine", "kv"), [("tensorrt-llm", "fp8"), ("vllm", "bf16"), ("sglang", "bf16")])
def test_rows_and_the_product_cache_in_the_format_of_the_stack(engine, kv):
    net, chip, stack = model("qwen3-32b"), catalog.chip("h200"), catalog.stack(engine)
    assert forms("qwen3-32b", "fp8", engine, "hgx-h200").kv == quantisation_asked("fp8", net, chip, stack).kv == kv
    assert quantisation_asked("bf16", net, chip, stack).kv == "bf16"


@pytest.mark.parametrize(
    ("name", "kv"),
    [("nvidia/Qwen3-32B-FP8", "fp8"), ("Qwen/Qwen3-32B-FP8", "bf16"), ("nvidia/Qwen3-32B-NVFP4", "fp8"),
     ("deepseek-r1", "fp8"), ("deepseek-v3.1", "bf16"), ("gpt-oss-20b", "bf16")],
)  # fmt: skip
def test_a_cache_is_quantised_where_the_checkpoint_or_a_script_says_so(name, kv):
    """TensorRT-LLM: its own checkpoints, by tensor and in nvfp4, state it; those of others, by blocks, do not."""
    asked = Run(model=name, on="hgx-b200", stack="tensorrt-llm@1.2.0")
    made = job_of(asked)
    assert forms_of(asked, made.model, made.machine, made.stack).kv == kv


def released(version, date):
    return served.release({"backend": "trtllm", "backend_version": version, "measured": date})


@pytest.mark.parametrize("tag", ["", "nightly-5b8c30", "mymodel-hopper", "gpt-oss-dev", "main"])
def test_a_row_without_a_readable_version_ran_the_release_at_its_date(tag):
    name, note = released(tag, "2025-09-10")
    assert name == "tensorrt-llm@1.0.0"
    assert name in note
    assert released(tag, "2020-01-01")[0] == "tensorrt-llm@0.20.0", "the oldest known"
    assert released("1.1.0rc2.post2", "2025-09-10") == ("tensorrt-llm@1.1.0rc2.post2", "")
    epochs = [catalog.stack(released(tag, f"2025-{month:02}-15")[0]).epoch for month in range(6, 13)]
    assert epochs == sorted(epochs)


def test_what_does_not_fit_is_refused_with_the_amount():
    row = cells(
        id="x", backend="vllm", backend_version="0.14.0", model_path="meta-llama/Llama-3.1-405B", system="h100_sxm",
        precision="", gemm_quant_mode="", tp_size="4", isl="3000", osl="600", concurrency="12", batch_size="12",
    )  # fmt: skip
    with pytest.raises(InvalidInput, match=r"does not fit .* GB short per rank"):
        predict(served.row_of(row))


def own(**more: str) -> served.Row:
    """A row of somebody's, with these columns besides."""
    plain = {"model": "qwen3-8b", "machine": "hgx-a100", "engine": "vllm", "version": "0.11.0", "tp": "1",
             "isl": "256", "osl": "16", "clients": "8", "ttft_ms": "50", "tpot_ms": "9"}  # fmt: skip
    return served.row_of(served.completed(plain | more, 1))


def test_a_row_says_how_many_prompts_its_clients_sent_how_uneven_and_with_how_many_drafts():
    row = own(num_prompts="20", spread="0.5", mtp="2")
    assert (row.settings.prompts, row.spread_ratio, row.decode.plan.draft_tokens) == (20, 0.5, 2)
    assert (own().settings.prompts, own().spread_ratio, own().decode.plan.draft_tokens) == (0, 0.0, 0)
    once, often = (replayed(own(clients="64", num_prompts=sent, version="0.11.2"))[0] for sent in ("64", "640"))
    assert once > 2 * often, "of prompts that all come at once, each waits for those before it"


@pytest.mark.parametrize("sent", ["1", "8", "15"])
def test_a_burst_is_left_to_the_simulator_and_nothing_measured_is_near_it(sent):
    row = own(num_prompts=sent)
    with pytest.raises(NotModelled, match="only replayed"):
        predict(row)
    assert replayed(row)[1] > 0
    assert all(each.verdict == UNVALIDATED for each in bands(run_of(row), ("tpot", "ttft"), replay=True).values())
    assert run_of(own(num_prompts="16")).use == "aggregated"


def test_an_engine_runs_no_more_sequences_at_a_time_than_it_does_by_default():
    default, wide = (own(machine=name, clients="1000", num_prompts="1000") for name in ("hgx-a100", "hgx-h100"))
    at_most = [_both(row, 1000, fixed(1000, 256, 16)).limits.sequences for row in (default, wide)]
    assert at_most == [256, 1024], "of small devices and of large ones"


@pytest.mark.parametrize("net", ["qwen3.5-27b", "qwen3.5-35b-a3b", "qwen3-next-80b-a3b"])
def test_a_replayed_row_holds_as_many_recurrent_states_as_the_engine_keeps(net):
    row = own(model=net, machine="hgx-h200", engine="sglang", version="0.5.11", tp="2",
              isl="4096", osl="512", clients="512", num_prompts="2048")  # fmt: skip
    setup = job(row, row.decode).setup(row.decode.plan)
    held = _both(row, 512, fixed(2048, 4096, 512)).limits.sequences
    assert held == min(state_room(setup, tokens=8192.0), 512) < 512


def test_rows_of_known_scripts_run_all_their_clients_and_others_what_engines_draft_with():
    drafting = {"model": "deepseek-r1", "machine": "hgx-h200", "engine": "sglang", "version": "0.5.9", "tp": "8",
                "precision": "fp8_block", "clients": "64", "mtp": "2"}  # fmt: skip
    assert _both(own(**drafting), 64, fixed(128, 256, 16)).limits.sequences == 48
    public = own(**drafting, source="inferencex", mode="agg")
    assert _both(public, 64, fixed(128, 256, 16)).limits.sequences == 64


def test_a_row_that_leaves_out_what_ran_is_refused_with_the_reason():
    row = cells(
        id="x", backend="vllm", backend_version="0.11.2", model_path="openai/gpt-oss-120b", system="h100_sxm",
        gemm_quant_mode="nvfp4", tp_size="4", isl="1024", osl="1024", concurrency="512", batch_size="512",
    )  # fmt: skip
    with pytest.raises(InvalidInput, match="512 clients"):
        predict(served.row_of(row))
    other = row | {"source": "nvidia-internal", "concurrency": "", "batch_size": "64"}
    with pytest.raises(InvalidInput, match="how many clients"):
        predict(served.row_of(other))
    assert predict(served.row_of(row | {"concurrency": "64", "batch_size": "64"})).tpot_s > 0


@pytest.mark.skipif(not FILE.is_file(), reason="no folder shared beside the repository")
def test_every_row_has_a_layout_that_fills_its_ranks():
    rows = read(FILE)
    assert len(rows) > 1800
    for row in rows:
        for role in (row.decode, row.prefill):
            if role is not None:
                plan = role.plan
                assert plan.tp * plan.dp == plan.ep * plan.moe_tp, row.id
        assert row.concurrency >= 1, row.id
        assert row.length_ratio in (0.9, 1.0)


@given(st.lists(st.floats(-0.5, 0.5), min_size=1, max_size=4), st.floats(1.0, 1.6))
def test_a_version_is_as_slow_as_all_its_models_say(medians, ratio):
    # of kernels whose time is all there is, the error falls as the ratio rises
    found = fit_stacks.moved(ratio, lambda model, r: medians[model] + math.log(r / ratio), range(len(medians)))
    if any(abs(each) < fit_stacks.APART for each in medians) or min(medians) * max(medians) < 0.0:
        assert found == ratio
    else:
        wanted = ratio * math.exp(-min(medians, key=abs))
        assert found == pytest.approx(min(max(wanted, fit_stacks.RATIO_LOW), fit_stacks.VERSION_HIGH))


@pytest.mark.parametrize("steps", [0, 9])
@pytest.mark.parametrize("held", [0, 28, 10_000])
def test_tokens_that_come_with_the_first_wait_for_each_other_and_leave_the_end_as_it_is(held, steps):
    stated = cells(
        id="x", backend="sglang", backend_version="0.5.9", system="h200_sxm", gemm_quant_mode="fp8_block", isl="1000",
        osl="100", concurrency="8", batch_size="8",
    )  # fmt: skip
    row = served.row_of(stated)
    plain, told = (
        predict(replace(row, settings=replace(row.settings, held_back=many, held_back_steps=each)))
        for many, each in ((0, 0), (held, steps))
    )
    gaps = row.output_tokens - 1
    assert float(told.ttft_s + told.tpot_s * gaps) == pytest.approx(float(plain.ttft_s + plain.tpot_s * gaps))
    waited = min(held + steps * row.decode.plan.tokens_per_step, gaps - 1) * float(plain.tpot_s)
    assert float(told.ttft_s) == pytest.approx(float(plain.ttft_s) + waited)


def test_a_row_that_ran_had_the_memory_it_took():
    """Qwen2.5-72B in 16 bits on two H100: 145 GB of 2 x 80. On one it cannot have run; a share that is stated stays."""
    tight = own(model="qwen2.5-72b", machine="hgx-h100", version="0.8.2", tp="2", quant="bf16", clients="1")
    with pytest.raises(InvalidInput, match="does not fit"):
        predict(tight)
    read_on = as_it_ran(tight)
    assert read_on.settings.memory_ratio == MOST_RATIO
    assert "98%" in read_on.note
    weights_s = 72.7e9 / 3.35e12
    assert weights_s < predict(read_on).tpot_s < 1.6 * weights_s
    for other in (own(), replace(tight, own=False), own(model="qwen2.5-72b", machine="hgx-h100", tp="1", quant="bf16")):
        assert as_it_ran(other) == other
    stated = replace(tight, settings=replace(tight.settings, memory_ratio=0.9))
    assert as_it_ran(stated) == stated


@pytest.mark.parametrize(
    ("net", "mode", "meant"),
    [("qwen3-14b", "fp8", "fp8_block"), ("qwen3-30b-a3b", "fp8", "fp8_block"), ("llama-3.1-8b", "fp8", "fp8"),
     ("deepseek-r1", "fp8", "fp8_block"), ("qwen3-14b", "fp8_static", "fp8"), ("qwen3-14b", "", "bf16")],
)  # fmt: skip
def test_fp8_in_a_row_of_somebody_is_the_checkpoint_that_the_owner_released(net, mode, meant):
    assert own(model=net, machine="hgx-h100", tp="8", quant=mode).decode.plan.quant.attention == meant
    if net == "qwen3-14b" and mode:
        known = own(model=net, machine="hgx-h100", tp="1", quant=mode, source="nvidia-internal")
        assert known.decode.plan.quant.attention == "fp8", "sources that say so scale whole tensors"


def test_a_row_of_chats_that_no_template_makes_has_none():
    read = {name: own(model=name, machine="hgx-h100").stack.template_s for name in ("qwen3-8b", "gpt-oss-20b")}
    assert read == {"qwen3-8b": 0.007, "gpt-oss-20b": 0.0}
