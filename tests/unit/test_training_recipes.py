"""What published training recipes leave to their repository."""

from __future__ import annotations

import pytest

from taicang.catalog.rules import settings
from taicang.evidence.systems import TRAINING
from taicang.evidence.training_rows import model_of, plan_of, row_of, stages


def recipe(model: str, chip: str, dtype: str, release: str = "") -> dict[str, object]:
    facts = {"model": model, "chip": chip, "dtype": dtype, "release": release, "task": ""}
    return settings(TRAINING, "recipes", facts)


def test_recomputed_parts() -> None:
    assert recipe("DeepSeekV3 (w/o MTP)", "H100-SXM", "FP8")["recompute_modules"] == ["up", "mlp"]
    assert recipe("DeepSeekV3", "GB300", "MXFP8", "26.06")["recompute_modules"] == []
    assert recipe("DeepSeekV3", "GB300", "MXFP8", "26.04")["recompute_modules"] == ["up"]
    assert recipe("LLAMA3_70B", "GB200", "FP8")["away_layers"] == 40
    assert "experts" in recipe("Nemotron_3_Nano", "H100-SXM", "FP8")["recompute_modules"]
    assert "recompute_modules" not in recipe("Llama-3.1-8B", "H100-SXM", "FP8")


@pytest.mark.parametrize(("chunks", "first", "last"), [(4, "E16", "13ML"), (16, "E4", "1ML"), (32, "E1", "0ML")])
def test_uneven_stages_hold_all_layers(chunks: int, first: str, last: str) -> None:
    parts = stages("DeepSeekV3", 61, chunks).split(",")
    assert (parts[0], parts[-1], len(parts)) == (first, last, chunks)
    assert sum(int(part.strip("EML")) for part in parts) == 61


def test_other_models_are_dealt_evenly() -> None:
    assert stages("Qwen3_235B_a22B", 94, 8) == ""
    assert stages("DeepSeekV3", 61, 1) == ""


@pytest.mark.parametrize("chip", ["GB200", "B200", "H100-SXM"])
def test_dropped_tokens_go_by_the_plain_dispatcher_and_into_graphs(chip: str) -> None:
    """A capacity makes every shape static: whole iterations are graphs where the scripts ask for it."""
    job = ("Qwen3_30B_a3B (tokendrop)", chip, "FP8")
    assert recipe(*job)["expert_dispatch"] == "plain"
    assert recipe(*job, "25.09")["captured"] == ([] if chip == "H100-SXM" else ["mixer", "router", "experts"])


@pytest.mark.parametrize(("pp", "stated", "each"), [(1, {}, 32), (8, {}, 1), (16, {}, 1), (8, {"mbs": 4}, 4)])
def test_torchtitan_s_pipelines_take_one_sequence_at_a_time(pp: int, stated: dict[str, int], each: int) -> None:
    par = {"fsdp": 8, "tp": 1, "pp": pp}
    raw = {
        "id": "own", "src": "torchtitan", "model": "llama-3-8b", "chip": "H100-SXM", "count": str(8 * pp), "par": par,
        "dtype": "BF16", "batch": {"local_batch": 32} | stated, "seq": {"seq_len": 8192}, "extra": {}, "sw": "",
        "metric": "tokens_per_s_per_gpu", "value": "100", "role": "validation", "notes": "",
    }  # fmt: skip
    row = row_of(raw)
    plan = plan_of(row, model_of(row))
    assert plan.micro_batch == each
    assert plan.microbatches == 32 // each
