"""Names, aliases and Hugging Face ids."""

import csv
import re
import time
from pathlib import Path

import pytest

from taicang.catalog.models import model, model_names, names, not_modelled, weights_of
from taicang.errors import NotModelled, UnknownName

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


@pytest.mark.parametrize(
    ("text", "name", "dtype"),
    [
        ("deepseek-ai/DeepSeek-R1", "deepseek-r1", "fp8_block"),
        ("DEEPSEEK-R1", "deepseek-r1", "fp8_block"),
        ("DeepSeek-R1-0528", "deepseek-r1", "fp8_block"),
        ("nvidia/DeepSeek-R1-NVFP4", "deepseek-r1", "nvfp4"),
        ("nvidia/DeepSeek-R1-0528-NVFP4", "deepseek-r1", "nvfp4"),
        ("Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b", "fp8_block"),
        ("Qwen3-235B-A22B-Instruct-2507-FP8", "qwen3-235b-a22b", "fp8_block"),
        ("nvidia/Qwen3-32B-NVFP4", "qwen3-32b", "nvfp4"),
        ("meta-llama/Llama-3.1-70B", "llama-3.1-70b", "bf16"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b", "bf16"),
        ("nvidia/Llama-3.1-8B-Instruct-FP8", "llama-3.1-8b", "fp8"),
        ("MiniMaxAI/MiniMax-M2.5", "minimax-m2.5", "fp8_block"),
        ("openai/gpt-oss-120b", "gpt-oss-120b", "mxfp4_w4a16"),
        ("GPT OSS 120B", "gpt-oss-120b", "mxfp4_w4a16"),
        ("Qwen/Qwen3.5-397B-A17B", "qwen3.5-397b-a17b", "bf16"),
        ("moonshotai/Kimi-K2.5", "kimi-k2.5", "w4a16_g32"),
        ("LLAMA3.1_405B", "llama-3.1-405b", "bf16"),
        ("Qwen3_30B_a3B (tokendrop)", "qwen3-30b-a3b", "bf16"),
        ("bigscience/bloom", "bloom-176b", "bf16"),
        ("MPT-7b", "mpt-7b", "bf16"),
    ],
)
def test_names_people_write(text: str, name: str, dtype: str) -> None:
    found = model(text)
    assert (found.name, found.dtype) == (name, dtype)


@pytest.mark.parametrize(
    "text", ["deepseek-r2", "someone/deepseek-r1", "llama", "qwen3-235b", "", "-fp8", "deepseek-r1-fp3"]
)
def test_no_guessing(text: str) -> None:
    with pytest.raises(UnknownName):
        model(text)


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean deepseek-r1"):
        model("deepsek-r1")


def test_refused_models_name_the_feature() -> None:
    for name in not_modelled():
        assert name in model_names()
        with pytest.raises(NotModelled, match=re.escape(name)):
            model(name)


def test_aliases_point_at_models_and_hide_none() -> None:
    for alias, target in names()["aliases"].items():
        assert alias == alias.lower()
        assert target.partition("@")[0] in model_names(), alias
        assert alias not in model_names() or alias == target


def test_format_suffixes_say_whether_experts_only() -> None:
    assert model("openai/gpt-oss-120b").attention_dtype == "bf16"
    assert not model("nvidia/DeepSeek-R1-NVFP4").attention_dtype


def test_loading_one_model_is_instant() -> None:
    model("llama-3.1-8b")  # names are read once per process
    start = time.process_time()
    model("phi-4-14b")
    assert time.process_time() - start < 0.1  # a hundredth on a machine of today


def test_every_model_of_the_evidence_resolves() -> None:
    if not (SHARED / "evidence").is_dir():
        pytest.skip("the shared folder with the evidence is absent")
    wanted = set(re.findall(r"model_id: (\S+)", (SHARED / "facts/ascend/step_times.yaml").read_text(encoding="utf-8")))
    for file, column in (
        ("served_e2e", "model_path"),
        ("published_serving", "model"),
        ("published_ascend", "model"),
        ("published_training", "model"),
    ):
        with (SHARED / "evidence" / f"{file}.csv").open(encoding="utf-8") as rows:
            wanted |= {row[column] for row in csv.DictReader(rows)}
    failed = {}
    for text in sorted(wanted):
        try:
            model(text)
        except (UnknownName, NotModelled) as error:
            failed[text] = type(error).__name__
    assert not failed


def test_published_weights_are_of_models_that_are_built_in():
    """And their ids lead back to the same model."""
    for name, text in names()["weights"].items():
        assert name in model_names()
        assert text.count("/") == 1
        assert model(text).name == name, text


def test_weights_are_as_the_user_names_them_or_as_published(tmp_path):
    llama = model("llama-3.1-8b")
    assert weights_of("llama-3.1-8b", llama) == "meta-llama/Meta-Llama-3.1-8B"
    assert weights_of("nvidia/Llama-3.1-8B-Instruct-FP8", llama) == "nvidia/Llama-3.1-8B-Instruct-FP8"
    assert weights_of("./mine/config.json", llama) is None
    (tmp_path / "config.json").write_text("{}")
    assert weights_of(str(tmp_path), llama) == str(tmp_path)
    assert weights_of("megatron-7.5b", model("megatron-7.5b")) is None
